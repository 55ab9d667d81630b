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

	"github.com/google/uuid"

	"claudepool/pool/claude"
)

// session is the conversation: in memory, and as a transcript in the real CLI's form and place. As with the real one, a
// rewind is in the transcript only once a later turn is.
type session struct {
	id, path string

	mu       sync.Mutex // guards the following and the file
	messages []entry
	// What came from a file that was named is not written again: it has to be in the transcript already.
	before []byte // what was there
	given  int    // how many messages came
}

type entry struct {
	Type      string  `json:"type"`
	UUID      string  `json:"uuid"`
	SessionID string  `json:"sessionId"`
	Message   message `json:"message"`
}

type message struct {
	Role    string          `json:"role"`
	Content json.RawMessage `json:"content"`
}

// openSession begins a session or goes on with one.
func openSession(id, resume, resumeAt string) (*session, error) {
	if filepath.Ext(resume) == ".jsonl" {
		return openFile(resume, resumeAt)
	}
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
	all, _, err := readEntries(s.path)
	if err != nil {
		return nil, notFound(id)
	}
	s.take(all, resumeAt)
	return s, nil
}

// openFile goes on with the session whose transcript is in the file, and with the session's own one in the file's
// folder. The real one reads the file twice by its name, which may be a FIFO's at first: the session is that of the
// first time, the conversation that of the second.
func openFile(path, resumeAt string) (*session, error) {
	_, id, err := readEntries(path)
	if err != nil || id == "" {
		return nil, notFound(uuid.NewString())
	}
	s := &session{id: id, path: filepath.Join(filepath.Dir(path), id+".jsonl")}
	all, _, err := readEntries(path)
	if err != nil {
		return nil, err
	}
	s.take(all, resumeAt)
	s.given = len(s.messages)
	s.before, err = os.ReadFile(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return s, err
}

func notFound(id string) error {
	//lint:ignore ST1005 the real one's words
	return fmt.Errorf("No conversation found with session ID: %s", id)
}

// readEntries returns the messages of a transcript, and the session that it is of as what isn't bookkeeping says.
func readEntries(path string) (all []entry, id string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, "", err
	}
	defer f.Close()
	for decoder := json.NewDecoder(f); decoder.More(); {
		var e entry
		if err := decoder.Decode(&e); err != nil {
			return nil, "", err
		}
		if e.UUID == "" {
			continue
		}
		id = e.SessionID
		if e.Message.Role != "" {
			all = append(all, e)
		}
	}
	return all, id, nil
}

// take takes up messages to the one with the uuid, or all where there is none.
func (s *session) take(all []entry, last string) {
	for _, e := range all {
		s.messages = append(s.messages, e)
		if e.UUID == last {
			return
		}
	}
}

func (s *session) add(role, uuid string, content json.RawMessage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.messages = append(s.messages, entry{role, uuid, s.id, message{role, content}})
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
			if i < s.given { // the real one leaves that to who reads it
				s.given, s.before = 0, nil
			}
			s.append(nil, object{"type": "last-prompt", "rewound": true, "sessionId": s.id})
			return true
		}
	}
	return false
}

// startOver begins another session, as the real one does: with two messages of its own.
func (s *session) startOver(command string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.id = uuid.NewString()
	s.path = filepath.Join(filepath.Dir(s.path), s.id+".jsonl")
	s.before, s.given = nil, 0
	s.messages = []entry{
		{"user", uuid.NewString(), s.id, message{"user", json.RawMessage(`"<local-command-caveat>"`)}},
		{"user", command, s.id, message{"user", json.RawMessage(`"<command-name>/clear</command-name>"`)}},
	}
	s.append(nil, s.messages[0], s.messages[1])
}

// save writes the transcript.
func (s *session) save() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := os.Remove(s.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		panic(err)
	}
	lines := make([]any, 0, len(s.messages))
	for _, e := range s.messages[s.given:] {
		lines = append(lines, e)
	}
	s.append(s.before, lines...)
}

// append writes a text and lines of the transcript.
func (s *session) append(before []byte, lines ...any) {
	text := bytes.NewBuffer(bytes.Clone(before))
	for _, line := range lines {
		if err := json.NewEncoder(text).Encode(line); err != nil {
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
