package function

import (
	"io"
	"net/http"
	"time"
)

// limitWrite bounds how long the client may take to read some of what is written next.
func (f *Front) limitWrite(control *http.ResponseController) {
	_ = control.SetWriteDeadline(time.Now().Add(f.clientTimeout))
	if f.ending.Err() != nil { // asked afterwards, so that the longer time never replaces that of the front's end
		_ = control.SetWriteDeadline(time.Now().Add(lastWrite))
	}
}

// writeAll writes a text whose first part the client has the time for that is set. It gets the same for each further
// part.
func (f *Front) writeAll(w io.Writer, control *http.ResponseController, text []byte) error {
	part := text[:min(len(text), copyBuffer)]
	_, err := w.Write(part)
	for err == nil && len(part) < len(text) {
		text = text[len(part):]
		part = text[:min(len(text), copyBuffer)]
		f.limitWrite(control)
		_, err = w.Write(part)
	}
	return err
}

// unlimitWrite lets whatever is written next wait: the turn comes first.
func (f *Front) unlimitWrite(control *http.ResponseController) {
	_ = control.SetWriteDeadline(time.Time{})
	if f.ending.Err() != nil {
		_ = control.SetWriteDeadline(time.Now().Add(lastWrite))
	}
}
