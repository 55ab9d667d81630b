package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"claudepool/pool/claude"
)

// session is the conversation: in memory, and as a transcript in the real CLI's form and place. As with the real one, a
// rewind is in the transcript only once a later turn is.
type session struct {
	id, path string

	mu       sync.Mutex // guards messages and the file
	messages []entry
}

type entry struct {
	Type    string  `json:"type"`
	UUID    string  `json:"uuid"`
	Message message `json:"message"`
}

type message struct {
	Role    string          `json:"role"`
	Content json.RawMessage `json:"content"`
}

// openSession begins a session or goes on with one.
func openSession(id, resume, resumeAt string) (*session, error) {
	if resume != "" {
		id = resume
	}
	cwd, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	s := &session{id: id, path: claude.TranscriptPath(os.Getenv("HOME"), cwd, id)}
	if resume == "" {
		return s, nil
	}
	f, err := os.Open(s.path)
	if err != nil {
		//lint:ignore ST1005 the real one's words
		return nil, fmt.Errorf("No conversation found with session ID: %s", id)
	}
	defer f.Close()
	for decoder := json.NewDecoder(f); decoder.More(); {
		var e entry
		if err := decoder.Decode(&e); err != nil {
			return nil, err
		}
		if e.UUID == "" || e.Message.Role == "" {
			continue // bookkeeping
		}
		s.messages = append(s.messages, e)
		if e.UUID == resumeAt {
			break
		}
	}
	return s, nil
}

func (s *session) add(role, uuid string, content json.RawMessage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.messages = append(s.messages, entry{role, uuid, message{role, content}})
}

// conversation is what the API gets to see.
func (s *session) conversation() []message {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]message, len(s.messages))
	for i, e := range s.messages {
		all[i] = e.Message
	}
	return all
}

// rewind forgets a message and what follows it.
func (s *session) rewind(uuid string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, e := range s.messages {
		if e.UUID == uuid {
			s.messages = s.messages[:i]
			s.append(object{"type": "last-prompt", "rewound": true, "sessionId": s.id})
			return true
		}
	}
	return false
}

// save writes the transcript.
func (s *session) save() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := os.Remove(s.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		panic(err)
	}
	lines := make([]any, len(s.messages))
	for i, e := range s.messages {
		lines[i] = e
	}
	s.append(lines...)
}

// append writes lines of the transcript.
func (s *session) append(lines ...any) {
	var text bytes.Buffer
	for _, line := range lines {
		if err := json.NewEncoder(&text).Encode(line); err != nil {
			panic(err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(s.path), 0o700); err != nil {
		panic(err)
	}
	f, err := os.OpenFile(s.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		panic(err)
	}
	defer f.Close()
	if _, err := f.Write(text.Bytes()); err != nil {
		panic(err)
	}
}
