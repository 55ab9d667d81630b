package claude

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"syscall"

	"github.com/tidwall/gjson"
)

// Cut takes out of the transcript what stands behind the last entry of the given uuid; where there is none, as the CLI was
// killed before it had written it, what stands behind the last answer of the main conversation.
//
// It is how a turn is undone that has replaced what was said before by a summary: the CLI itself can't go back behind that,
// neither on a live process nor by resuming at an earlier entry.
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

// Texts is what was said in the main conversation as far as the transcript, of which at most limit bytes are read, tells.
// Tools aren't in it.
func (t Transcript) Texts(limit int64) ([]HistoryMessage, error) {
	text, err := t.Read(limit)
	if err != nil {
		return nil, err
	}
	var said []HistoryMessage
	for line := range strings.Lines(string(text)) {
		e := gjson.Parse(line)
		if !gjson.Valid(line) || e.Get("isSidechain").Bool() || e.Get("isMeta").Bool() || e.Get("isApiErrorMessage").Bool() {
			continue
		}
		role := e.Get("type").Str
		switch words := textIn(e.Get("message.content")); {
		case e.Get("subtype").Str == "compact_boundary":
			said = nil // the summary comes next
		case role != "user" && role != "assistant" || words == "":
		default:
			content, _ := json.Marshal(words) // a string
			said = append(said, HistoryMessage{Role: role, Content: content})
		}
	}
	return said, nil
}

// textIn is what a message's content says, without what the CLI has put into it.
func textIn(content gjson.Result) string {
	var texts []string
	add := func(text string) {
		for _, own := range []string{"<system-reminder>", "<command-name>", "<local-command-"} {
			if strings.HasPrefix(text, own) {
				return
			}
		}
		if strings.TrimSpace(text) != "" {
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
