package server

import (
	"context"
	"net/http"

	"claudepool/infra/hop"
	"claudepool/pool/api"
)

// serve runs one request's turn.
func (s *Server) serve(ctx context.Context, claims hop.Claims, r *http.Request, out *stream) error {
	sent := r.Header.Get(api.HeaderIdempotencyKey)
	var digest [32]byte
	isImplied := false
	req, release, err := s.read(r, claims, func(body []byte) (*api.Request, error) {
		req, err := api.Decode(body)
		isImplied = sent == "" && err == nil && req.HasResults()
		if sent != "" || isImplied {
			digest = digestOf(r.Header, body)
		}
		if isImplied { // clients that lose the connection send them again, without a key
			sent = "results " + string(digest[:])
		}
		return req, err
	})
	if err != nil {
		return err
	}
	req.ServiceKey = r.Header.Get(api.HeaderServiceKey)
	out.openAfter(s.tuning.queueGrace)
	if sent != "" {
		return s.serveKeyed(ctx, claims, keyed{newKeyID(sent), digest, req, release, isImplied}, out)
	}
	turn, err := s.acquire(ctx, claims, req, release, out)
	if err != nil {
		return err
	}
	if req.OnDisconnect == api.Finish {
		return s.finish(ctx, turn, req.UserDigest(), release, out, nil)
	}
	defer release()
	defer turn.Release()
	err = turn.Run(ctx, func() { out.open(turn.Receipt()) }, out.sendLines)
	out.update(turn.Receipt())
	return err
}

// acquire gets the turn, which begins with that. On an error the body is released.
func (s *Server) acquire(ctx context.Context, claims hop.Claims, req *api.Request, release func(), out *stream) (Turn,
	error) {
	turn, err := s.backend.Acquire(ctx, req, claims.Outage)
	if err != nil {
		release()
		return nil, err
	}
	s.dedup.begin(claims.RequestID)
	out.markBegun()
	return turn, nil
}

// read reads and decodes what the hop's user asks for. What has been read counts as held until it is released.
func (s *Server) read(r *http.Request, claims hop.Claims, decode func([]byte) (*api.Request, error)) (*api.Request,
	func(), error) {
	body, err := s.intake.Read(r.Body, r.ContentLength, nil)
	if err != nil {
		return nil, nil, err
	}
	req, err := body.Decode(r.Context(), decode)
	body.Bytes = nil // which the request has nothing of
	if err == nil && req.UserID() != claims.User {
		err = errOtherUser
	}
	if err != nil {
		body.Release()
		return nil, nil, err
	}
	return req, body.Release, nil
}

// finish runs the turn to its end whether the client stays or not, and hands its stream over while it does. It may be
// that of an idempotency key.
func (s *Server) finish(ctx context.Context, turn Turn, user [32]byte, release func(), out *stream, of *key) error {
	r := newReplay(user, s.tuning.replayBytes)
	r.isShared = of != nil
	r.away.after, r.away.tell = s.tuning.awayAfter, turn.SetAway
	me, err := r.attach(0) // before anybody can know of it: who takes it up displaces this reader, never the reverse
	if err != nil {
		return err // never: nothing has come yet
	}
	s.replays.add(r)
	if of != nil {
		s.keys.begin(of, r)
	}
	s.finishing.Go(func() {
		defer release()
		defer turn.Release()
		err := turn.Run(context.WithoutCancel(ctx), func() { r.begin(turn.Receipt()) }, r.add)
		r.update(turn.Receipt())
		if of == nil {
			s.replays.finish(r, err)
			return
		}
		if err != nil {
			err = s.public(context.WithoutCancel(ctx), err) // it is the turn's, whether the client is there or not
		}
		s.replays.finish(r, err)
		s.keys.end(of, err != nil)
	})
	return r.copyTo(ctx, me, out)
}

// resume goes on with the stream of a turn whose client lost its connection. Nothing is run.
func (s *Server) resume(ctx context.Context, claims hop.Claims, r *http.Request, out *stream) error {
	req, release, err := s.read(r, claims, api.DecodeCredential)
	if err != nil {
		return err
	}
	release() // of a credential
	s.dedup.begin(claims.RequestID)
	id, after, err := api.ParseEventID(r.Header.Get(api.HeaderLastEvent))
	if err != nil {
		return err
	}
	kept := s.replays.find(id, req.UserDigest())
	if kept == nil {
		return api.NotFound("no such turn is kept here")
	}
	me, err := kept.attach(after)
	if err != nil {
		return err
	}
	return kept.copyTo(ctx, me, out)
}

// giveAnswer passes on what a client answers to what its turn has asked. To do so twice does no harm, so that the hop
// isn't remembered: a front may send it again.
func (s *Server) giveAnswer(ctx context.Context, claims hop.Claims, r *http.Request, out *stream) error {
	var answer *api.Answer
	_, release, err := s.read(r, claims, func(body []byte) (*api.Request, error) {
		var err error
		if answer, err = api.DecodeAnswer(body); err != nil {
			return nil, err
		}
		return answer.Request, nil
	})
	if err != nil {
		return err
	}
	defer release()
	if err := s.backend.Answer(ctx, answer, claims.Outage); err != nil {
		return err
	}
	out.answer(struct{}{})
	return nil
}

// delete deletes what the user wants to be forgotten. To do so twice does no harm.
func (s *Server) delete(ctx context.Context, claims hop.Claims, r *http.Request, out *stream) error {
	req, release, err := s.read(r, claims, api.DecodeDeletion)
	if err != nil {
		return err
	}
	defer release()
	letGo, err := s.backend.Hold(ctx, req, claims.Outage)
	if err != nil {
		return err
	}
	defer letGo()
	s.dedup.begin(claims.RequestID)   // not before: a front may send again what came at the wrong time
	restore := s.channels.forget(req) // before: what waits there would begin it anew
	deleted, err := s.backend.Delete(ctx, req, claims.Outage)
	if err != nil {
		restore()
		return err
	}
	if err := s.forgetAnswers(ctx, req); err != nil {
		return err
	}
	out.answer(api.Deletion{Deleted: deleted})
	return nil
}
