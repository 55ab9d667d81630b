package server

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"claudepool/infra/hop"
	"claudepool/pool/api"
	"claudepool/pool/channel"
)

// follow hands over what a conversation's channel has to tell, from behind the last event that the reader has, until
// the reader goes or the user is given up and nothing of the channel is under way. Nothing is run, and no process is
// held.
func (s *Server) follow(ctx context.Context, claims hop.Claims, r *http.Request, out *stream) error {
	req, release, err := s.read(r, claims, api.DecodeChannel)
	if err != nil {
		return err
	}
	release() // of a credential
	after, err := parseNumber(r.Header.Get(api.HeaderLastEvent))
	if err != nil {
		return err
	}
	t, leaving, leave, err := s.attend(ctx, req, claims.Outage)
	if err != nil {
		return err
	}
	defer leave()
	reader, err := t.read(after)
	switch {
	case errors.Is(err, channel.ErrManyReaders):
		return errManyOfUser
	case err != nil:
		return errDeleted
	}
	defer reader.Close()
	defer context.AfterFunc(leaving, func() {
		t.whenIdle(func() {
			reader.Dismiss()
			out.limitWrite()
		})
	})()
	defer out.close() // which has neither a receipt nor an end mark
	out.openPlain()
	if err := out.copyFrom(ctx, reader); !errors.Is(err, channel.ErrDismissed) && !errors.Is(err, channel.ErrEnded) {
		return err
	}
	return nil
}

// parseNumber reads the number of an event; 0 is before the first one.
func parseNumber(id string) (int64, error) {
	if id == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(id, 10, 64)
	if err != nil || n < 0 || n >= 1<<53 {
		return 0, api.Invalid("%s: must be the number of an event", api.HeaderLastEvent)
	}
	return n, nil
}

// openPlain sends the headers of a stream that is no turn's, and something behind them: there are proxies that keep
// headers back until more comes, and clients that wait for them.
func (s *stream) openPlain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.openLocked()
	_ = s.writeLocked([]byte(api.Ping))
}

// copyFrom writes what the reader is given until it is given nothing more.
func (s *stream) copyFrom(ctx context.Context, r *channel.Reader) error {
	for {
		frames, err := r.Next(ctx, s.pingInterval)
		if err != nil {
			return err
		}
		if len(frames) > 0 {
			if err := s.writeFrames(frames); err != nil {
				return err
			}
		}
	}
}

// writeFrames writes events as they are, and flushes once.
func (s *stream) writeFrames(frames [][]byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return http.ErrHandlerTimeout
	}
	for _, f := range frames {
		if _, err := s.w.Write(f); err != nil { // #nosec G705 -- an event stream, not HTML
			return err
		}
	}
	s.last = time.Now()
	return s.control.Flush()
}
