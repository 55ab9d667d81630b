package standby

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"

	"claudepool/pool/claude"
)

const (
	// startNice is the scheduling priority of a process until it is ready.
	startNice = 10
	// warmUpTurns is how many turns a warm-up has: with each the CLI's code becomes faster, less and less so.
	warmUpTurns = 4
	// warmUpText is what a warm-up says. The broker answers it; see broker/warmup.go.
	warmUpText = `"warm-up"`
	// aside is a question beside the conversation, which warms up less than a turn, and leaves nothing.
	aside = "warm-up"
	// rewindsAtStart is how many rewinds a session that was begun by a command has before its first message: of the
	// command, and of what stands before that.
	rewindsAtStart = 2
	// transcriptInterval is how often it is looked what the CLI has written.
	transcriptInterval = 20 * time.Millisecond
)

// prepare starts a process and has it load what it needs before its user comes. Turns that begin may delay that by
// maxDelays.
func (k *Keeper) prepare(of kind) (*Process, error) {
	if err := k.opts.Starter.Queue(k.life); err != nil {
		return nil, err
	}
	delay := maxDelays * k.opts.Quiet
	delay -= k.turns.wait(k.life, delay)
	ctx, cancel := context.WithTimeoutCause(k.life, k.opts.StartTimeout, errStartTimeout)
	defer cancel()
	folder, err := k.opts.Starter.NewFolder()
	if err != nil {
		return nil, err
	}
	p := &Process{Session: uuid.NewString(), Folder: folder, kind: of}
	if of.git {
		err = folder.MakeRepository()
	}
	if err == nil {
		err = k.start(ctx, p)
	}
	if err != nil {
		return nil, errors.Join(err, folder.Remove())
	}
	if err := k.load(ctx, p, delay); err != nil {
		err = fmt.Errorf("%w (stderr: %q)", err, p.StderrTail())
		return nil, errors.Join(err, p.Discard())
	}
	p.readySince = time.Now()
	return p, nil
}

// start starts the process, at a gate if it is to be parked.
func (k *Keeper) start(ctx context.Context, p *Process) (err error) {
	opts := p.kind.cli
	opts.SessionID = p.Session
	if k.opts.Parked {
		err = p.Folder.WithTranscript(p.Session, func(t claude.Transcript) (err error) {
			p.gate, err = t.NewGate(p.Folder.Home)
			return err
		})
		if err != nil {
			return err
		}
		opts.Gate = p.gate.Path()
	}
	p.Process, err = k.opts.Starter.Start(ctx, p.Folder, opts)
	if err != nil && p.gate != nil {
		err = errors.Join(err, p.closeGate())
	}
	return err
}

// load has the process do all that it can without a user. Turns that begin may delay that by so much in all.
func (k *Keeper) load(ctx context.Context, p *Process, delay time.Duration) error {
	_ = p.SetNice(startNice)
	defer func() { _ = p.SetNice(0) }()
	preparing, ready := context.WithCancel(ctx)
	var pausing sync.WaitGroup
	pausing.Go(func() { k.turns.pauseDuring(preparing, delay, p.Signal) })
	defer pausing.Wait()
	defer ready()
	if p.gate != nil {
		return p.AwaitGate(ctx)
	}
	return k.warmUp(ctx, p)
}

// warmUp makes the process do what only a first turn does, and forget it.
func (k *Keeper) warmUp(ctx context.Context, p *Process) error {
	if p.kind.blank {
		if err := p.AskAside(ctx, aside); err != nil {
			return err
		}
		return p.removeTranscript(p.Session)
	}
	for range warmUpTurns {
		if err := p.WarmUp(ctx, []byte(warmUpText)); err != nil {
			return err
		}
	}
	return p.startOver(ctx)
}

// startOver has the process begin another session. In the one of its warm-up it would keep the system prompt of the
// model that was asked then, whatever model its user wants. (Seen on 2.1.330.)
func (p *Process) startOver(ctx context.Context) error {
	session, err := p.StartOver(ctx)
	if err != nil {
		return err
	}
	warmUps := p.Session
	p.Session = session
	var leftover string
	if err = p.awaitTranscript(ctx, func(t claude.Transcript) (done bool, err error) {
		leftover, err = t.Leftover()
		return leftover != "", err
	}); err != nil {
		return err
	}
	if !p.Forget(ctx, leftover) {
		return errors.New("standby: the warm-up can't be forgotten")
	}
	if err = p.AskAside(ctx, aside); err != nil { // what the command made the CLI forget beside the prompt
		return err
	}
	if err = p.awaitTranscript(ctx, func(t claude.Transcript) (done bool, err error) {
		n, err := t.Rewinds()
		return n == rewindsAtStart, err
	}); err != nil {
		return err
	}
	return errors.Join(p.removeTranscript(session), p.removeTranscript(warmUps))
}

// awaitTranscript waits until the CLI has written something to its transcript.
func (p *Process) awaitTranscript(ctx context.Context, written func(claude.Transcript) (bool, error)) error {
	return p.Folder.WithTranscript(p.Session, func(t claude.Transcript) error {
		for ctx.Err() == nil {
			if done, err := written(t); done || err != nil {
				return err
			}
			sleep(ctx, transcriptInterval)
		}
		return context.Cause(ctx)
	})
}

func (p *Process) removeTranscript(session string) error {
	return p.Folder.WithTranscript(session, claude.Transcript.Remove)
}
