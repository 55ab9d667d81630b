package function

import (
	"cmp"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strconv"

	"github.com/google/uuid"

	"claudepool/infra/logging"
	"claudepool/pool/api"
)

// maxOptions is how long the body of a request may be that takes only options, in bytes.
const maxOptions = 4 << 10

// list tells of the user's conversations.
func (f *Front) list(w http.ResponseWriter, r *http.Request) {
	f.askOwner(w, r, api.PathConversations, func(q *api.ConversationQuery) error { return q.SetPart(r.URL.Query()) })
}

// conversation tells of one of the user's conversations, or deletes it.
func (f *Front) conversation(w http.ResponseWriter, r *http.Request) {
	path := api.PathOne
	if r.Method == http.MethodDelete {
		path = api.PathDelete
	}
	f.askOwner(w, r, path, func(*api.ConversationQuery) error { return nil })
}

// said tells what was said in one of the user's conversations.
func (f *Front) said(w http.ResponseWriter, r *http.Request) {
	f.askOwner(w, r, api.PathSaid, func(q *api.ConversationQuery) error { return q.SetPart(r.URL.Query()) })
}

// fork makes another conversation of one of the user's.
func (f *Front) fork(w http.ResponseWriter, r *http.Request) {
	f.askOwner(w, r, api.PathForks, func(q *api.ConversationQuery) error { return f.readFork(w, r, q) })
}

// readFork reads the id that a fork is to have from the body, if there is one.
func (f *Front) readFork(w http.ResponseWriter, r *http.Request, q *api.ConversationQuery) (err error) {
	q.ForkID = uuid.NewString()
	if r.ContentLength == 0 {
		return nil
	}
	body, err := f.readBody(r.Context(), w, r, f.calls.intake)
	if err != nil {
		return err
	}
	defer body.Release()
	if len(body.Bytes) > maxOptions {
		return api.TooLarge("the body is larger than %d bytes", maxOptions)
	}
	asked, err := api.DecodeFork(body.Bytes)
	q.ForkID = cmp.Or(asked, q.ForkID)
	return err
}

// askOwner has the owner of the user, whose credential is in the headers, answer at a path. A user whom nobody owns
// gets an owner for as long as that takes: the instance that has the user's files is the only one to know of all.
func (f *Front) askOwner(w http.ResponseWriter, r *http.Request, path string,
	fill func(*api.ConversationQuery) error) {
	id := logging.RequestID(r.Header)
	ctx, cut := context.WithCancelCause(logging.WithRequest(r.Context(), id, r.Header))
	defer cut(nil)
	defer f.cutBeforeDeadline(ctx, cut)()
	w.Header().Set("Cache-Control", "no-store")
	q, err := f.readQuery(w, r, fill)
	if err != nil {
		f.refuse(w, r, id, orCause(ctx, err))
		return
	}
	text, _ := json.Marshal(q) // #nosec G117 -- it goes to where it is used, encrypted; strings and numbers can't fail
	c := call{path: path, id: id, once: logging.RequestID(nil), trace: r.Header, body: newBody(text)}
	c.user = (&api.Request{APIKey: q.APIKey, OAuth: q.OAuth}).UserID()
	answer := f.served(ctx, w, c)
	switch {
	case answer == nil:
		return
	case path == api.PathDelete:
		passDeletion(w, id, answer)
	default:
		f.passJSON(w, id, answer)
	}
	_ = answer.Body.Close()
}

// readQuery reads what is asked of the user's conversations, but for the request's body.
func (f *Front) readQuery(w http.ResponseWriter, r *http.Request, fill func(*api.ConversationQuery) error) (
	*api.ConversationQuery, error) {
	if err := f.precheck(w, r); err != nil {
		return nil, err
	}
	req, err := api.CredentialIn(r.Header)
	if err != nil {
		return nil, err
	}
	if err := f.opts.Limits.user(r.Context(), w.Header(), req.UserID()); err != nil {
		return nil, err
	}
	q := &api.ConversationQuery{APIKey: req.APIKey, OAuth: req.OAuth}
	if id := r.PathValue("id"); id != "" {
		if q.SessionID, err = api.CheckSession(id); err != nil {
			return nil, err
		}
	}
	return q, fill(q)
}

// passDeletion hands an instance's answer to the deletion of one conversation on, of which there may have been none.
func passDeletion(w http.ResponseWriter, id string, answer *http.Response) {
	var deletion api.Deletion
	err := json.NewDecoder(io.LimitReader(answer.Body, maxErrorBody)).Decode(&deletion)
	switch {
	case err != nil:
		api.WriteError(w, id, api.BadGateway("the instance gave no answer"))
	case deletion.Deleted == 0:
		api.WriteError(w, id, api.NotFound("no such conversation"))
	default:
		api.SetRequestID(w.Header(), id)
		writeJSON(w, deletion)
	}
}

// passJSON hands an instance's answer on that is no stream, in parts, as it comes.
func (f *Front) passJSON(w http.ResponseWriter, id string, answer *http.Response) {
	if answer.Header.Get("Content-Type") != "application/json" || answer.ContentLength < 0 {
		api.WriteError(w, id, api.BadGateway("the instance gave no answer"))
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.FormatInt(answer.ContentLength, 10)) // so that nobody takes a part for the whole
	h.Set("X-Content-Type-Options", "nosniff")
	api.SetRequestID(h, id)
	control, part := http.NewResponseController(w), make([]byte, copyBuffer)
	for {
		n, err := answer.Body.Read(part)
		f.limitWrite(control)
		if _, failed := w.Write(part[:n]); err != nil || failed != nil { // #nosec G705 -- JSON of our own instance
			return
		}
	}
}
