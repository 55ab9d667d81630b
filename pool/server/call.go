package server

import (
	"context"
	"errors"
	"net/http"
	"time"

	"claudepool/infra/hop"
	"claudepool/infra/logging"
	"claudepool/pool/api"
)

// passingShare is which part of what turns' bodies may take those of calls may take besides.
const passingShare = 4

// errElsewhere says that another instance may be asked: the call has not been answered here.
var errElsewhere = errors.New("server: not here")

// passThrough has the API answer a call that needs no process, for whoever it is: no user is claimed for it. Nothing of
// it stays here. That it has come isn't remembered either, as that would push out what is remembered of turns: to make
// such a call twice does no harm.
func (s *Server) passThrough(w http.ResponseWriter, r *http.Request) {
	claims, err := s.opts.Keys.Verify(r.Header.Get(api.HeaderHop), time.Now())
	if err != nil {
		s.refuse(w, err)
		return
	}
	id := logging.RequestID(r.Header)
	ctx, cancel := context.WithCancel(logging.WithRequest(r.Context(), id, r.Header))
	defer cancel()
	defer context.AfterFunc(s.ending, cancel)()
	answer, err := s.pass(ctx, claims, r)
	switch {
	case errors.Is(err, errElsewhere), err != nil && s.ending.Err() != nil:
		api.WriteError(w, id, api.Unavailable(time.Second, "this instance doesn't answer the call"))
		return
	case err != nil:
		w.Header().Set(api.HeaderPassed, "1")
		api.WriteError(w, id, s.public(ctx, err))
		return
	}
	w.Header().Set(api.HeaderPassed, "1")
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(answer) // #nosec G705 -- JSON
}

func (s *Server) pass(ctx context.Context, claims hop.Claims, r *http.Request) ([]byte, error) {
	if claims.Instance != s.opts.Instance || claims.Path != r.URL.Path {
		return nil, errElsewhere
	}
	call, err := api.NewCall(r)
	if err != nil {
		return nil, err
	}
	if call.Credential.UserID() != claims.User {
		return nil, errElsewhere
	}
	body, err := s.passing.Read(r.Body, r.ContentLength, nil)
	if err != nil {
		return nil, err
	}
	defer body.Release()
	call.Body = body.Bytes
	return s.backend.Pass(ctx, call)
}
