package claude

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
)

// HistoryMessage is a message of a conversation that took place elsewhere.
type HistoryMessage struct {
	Role    string          // user or assistant
	Content json.RawMessage // a JSON string or an array of content blocks
}

// Transcript is the file in which a CLI keeps a session, and from which it resumes it. Whoever runs in the workspace
// may have put links and special files in its place or on the way to it: none of them is followed out of the workspace,
// opened or written to.
type Transcript struct {
	Files     *os.Root // the workspace
	Home      string   // the CLI's home, relative to the workspace
	Temp      string   // its folder for temporary files, too
	Cwd       string   // its working directory, absolute and free of symbolic links, as the CLI resolves them
	SessionID string
	Inner     string // the id under which a CLI that runs has the session, if that is another: see InnerID
	Owner     int    // uid and gid of what is written; -1 for the writer's own
}

// TranscriptPath is where a CLI with this home and working directory keeps the transcript of a session.
func TranscriptPath(home, cwd, sessionID string) string {
	return filepath.Join(home, ".claude", "projects", projectSlug(cwd), sessionID+".jsonl")
}

// path is relative to the workspace.
func (t Transcript) path() string { return TranscriptPath(t.Home, t.Cwd, cmp.Or(t.Inner, t.SessionID)) }

// Exists reports whether there is something to resume. What can't be looked at is nothing.
func (t Transcript) Exists() bool {
	info, err := t.Files.Lstat(t.path())
	return err == nil && info.Mode().IsRegular() && info.Size() > 0
}

// CheckSize fails with ErrTooLarge if there are more than limit bytes.
func (t Transcript) CheckSize(limit int64) error {
	if info, err := t.Files.Lstat(t.path()); err == nil && info.Size() > limit {
		return ErrTooLarge
	}
	return nil
}

// Write makes a CLI started with Options.Resume go on from the history given: the API then sees these messages before
// the first turn's. It fails if the session has a transcript already.
//
// Of all ways to hand a history to the CLI this is the only one that costs no turn and no API call; what stands in a
// line is the least that the CLI asks for.
//
// It returns the uuid of the last entry.
func (t Transcript) Write(history []HistoryMessage, now time.Time) (string, error) {
	last := ""
	err := t.create(func(f *os.File) (err error) {
		last, err = t.writeTo(f, history, now)
		return err
	})
	return last, err
}

// create makes the file and the folders to it, and gives them to their owner.
func (t Transcript) create(write func(*os.File) error) error {
	if err := t.makeFolder(); err != nil {
		return err
	}
	f, err := t.Files.OpenFile(t.path(), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = f.Chown(t.Owner, t.Owner)
	if err == nil {
		err = write(f)
	}
	return errors.Join(err, f.Close())
}

func (t Transcript) writeTo(f *os.File, history []HistoryMessage, now time.Time) (string, error) {
	last := ""
	w := bufio.NewWriter(f)
	for _, m := range history {
		e, err := transcriptEntry(m)
		if err != nil {
			return "", err
		}
		w.Write(t.follow(&e, last, now))
		last = e.UUID
	}
	return last, w.Flush()
}

// WriteNothing makes a CLI that resumes begin a conversation: the API sees nothing of what is written. The CLI doesn't
// resume an empty file, nor one that has nothing but what it notes about a session.
func (t Transcript) WriteNothing(now time.Time) error {
	return t.create(func(f *os.File) error {
		beginning := entry{Type: "system", Subtype: "informational", Level: "info", Content: "a conversation begins",
			IsMeta: true}
		_, err := f.Write(t.follow(&beginning, "", now))
		return err
	})
}

// follow makes an entry the next one behind the last, of which the uuid is given, and returns its line.
func (t Transcript) follow(e *entry, last string, now time.Time) []byte {
	if last != "" {
		e.ParentUUID = &last
	}
	e.UUID, e.SessionID, e.Cwd = uuid.NewString(), t.SessionID, t.Cwd
	e.UserType, e.Version = "external", Version
	e.Timestamp = now.UTC().Format("2006-01-02T15:04:05.000Z")
	return line(e)
}

func (t Transcript) makeFolder() error { return t.makeFolders(filepath.Dir(t.path())) }

// makeFolders makes what is missing on the way to a folder, one by one as each has to be given to its owner.
func (t Transcript) makeFolders(folder string) error {
	path := ""
	for name := range strings.SplitSeq(folder, string(filepath.Separator)) {
		path = filepath.Join(path, name)
		err := t.Files.Mkdir(path, 0o700)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err == nil {
			err = t.Files.Lchown(path, t.Owner, t.Owner)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// ErrTooLarge says that a transcript is larger than its reader takes.
var ErrTooLarge = errors.New("claude: transcript too large")

// Read returns the transcript as far as it is written in whole lines, of at most limit bytes.
func (t Transcript) Read(limit int64) ([]byte, error) {
	if t.Inner != "" {
		return t.readInner(limit)
	}
	f, err := t.Files.OpenFile(t.path(), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("claude: transcript: %w", fs.ErrInvalid)
	}
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if int64(len(text)) > limit {
		return nil, ErrTooLarge
	}
	return text[:bytes.LastIndexByte(text, '\n')+1], err
}

// Restore puts what Read returned in the place of the transcript there is, if any. It may have been another
// workspace's.
func (t Transcript) Restore(text []byte) error {
	if err := t.Remove(); err != nil {
		return err
	}
	return t.create(func(f *os.File) error {
		_, err := f.Write(text)
		return err
	})
}

// Remove makes the CLI forget the session. Whatever else is in the transcript's place, or in that of a folder to it,
// goes too.
func (t Transcript) Remove() error {
	path := ""
	for name := range strings.SplitSeq(t.path(), string(filepath.Separator)) {
		path = filepath.Join(path, name)
		info, err := t.Files.Lstat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case info.IsDir() && path != t.path():
			continue
		}
		return t.clear(path)
	}
	return nil
}

// clear leaves nothing at the path. A folder there may be deep: it goes with the workspace.
func (t Transcript) clear(path string) error {
	if _, err := t.Files.Lstat(path); errors.Is(err, fs.ErrNotExist) || t.Files.Remove(path) == nil {
		return nil
	}
	return t.Files.Rename(path, path+"."+uuid.NewString())
}

type entry struct {
	ParentUUID  *string `json:"parentUuid"`
	IsSidechain bool    `json:"isSidechain"`
	Type        string  `json:"type"`
	Message     any     `json:"message,omitempty"`
	Attachment  any     `json:"attachment,omitempty"`
	Subtype     string  `json:"subtype,omitempty"` // this and the next three are a system entry's
	Content     string  `json:"content,omitempty"`
	Level       string  `json:"level,omitempty"`
	IsMeta      bool    `json:"isMeta,omitempty"`
	UUID        string  `json:"uuid"`
	Timestamp   string  `json:"timestamp"`
	UserType    string  `json:"userType"`
	Cwd         string  `json:"cwd"`
	SessionID   string  `json:"sessionId"`
	Version     string  `json:"version"`
}

type assistantMessage struct {
	ID         string          `json:"id"`
	Type       string          `json:"type"`
	Role       string          `json:"role"`
	Model      string          `json:"model"`
	Content    json.RawMessage `json:"content"`
	StopReason string          `json:"stop_reason"`
	Usage      struct {
		InputTokens  int `json:"input_tokens"`
		OutputTokens int `json:"output_tokens"`
	} `json:"usage"`
}

func transcriptEntry(m HistoryMessage) (entry, error) {
	e := entry{Type: m.Role}
	switch m.Role {
	case "user":
		e.Message = message{Role: "user", Content: m.Content}
	case "assistant":
		content, err := asBlocks(m.Content)
		if err != nil {
			return e, err
		}
		e.Message = assistantMessage{ID: "msg_" + uuid.NewString(), Type: "message", Role: "assistant", Model: "claude",
			Content: content, StopReason: "end_turn"}
	default:
		return e, fmt.Errorf("claude: no role %q in a transcript", m.Role)
	}
	return e, nil
}

// asBlocks turns a plain string into the array of blocks that an assistant's entry needs.
func asBlocks(content json.RawMessage) (json.RawMessage, error) {
	var text string
	if json.Unmarshal(content, &text) != nil {
		return content, nil
	}
	type block struct {
		Type string `json:"type"`
		Text string `json:"text"`
	}
	return json.Marshal([]block{{"text", text}})
}
