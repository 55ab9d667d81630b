package claude

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/tidwall/gjson"
)

// Cut takes out of the transcript what stands behind the last entry of the given uuid; where there is none, as the CLI
// was killed before it had written it, what stands behind the last answer of the main conversation.
//
// It is how a turn is undone that has replaced what was said before by a summary: the CLI itself can't go back behind
// that, neither on a live process nor by resuming at an earlier entry.
func (t Transcript) Cut(mark string) error {
	f, err := t.Files.OpenFile(t.path(), os.O_RDWR|syscall.O_NONBLOCK, 0)
	if err != nil {
		return t.Remove() // it is none, or a link
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return errors.Join(err, t.Remove())
	}
	var at, marked, answered int64
	err = eachLine(f, func(line []byte) {
		at += int64(len(line))
		e := gjson.GetManyBytes(line, "uuid", "type", "isSidechain", "isApiErrorMessage")
		if e[0].Str == mark {
			marked = at
		}
		if e[1].Str == "assistant" && !e[2].Bool() && !e[3].Bool() {
			answered = at
		}
	})
	if err != nil {
		return err
	}
	if marked == 0 {
		marked = answered
	}
	return f.Truncate(marked)
}

// maxTurnsReached says that a turn has ended on purpose without an answer. The API sees nothing of it.
var maxTurnsReached = json.RawMessage(`{"type":"max_turns_reached","maxTurns":1,"turnCount":2,"exitCommitted":false}`)

// Conclude makes a transcript that doesn't end with an answer one that a process can go on from as it is: after an
// empty answer, or where what a tool said is all that there is. The CLI takes what it ends with for an interrupted
// turn, and puts an answer behind it that nobody gave.
func (t Transcript) Conclude(now time.Time) error {
	f, err := t.Files.OpenFile(t.path(), os.O_RDWR|os.O_APPEND|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil // it is none, or a link: the CLI sees to it
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return err
	}
	last, answered := "", true
	if err := eachLine(f, func(line []byte) {
		e := gjson.GetManyBytes(line, "uuid", "type", "isSidechain", "message.content")
		if e[0].Str == "" || e[2].Bool() {
			return // bookkeeping, or a subagent's
		}
		last = e[0].Str
		switch e[1].Str {
		case "user":
			answered = false
		case "assistant":
			answered = answered || isVisible(e[3])
		}
	}); err != nil || answered {
		return err
	}
	row := t.follow(&entry{Type: "attachment", Attachment: maxTurnsReached}, last, now)
	_, err = f.Write(append([]byte{'\n'}, row...)) // the last line may be half of one
	return err
}

// isVisible reports whether an assistant's content is more than thinking and white space.
func isVisible(content gjson.Result) (visible bool) {
	content.ForEach(func(_, block gjson.Result) bool {
		switch block.Get("type").Str {
		case "thinking", "redacted_thinking":
		case "text":
			visible = strings.TrimSpace(block.Get("text").Str) != ""
		default:
			visible = true
		}
		return !visible
	})
	return visible
}

// eachLine calls f for each whole line, with its end, up to one that is longer than MaxLine.
func eachLine(r io.Reader, f func(line []byte)) error {
	lines := bufio.NewReaderSize(r, 64<<10)
	var line []byte
	for {
		part, err := lines.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case errors.Is(err, io.EOF), len(line) > MaxLine:
			return nil
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case err != nil:
			return err
		}
		f(line)
		line = line[:0]
	}
}

// SetAside puts the transcript where the CLI doesn't look for it, until PutBack puts it back or DropAside removes it.
func (t Transcript) SetAside() error {
	if !t.Exists() {
		return t.Remove()
	}
	return t.Files.Rename(t.path(), t.aside())
}

func (t Transcript) aside() string { return t.path() + ".aside" }

// PutBack undoes SetAside, if that has put something aside.
func (t Transcript) PutBack() error {
	if info, err := t.Files.Lstat(t.aside()); err != nil || !info.Mode().IsRegular() {
		return nil
	}
	if err := t.Remove(); err != nil {
		return err
	}
	return t.Files.Rename(t.aside(), t.path())
}

// DropAside removes what SetAside has put aside, if anything.
func (t Transcript) DropAside() error {
	if err := t.Files.Remove(t.aside()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// Texts is what was said in the main conversation as far as the transcript, of which at most limit bytes are read,
// tells. Tools aren't in it, and what was said in turns that were rewound: the next entry then has an earlier one's for
// its parent.
func (t Transcript) Texts(limit int64) ([]HistoryMessage, error) {
	text, err := t.Read(limit)
	if err != nil {
		return nil, err
	}
	entries := spokenIn(text, "")
	for i, e := range slices.Backward(entries) {
		if e.summary {
			entries = entries[i:]
			break
		}
	}
	var said []HistoryMessage
	for _, e := range entries {
		if text := textIn(e.content); text != "" {
			content, _ := json.Marshal(text) // a string
			said = append(said, HistoryMessage{Role: e.role, Content: content})
		}
	}
	return said, nil
}

// textIn is what a message's content says, without what the CLI has put into it.
func textIn(content gjson.Result) string {
	var texts []string
	add := func(text string) {
		if isSaid(text) {
			texts = append(texts, text)
		}
	}
	if content.Type == gjson.String {
		add(content.Str)
	}
	if content.IsArray() {
		content.ForEach(func(_, block gjson.Result) bool {
			if block.Get("type").Str == "text" {
				add(block.Get("text").Str)
			}
			return true
		})
	}
	return strings.Join(texts, "\n\n")
}
