package pool

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/tidwall/gjson"

	"claudepool/infra/archive"
	"claudepool/pool/api"
	"claudepool/pool/claude"
	"claudepool/pool/cli"
)

// start starts a process for the conversation and returns when it has answered its first control request. No state of
// the transcript keeps it from that: where the CLI can't go on from it, less and less is asked of it.
func (s *slot) start(ctx context.Context, req *api.Request) (*cli.Process, error) {
	over, err := s.pool.starter.turnstile.pass(ctx)
	if err != nil {
		return nil, err
	}
	defer over()
	opts, err := s.prepare(ctx, req)
	if err != nil {
		return nil, err
	}
	return s.startAnew(ctx, opts, req)
}

// startAnew starts a process with these options, or with less to resume.
func (s *slot) startAnew(ctx context.Context, opts claude.Options, req *api.Request) (*cli.Process, error) {
	proc, err := s.launch(ctx, opts, req)
	if opts.Resume && s.diedAtStart(err) {
		return s.startWithLess(ctx, opts, req)
	}
	return proc, err
}

// diedAtStart reports whether a process ended by itself before it was ready, and says so.
func (s *slot) diedAtStart(err error) bool {
	if !errors.Is(err, cli.ErrDied) || s.stuck {
		return false
	}
	s.pool.opts.Logger.Warn("a conversation can't be resumed", "user", api.ShortUser(s.user.id),
		"from", s.origin, "error", err)
	return true
}

// startWithLess starts a process that goes on from less and less. Where none can be started at all it isn't for the
// transcript, which is put back.
func (s *slot) startWithLess(ctx context.Context, opts claude.Options, req *api.Request) (proc *cli.Process,
	err error) {
	goodTurn := s.goodTurn
	for isLess := true; isLess; isLess = opts.Resume && s.diedAtStart(err) {
		if opts.Resume, err = s.fallBack(req); err == nil {
			proc, err = s.launch(ctx, opts, req)
		}
		if err == nil {
			_ = s.dir.WithTranscript(s.id, claude.Transcript.DropAside) // it goes with the workspace, else
			return proc, nil
		}
	}
	if !s.stuck {
		s.goodTurn, s.dirty = goodTurn, true
		err = errors.Join(err, s.dir.WithTranscript(s.id, claude.Transcript.PutBack))
	}
	return nil, err
}

// launch tries to start the process.
func (s *slot) launch(ctx context.Context, opts claude.Options, req *api.Request) (*cli.Process, error) {
	proc, err := s.pool.starter.Start(ctx, s.dir, opts)
	if err != nil {
		return nil, err
	}
	if err = proc.Bind(credentialOf(req)); err == nil {
		err = proc.InitializeWith(ctx, s.settings.System, s.settings.First)
	}
	if err == nil {
		return proc, nil
	}
	return nil, errors.Join(err, s.abandon(proc))
}

// abandon ends a process that was to become the conversation's. One that can't be ended is the conversation's.
func (s *slot) abandon(proc *cli.Process) error {
	if err := s.stop(proc); err != nil {
		s.install(proc)
		return s.endFailed(err)
	}
	return nil
}

// options are what the conversation's process is started with, but for its session.
func (s *slot) options() claude.Options {
	return claude.Options{Model: s.settings.Model, FallbackModel: s.settings.Fallback,
		PermissionMode: s.settings.Permission, AllowBypass: s.pool.opts.PermissionMode == "bypassPermissions",
		Background: s.settings.Background, Interactive: s.settings.Interactive}
}

// prepare makes the conversation's files ready for a process and says what it has to resume, if anything.
func (s *slot) prepare(ctx context.Context, req *api.Request) (claude.Options, error) {
	opts := s.options()
	opts.SessionID = s.id
	if err := s.makeWorkspace(); err != nil {
		return opts, err
	}
	err := s.dir.WithTranscript(s.id, func(t claude.Transcript) (err error) {
		if s.mirror.fetch {
			err = s.fetch(ctx, t)
		}
		switch {
		case errors.Is(err, archive.ErrPermanent): // what is kept is damaged
			s.setFetched()
			opts.Resume, err = s.writeSeed(t, s.said(req))
		case err == nil:
			opts.Resume, err = s.restore(t, req)
		}
		return err
	})
	return opts, err
}

// restore makes the transcript one that a process can resume, without turns that failed. It reports whether there is
// one.
func (s *slot) restore(t claude.Transcript, req *api.Request) (exists bool, err error) {
	s.origin = api.ContextResumed
	if s.dirty {
		if err := s.cut(t); err != nil {
			return false, err
		}
	}
	if s.goodTurn == "" && len(s.seed.Before) == 0 { // what is there was written to begin with
		s.origin = api.ContextNone
		return false, t.Remove()
	}
	if t.Exists() {
		return true, t.Conclude(time.Now())
	}
	if len(s.seed.Before) > 0 {
		return s.writeSeed(t, s.seed.Seed())
	}
	if s.fresh {
		s.origin = api.ContextNone
		return false, nil
	}
	return s.writeSeed(t, s.said(req)) // it is gone
}

// cut takes out of the transcript what failed turns have left there.
func (s *slot) cut(t claude.Transcript) error {
	s.origin = api.ContextCut
	if s.goodTurn == "" {
		s.dirty = false
		return t.Remove()
	}
	if err := t.Cut(s.goodTurn); err != nil {
		return err
	}
	s.dirty = false
	return nil
}

// fallBack is for a transcript that can't be resumed: what stands behind the last good turn is cut off; then what was
// said is written anew; and if that was of no use either, the conversation begins with nothing. It reports whether
// there is a transcript.
func (s *slot) fallBack(req *api.Request) (exists bool, err error) {
	err = s.dir.WithTranscript(s.id, func(t claude.Transcript) error {
		if s.origin == api.ContextResumed && s.goodTurn != "" {
			if err := s.cut(t); err != nil {
				return err
			}
			if exists = t.Exists(); exists {
				return t.Conclude(time.Now())
			}
		}
		var said []api.Message
		if s.origin != api.ContextSeeded {
			said = s.seedOf(t, req)
		}
		exists, err = s.writeSeed(t, said)
		return err
	})
	return exists, err
}

// seedOf is what was said: as the request has it if that is this conversation's, else as far as the transcript can be
// read.
func (s *slot) seedOf(t claude.Transcript, req *api.Request) []api.Message {
	reading, found := s.reading(req)
	if found && len(reading.Before) > 0 {
		return reading.Seed()
	}
	if texts := textsOf(t, s.pool.opts.ArchiveMaxBytes); len(texts) > 0 {
		return texts
	}
	return reading.Seed()
}

// said is what the request says was said before.
func (s *slot) said(req *api.Request) []api.Message {
	reading, _ := s.reading(req)
	return reading.Seed()
}

// textsOf is what was said as far as the transcript can be read.
func textsOf(t claude.Transcript, limit int64) []api.Message {
	texts, err := t.Texts(limit)
	if err != nil {
		return nil // what can't be read has nothing
	}
	var said []api.Message
	for _, m := range texts {
		said = append(said, api.Message{Role: m.Role, Content: m.Content})
	}
	for len(said) > 0 && said[len(said)-1].Role != "assistant" { // the question that comes next has none before it
		said = said[:len(said)-1]
	}
	return api.Merged(said)
}

// writeSeed puts what was said in the transcript's place. It reports whether that is anything.
func (s *slot) writeSeed(t claude.Transcript, said []api.Message) (exists bool, err error) {
	away := t.SetAside
	if s.origin == api.ContextSeeded {
		away = t.Remove
	}
	if err := away(); err != nil {
		return false, err
	}
	if len(said) == 0 {
		s.origin, s.goodTurn, s.dirty = api.ContextLost, "", false
		return false, nil
	}
	last, err := t.Write(historyOf(said, s.settings.Tools), time.Now())
	if err == nil {
		err = t.Conclude(time.Now())
	}
	if err != nil { // half of it would be taken for all
		return false, errors.Join(err, t.Remove())
	}
	s.origin, s.goodTurn, s.dirty = api.ContextSeeded, last, false
	return true, nil
}

// historyOf is what was said as a process with these tools knows it.
func historyOf(messages []api.Message, tools json.RawMessage) []claude.HistoryMessage {
	names := make(map[string]bool)
	for _, name := range gjson.GetBytes(tools, "#.name").Array() {
		names[name.Str] = true
	}
	history := make([]claude.HistoryMessage, len(messages))
	for i, m := range messages {
		m = m.WithToolsNamed(names)
		history[i] = claude.HistoryMessage{Role: m.Role, Content: json.RawMessage(m.Content)}
	}
	return history
}
