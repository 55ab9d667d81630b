package pool

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"

	"claudepool/pool/broker"
	"claudepool/pool/claude"
	"claudepool/pool/cli"
	"claudepool/pool/workspace"
)

const (
	// standbyNice is the scheduling priority of a standby until it is ready.
	standbyNice = 10
	// warmUpTurns is how many turns a warm-up has: with each the CLI's code becomes faster, less and less so.
	warmUpTurns = 4
	// warmUpText is what a warm-up says. The broker answers it; see broker/warmup.go.
	warmUpText = `"warm-up"`
)

// standby is a process that was started in advance and belongs to nobody. Its broker has answered it a few turns,
// which it has forgotten again, so that what it needs is loaded when its user comes.
//
// A CLI takes a system prompt before its first turn only. A blank standby was therefore warmed up by a side question,
// which is no turn but doesn't warm as much.
type standby struct {
	session string
	dir     *workspace.Folder
	proc    *cli.Process
	blank   bool
	since   time.Time
	rested  bool // freezing it was tried; guarded by standbys.mu
}

// prepare starts a process and warms it up.
func (s *standbys) prepare(blank bool) (*standby, error) {
	over, err := s.starter.gate.pass(s.life) // behind those who wait for a process
	if err != nil {
		return nil, err
	}
	over() // or its place would be taken for as long as turns delay it
	delay := mostDelays * s.turns.calm
	delay -= s.turns.wait(s.life, delay)
	ctx, cancel := context.WithTimeoutCause(s.life, s.opts.SpawnTimeout, errSpawnTimeout)
	defer cancel()
	dir, err := workspace.New(s.starter.launcher)
	if err != nil {
		return nil, err
	}
	one := &standby{session: uuid.NewString(), dir: dir, blank: blank}
	one.proc, err = s.starter.launch(ctx, dir, claude.Options{SessionID: one.session, PermissionMode: s.opts.PermissionMode,
		AllowBypass: s.opts.PermissionMode == "bypassPermissions"})
	if err != nil {
		return nil, errors.Join(err, dir.Remove())
	}
	if err := s.warmUp(ctx, one, delay); err != nil {
		err = fmt.Errorf("%w (stderr: %q)", err, one.proc.StderrTail())
		return nil, errors.Join(err, one.proc.Stop(), dir.Remove())
	}
	one.since = time.Now()
	return one, nil
}

// warmUp makes the process do all that only a first turn does, and forget it. Turns that begin may delay that by so much
// in all.
func (s *standbys) warmUp(ctx context.Context, one *standby, delay time.Duration) error {
	_ = one.proc.SetNice(standbyNice)
	defer func() { _ = one.proc.SetNice(0) }()
	preparing, ready := context.WithCancel(ctx)
	var way sync.WaitGroup
	way.Go(func() { s.turns.giveWay(preparing, delay, one.proc.Signal) })
	defer way.Wait()
	defer ready()
	if one.blank {
		if err := one.proc.Aside(ctx, "warm-up"); err != nil {
			return err
		}
		return s.sweep(ctx, one)
	}
	for range warmUpTurns {
		if err := one.proc.WarmUp(ctx, []byte(warmUpText)); err != nil {
			return err
		}
	}
	return s.sweep(ctx, one)
}

// sweep removes the transcript of the warm-up, once the CLI has written the last of it.
func (s *standbys) sweep(ctx context.Context, one *standby) error {
	return one.dir.WithTranscript(one.session, func(t claude.Transcript) error {
		for ctx.Err() == nil {
			rewound, err := t.Rewound()
			if err != nil {
				return err
			}
			if rewound || one.blank {
				return t.Remove()
			}
			sleep(ctx, 20*time.Millisecond)
		}
		return context.Cause(ctx)
	})
}

// claim makes a standby the conversation's, for whose process room was reserved. It returns nil if none fits.
func (s *slot) claim(ctx context.Context, credential broker.Credential) (*cli.Process, error) {
	if s.dir != nil || s.mirror.fetch || s.named || len(s.seed.Before) > 0 || s.settings.Fallback != "" || s.settings.Background {
		return nil, nil
	}
	standbys := s.pool.standbys
	blank := s.settings.System != ""
	s.pool.turns.begin() // soon, and nothing is to take the standby's place before
	standbys.arrive(blank)
	defer signal(standbys.tend)
	for {
		one := standbys.take(blank)
		if one == nil {
			return nil, nil
		}
		err := s.adopt(ctx, one, credential)
		if err == nil {
			return one.proc, nil
		}
		if !errors.Is(err, broker.ErrBusy) && !errors.Is(err, cli.ErrDied) {
			return nil, err
		}
	}
}

// adopt binds the standby to the conversation's user. If that fails, nothing is left of the standby.
func (s *slot) adopt(ctx context.Context, one *standby, credential broker.Credential) error {
	standbys := s.pool.standbys
	one.proc.Thaw()
	standbys.adopting(one)
	err := one.proc.Bind(credential)
	if err == nil && s.settings.System != "" {
		err = one.proc.Initialize(ctx, s.settings.System)
	}
	if err == nil {
		s.rename(one.session)
		err = s.moveInto(one.dir)
	}
	if err != nil {
		standbys.discard(one)
		return err
	}
	standbys.awoken(nil)
	return nil
}
