package pool

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"claudepool/infra/archive"
	"claudepool/pool/api"
	"claudepool/pool/claude"
)

// Fork makes a conversation under the id, which has to be free, in which the same has been said as in that of the
// request's session: with its transcript and settings, but without its files. Like a turn it waits in line for the
// conversation. It asks for no process. The error is as Acquire's.
func (p *Pool) Fork(ctx context.Context, req *api.Request, outage bool, id string) error {
	late := api.Unavailable(busyRetry, "a turn is still running, try again")
	ctx, cancel := context.WithTimeoutCause(ctx, forgetWait, late)
	defer cancel()
	u, leave, err := p.visit(ctx, req, outage)
	if err != nil {
		return err
	}
	defer leave()
	if err := u.recallAll(ctx, req); err != nil {
		return err
	}
	held, err := u.holdAll(ctx, req.SessionID)
	if err != nil {
		return err
	}
	defer yieldAll(held)
	if len(held) == 0 {
		return errNoSuchConversation
	}
	done, err := u.beginRead(ctx)
	if err != nil {
		return err
	}
	defer done()
	return held[0].forkAs(ctx, id)
}

var errIDTaken = api.Invalid("session_id: there is a conversation under this id")

// forkAs makes a conversation of what was said in this one.
func (from *slot) forkAs(ctx context.Context, id string) error {
	if err := from.mayFork(id); err != nil {
		return err
	}
	if err := from.learn(ctx); err != nil {
		return err
	}
	text, err := from.goodText(ctx)
	if err != nil {
		return err
	}
	s := from.user.newConversation(id, uuid.NewString(), from.digests)
	s.title, s.created, s.named = from.title, s.lastUsed, true
	s.settings, s.goodTurn, s.answered, s.dirty = from.settings, from.goodTurn, true, true
	if err := s.putTranscript(bytes.ReplaceAll(text, sessionField(from.id), sessionField(id))); err != nil {
		return errors.Join(err, s.giveUpFork())
	}
	if from.user.begin(s, false) != s.conversation {
		return errors.Join(errIDTaken, s.giveUpFork())
	}
	from.pool.spaces.mark(from.user)
	if held, err := s.conversation.hold(ctx); err == nil { // else it is saved after its first turn
		held.save()
		held.yield()
	}
	return nil
}

// mayFork refuses what can't be forked now.
func (from *slot) mayFork(id string) error {
	u := from.user
	switch {
	case u.isUnproven():
		return api.Invalid("the API has not accepted this credential yet")
	case from.goodTurn == "":
		return api.Invalid("nothing has been said in this conversation yet")
	case u.lookUp(id) != nil:
		return errIDTaken
	case u.pool.diskFull.Load():
		return api.Overloaded(u.pool.tuning.quotaInterval, "this instance's disk is full")
	}
	return u.full()
}

// sessionField is what each entry of a session's transcript has.
func sessionField(id string) []byte { return fmt.Appendf(nil, `"sessionId":%q`, id) }

// goodText is the transcript with the last good turn.
func (from *slot) goodText(ctx context.Context) (text []byte, err error) {
	if from.mirror.fetch {
		body, err := from.load(ctx)
		if err == nil {
			text, err = body.Transcript()
		}
		if errors.Is(err, archive.ErrPermanent) {
			return nil, api.Invalid("what was said in this conversation is lost")
		}
		return text, err
	}
	if from.dir == nil {
		return nil, api.Invalid("nothing has been said in this conversation yet")
	}
	text, err = from.written(ctx, from.dir, manifestOf(from))
	switch {
	case errors.Is(err, claude.ErrTooLarge):
		return nil, api.Invalid("more was said in this conversation than can be forked")
	case errors.Is(err, errNotWritten):
		return nil, api.Unavailable(busyRetry, "what was said in this conversation can't be read now, try again")
	}
	return text, err
}

// putTranscript gives the conversation a workspace with nothing but the transcript. Of a user who has as many
// conversations as may be, the files of the one that was used longest ago give way.
func (s *slot) putTranscript(text []byte) error {
	for s.user.atConversationLimit() {
		if !s.pool.evict(s.user.takeLongestUnused()) {
			return api.RateLimited(busyRetry, "all %d conversations that this user may have are in use",
				s.pool.opts.MaxConversations)
		}
	}
	if err := s.makeWorkspace(); err != nil {
		return err
	}
	return s.dir.WithTranscript(s.id, func(t claude.Transcript) error { return t.Restore(text) })
}

// giveUpFork removes what there is of a conversation that isn't one of its user's.
func (s *slot) giveUpFork() error {
	err := s.conversation.removeWorkspace()
	s.setDir(nil)
	return err
}
