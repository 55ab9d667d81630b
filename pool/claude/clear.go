package claude

import (
	"bytes"
	"errors"
	"io/fs"

	"github.com/tidwall/gjson"
)

// Clear is the line that has a CLI begin another session. It answers with a result, as to a message.
func Clear(uuid string) []byte {
	return []byte(`{"type":"user","uuid":"` + uuid +
		`","session_id":"","parent_tool_use_id":null,"message":{"role":"user","content":"/clear"}}` + "\n")
}

// SessionOf is the id of the session that a line is of.
func SessionOf(l *Line) string { return gjson.GetBytes(l.Raw, "session_id").String() }

// Leftover is the uuid of what the CLI puts into a session that a Clear has begun, before the command itself; empty if
// it isn't written yet. The API would see it before the first message. Nobody but the CLI may have been in the
// workspace yet.
func (t Transcript) Leftover() (uuid string, err error) {
	err = t.eachWritten(func(line []byte) {
		if e := gjson.GetManyBytes(line, "type", "uuid"); uuid == "" && e[0].Str == "user" {
			uuid = e[1].Str
		}
	})
	return uuid, err
}

// Rewinds counts the rewinds at the end of the transcript. The CLI writes to it with a delay, of about 100 ms, so only
// after the last one is it safe to remove the transcript of a conversation that was rewound to nothing: nothing more
// will be written before the next turn. Nobody but the CLI may have been in the workspace yet.
func (t Transcript) Rewinds() (n int, err error) {
	err = t.eachWritten(func(line []byte) {
		if n++; !gjson.GetBytes(line, "rewound").Bool() {
			n = 0
		}
	})
	return n, err
}

// eachWritten calls f with each line of the transcript, of which there may be none.
func (t Transcript) eachWritten(f func(line []byte)) error {
	text, err := t.Files.ReadFile(t.path())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for line := range bytes.Lines(text) {
		f(line)
	}
	return err
}
