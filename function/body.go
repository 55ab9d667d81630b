package function

import (
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"time"

	"claudepool/pool/api"
)

// read takes the whole body and checks that it is a request.
func (f *Front) read(ctx context.Context, w http.ResponseWriter, r *http.Request, decode decoder) (*api.Body,
	*api.Request, error) {
	body, err := f.readBody(ctx, w, r, f.intake)
	if err != nil {
		return nil, nil, err
	}
	req, err := body.Decode(ctx, decode)
	return body, req, err
}

// isJSON reports whether a Content-Type is that of JSON.
func isJSON(contentType string) bool {
	const wanted = "application/json"
	if contentType == wanted { // as usual: there is nothing to parse
		return true
	}
	kind, _, _ := mime.ParseMediaType(contentType)
	return kind == wanted
}

// readBody takes the whole body, which has to be JSON by its header.
func (f *Front) readBody(ctx context.Context, w http.ResponseWriter, r *http.Request, intake *api.Intake) (
	*api.Body, error) {
	if !isJSON(r.Header.Get("Content-Type")) {
		return nil, api.Invalid("Content-Type must be application/json")
	}
	if encoding := r.Header.Get("Content-Encoding"); encoding != "" && encoding != "identity" {
		return nil, api.Unsupported("Content-Encoding: only identity is accepted")
	}
	control, past, last := http.NewResponseController(w), time.Unix(1, 0), time.Now().Add(f.clientTimeout)
	defer context.AfterFunc(ctx, func() { _ = control.SetReadDeadline(past) })()
	body, err := intake.Read(r.Body, r.ContentLength, func(t time.Time) {
		if t.After(last) {
			t = last
		}
		_ = control.SetReadDeadline(t)
		if ctx.Err() != nil { // asked afterwards, so that a later time never replaces that of the request's end
			_ = control.SetReadDeadline(past)
		}
	})
	if err != nil {
		return nil, err
	}
	_ = control.SetReadDeadline(time.Time{}) // not every ResponseWriter has one
	return body, nil
}

// restTime is how long a client whose request is refused may take to send the rest of it.
const restTime = 5 * time.Second

// refuse answers with an error, and then takes a bounded rest of the body, if not too many do so: there are clients
// that read nothing before they have written all, and see but a broken connection otherwise.
func (f *Front) refuse(w http.ResponseWriter, r *http.Request, id string, err error) {
	var refused *api.Error
	if !errors.As(err, &refused) || refused.Status == http.StatusTooManyRequests || !f.rests.TryAcquire(1) {
		api.WriteError(w, id, err) // a client that asks again soon may learn it then
		return
	}
	defer f.rests.Release(1)
	control := http.NewResponseController(w)
	_ = control.EnableFullDuplex() // not every ResponseWriter has these
	w.Header().Set("Connection", "close")
	api.WriteError(w, id, err)
	_ = control.Flush()
	_ = control.SetReadDeadline(time.Now().Add(restTime))
	_, _ = io.CopyN(io.Discard, r.Body, 2*f.opts.MaxBodyBytes)
}
