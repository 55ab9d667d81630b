package server

import (
	"context"
	"crypto/sha256"
	"errors"
	"net/http"
	"sync"
	"time"

	"claudepool/infra/hop"
	"claudepool/pool/api"
	"claudepool/pool/seal"
)

var (
	errKeyUnclear  = notStarted{api.Unavailable(time.Second, "whether this idempotency-key was used can't be told now")}
	errAnswersLeft = api.Unavailable(time.Second, "not all could be deleted now, try again")
)

// digestOf is that of a request with a key: of its body, and of what the front has translated that from.
func digestOf(header http.Header, body []byte) (digest [32]byte) {
	h := sha256.New()
	h.Write([]byte(header.Get(api.HeaderOriginal) + "\n"))
	h.Write(body)
	return [32]byte(h.Sum(nil))
}

// keyed is a request with an idempotency key.
type keyed struct {
	id      keyID
	request [32]byte // its digest
	user    *api.Request
	release func() // of its body
	implied bool   // the client has sent no key
}

// serveKeyed runs the request's turn if its key is new, and goes on with it whether the client stays or not, as that is
// expected to come again. Else it hands over the stream of the turn that has the key.
func (s *Server) serveKeyed(ctx context.Context, claims hop.Claims, r keyed, out *stream) error {
	letGo, err := s.backend.Hold(ctx, r.user, claims.Outage)
	if err != nil {
		r.release()
		return err
	}
	letGo = sync.OnceFunc(letGo)
	defer letGo()
	taken, isNew, err := s.takeKey(ctx, r)
	if err != nil {
		r.release()
		return err
	}
	if !isNew {
		r.release()
		letGo() // or a client that reads slowly would keep the user from being given up
		return s.join(ctx, claims, taken, out)
	}
	defer s.keys.giveBack(taken)
	taken.implied = r.implied // before its turn begins
	turn, err := s.acquire(ctx, claims, r.user, r.release, out)
	if err != nil {
		return err
	}
	letGo() // the turn holds the user
	return s.finish(ctx, turn, r.user.UserDigest(), r.release, out, taken)
}

// takeKey takes the key, or returns the one that the same request has taken before, once its turn has begun.
func (s *Server) takeKey(ctx context.Context, r keyed) (taken *key, isNew bool, err error) {
	for {
		h, err := s.holder(ctx, r.user)
		if err != nil {
			return nil, false, err
		}
		taken, isNew, err = s.keys.take(h, r.id, r.request)
		if err != nil || isNew {
			return taken, isNew, err
		}
		select {
		case <-taken.settled:
		case <-ctx.Done():
			s.keys.stopWaiting(taken)
			return nil, false, context.Cause(ctx)
		}
		if taken.begun {
			return taken, false, nil
		}
	}
}

// holder returns the user of a request, who is held, with the keys that an owner before has left if they aren't here.
func (s *Server) holder(ctx context.Context, req *api.Request) (holder, error) {
	h := holder{id: req.UserID(), digest: req.UserDigest()}
	from := s.opts.Handover
	if from == nil {
		return h, nil
	}
	if h.claim = from.Claim(h.id); h.claim == "" {
		return h, s.opts.NotOwner
	}
	h.box = seal.Derive(req.Token())
	if s.keys.knows(h.id, h.claim) {
		return h, nil
	}
	if err := s.opening.Acquire(ctx, 1); err != nil { // what is left takes memory until it is taken over
		return h, context.Cause(ctx)
	}
	defer s.opening.Release(1)
	if s.keys.knows(h.id, h.claim) {
		return h, nil
	}
	left, err := from.Left(ctx, h.id)
	if err == nil {
		h.left, err = h.open(left, s.tuning.replayBytes)
	}
	if err == nil {
		err = s.keys.inherit(h)
		h.left = nil
	}
	if err != nil {
		s.opts.Logger.WarnContext(ctx, "idempotency keys can't be taken over", "user", api.ShortUser(h.id), "error", err)
		return h, errKeyUnclear
	}
	return h, nil
}

// join hands over the stream of a turn from its beginning. Nothing is run.
func (s *Server) join(ctx context.Context, claims hop.Claims, one *key, out *stream) error {
	turn, me, done, err := s.keys.read(one)
	if errors.Is(err, errManyReaders) {
		return err
	}
	s.dedup.begin(claims.RequestID)
	out.markBegun()
	if err != nil {
		return err
	}
	defer done()
	return turn.copyTo(ctx, me, out)
}

// forgetAnswers drops the kept answers of a user who is held, here and where they may have been left for this instance.
func (s *Server) forgetAnswers(ctx context.Context, req *api.Request) error {
	s.replays.forget(req.UserDigest())
	h, err := s.holder(ctx, req)
	switch {
	case errors.Is(err, errKeyUnclear):
		return errAnswersLeft
	case err == nil:
		err = s.keys.dropAnswers(h)
	}
	if err == nil && s.opts.Handover != nil && s.opts.Handover.DropLeft(ctx, h.id) != nil {
		err = errAnswersLeft
	}
	return err
}
