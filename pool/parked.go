package pool

import (
	"context"
	"errors"
	"time"

	"claudepool/pool/api"
	"claudepool/pool/claude"
	"claudepool/pool/cli"
	"claudepool/pool/standby"
)

// newParked keeps processes parked. What waits for a transcript opens a file that only its uid keeps others from.
func newParked(p *Pool) *standby.Keeper {
	opts := keeperOptions(p)
	opts.Parked, opts.Room = true, func() int { return p.table.room() - p.standbys.Stats().Ready }
	if p.opts.Launcher.SeparatesUIDs() {
		opts.Min = p.opts.Parked
	}
	return standby.New(opts)
}

// unpark takes a parked process for a conversation that has no files here, and gives the conversation its workspace. It
// returns nil where none fits.
func (s *slot) unpark(ctx context.Context, req *api.Request) *standby.Process {
	p := s.pool
	if s.dir != nil {
		return nil
	}
	wish := standby.Wish{CLI: s.options(), New: !s.mirror.fetch && len(s.seed.Before) == 0, Follow: !s.user.isUnproven()}
	wish.CLI.PermissionMode = p.opts.PermissionMode // it can be changed later
	taken, err := p.parked.Unpark(ctx, credentialOf(req), wish)
	if err == nil {
		if err = s.moveInto(taken.Folder); err == nil {
			return taken
		}
		err = errors.Join(err, taken.Discard())
	}
	if !errors.Is(err, standby.ErrNone) {
		p.opts.Logger.Warn("a parked process could not be taken", "error", err)
	}
	return nil
}

// goOn has a parked process go on from the conversation's transcript, or begin where there is none, and tells how that
// is called. Where the process is of no use another one is started.
func (s *slot) goOn(ctx context.Context, taken *standby.Process, req *api.Request) (proc *cli.Process, how string,
	err error) {
	opts, err := s.prepare(ctx, req)
	if err != nil {
		taken.LeaveGate()
		return nil, "", errors.Join(err, s.abandon(taken.Process))
	}
	how = ProcessResumed
	if !opts.Resume {
		how = ProcessStandby
		err = s.dir.WithTranscript(s.id, func(t claude.Transcript) error { return t.WriteNothing(time.Now()) })
	}
	if err == nil {
		if err = taken.GoOn(ctx, s.id, s.settings.System); err == nil {
			return taken.Process, how, nil
		}
	}
	s.pool.opts.Logger.Warn("a parked process didn't go on", "user", api.ShortUser(s.user.id), "error", err)
	return s.startInstead(ctx, taken, opts, req)
}

// startInstead ends a parked process that is of no use, and starts one in its place.
func (s *slot) startInstead(ctx context.Context, taken *standby.Process, opts claude.Options, req *api.Request) (
	proc *cli.Process, how string, err error) {
	taken.LeaveGate()
	if err := s.abandon(taken.Process); err != nil {
		return nil, "", err
	}
	over, err := s.pool.starter.gate.pass(ctx)
	if err != nil {
		return nil, "", err
	}
	defer over()
	how = ProcessResumed
	if !opts.Resume {
		how = ProcessCold
		err = s.dir.WithTranscript(s.id, claude.Transcript.Remove)
	}
	if err == nil {
		proc, err = s.startAnew(ctx, opts, req)
	}
	return proc, how, err
}
