package server

import (
	"context"
	"net/http"
	"slices"

	"claudepool/infra/hop"
	"claudepool/pool/api"
)

// query reads what is asked of a user's conversations. That it has come isn't remembered, as that would push out what
// is remembered of turns: to ask twice does no harm.
func (s *Server) query(r *http.Request, claims hop.Claims) (req *api.Request, q *api.ConversationQuery, err error) {
	req, release, err := s.read(r, claims, func(body []byte) (req *api.Request, err error) {
		req, q, err = api.DecodeQuery(body)
		return req, err
	})
	if err != nil {
		return nil, nil, err
	}
	release() // of a few hundred bytes
	return req, q, nil
}

// list tells of a part of the user's conversations.
func (s *Server) list(ctx context.Context, claims hop.Claims, r *http.Request, out *stream) error {
	req, q, err := s.query(r, claims)
	if err != nil {
		return err
	}
	all, err := s.backend.List(ctx, req, claims.Outage)
	if err != nil {
		return err
	}
	out.answer(q.Part(all))
	return nil
}

// one tells of one of the user's conversations.
func (s *Server) one(ctx context.Context, claims hop.Claims, r *http.Request, out *stream) error {
	req, _, err := s.query(r, claims)
	if err != nil {
		return err
	}
	all, err := s.backend.List(ctx, req, claims.Outage)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(all, func(c api.Conversation) bool { return c.ID == req.SessionID })
	if i < 0 {
		return api.NotFound("no such conversation")
	}
	out.answer(all[i])
	return nil
}

// said tells what was said in a conversation.
func (s *Server) said(ctx context.Context, claims hop.Claims, r *http.Request, out *stream) error {
	req, q, err := s.query(r, claims)
	if err != nil {
		return err
	}
	said, err := s.backend.Said(ctx, req, claims.Outage, q.Before, q.Limit)
	if err != nil {
		return err
	}
	out.answer(said)
	return nil
}

// fork makes a conversation of another.
func (s *Server) fork(ctx context.Context, claims hop.Claims, r *http.Request, out *stream) error {
	req, q, err := s.query(r, claims)
	if err != nil {
		return err
	}
	if err := s.backend.Fork(ctx, req, claims.Outage, q.ForkID); err != nil {
		return err
	}
	s.dedup.begin(claims.RequestID)
	out.answer(api.Fork{ID: q.ForkID, ForkedFrom: req.SessionID})
	return nil
}
