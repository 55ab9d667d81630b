package pool

import (
	"context"
	"errors"
	"slices"
	"syscall"
	"time"

	"claudepool/infra/telemetry"
	"claudepool/pool/api"
	"claudepool/pool/claude"
	"claudepool/pool/cli"
	"claudepool/pool/confine"
	"claudepool/pool/standby"
	"claudepool/pool/workspace"
)

// parks reports whether processes are parked. What waits for a transcript opens a file that only its uid keeps others
// from.
func (p *Pool) parks() bool { return p.opts.Parked > 0 && p.opts.Launcher.SeparatesUIDs() }

// newParked keeps processes parked. Standbys have what room there is first.
func newParked(p *Pool, standbys *standby.Keeper) *standby.Keeper {
	opts := keeperOptions(p)
	opts.Parked = true
	opts.Room = func() int { return p.table.room() - max(p.opts.Standby, standbys.Count()) }
	if p.parks() {
		opts.Min = p.opts.Parked
	}
	return standby.New(opts)
}

// unpark takes a parked process for a conversation without one, and gives the conversation its workspace, with all that
// it has in files. It returns nil where none fits.
func (s *slot) unpark(ctx context.Context, req *api.Request) *standby.Process {
	p := s.pool
	if !p.parks() || s.settings.First != nil || s.isTooLarge() || !s.canMove() {
		return nil
	}
	s.wish = s.wishes()
	s.wish.New = s.dir == nil && !s.mirror.fetch && len(s.seed.Before) == 0
	ctx, span := telemetry.Span(ctx, "claim parked")
	taken, err := p.parked.Unpark(ctx, credentialOf(req), *s.wish)
	endClaim(span, err)
	if err == nil {
		if err = s.moveTo(taken.Folder); err == nil {
			return taken
		}
		err = errors.Join(err, s.giveBack(taken, err))
	}
	if !errors.Is(err, standby.ErrNone) {
		p.opts.Logger.Warn("a parked process could not be taken", "error", err)
	}
	return nil
}

// wishes is what the conversation wants of a parked process, now or when it comes back.
func (s *slot) wishes() *standby.Wish {
	wish := &standby.Wish{CLI: s.options(), Git: s.dir != nil && s.dir.IsRepository()}
	wish.CLI.PermissionMode = s.pool.opts.PermissionMode // it can be changed later
	return wish
}

// giveBack ends a parked process that could not be made the conversation's. Its workspace stays if there may be files
// of the conversation in it.
func (s *slot) giveBack(taken *standby.Process, why error) error {
	if errors.Is(why, workspace.ErrTorn) {
		return errors.Join(taken.LeaveGate(), taken.Stop())
	}
	return taken.Discard()
}

// isTooLarge reports whether what is to be put into the transcript is more than a parked process is given.
func (s *slot) isTooLarge() bool {
	var size int64
	for _, m := range s.seed.Before {
		size += int64(len(m.Content))
	}
	if s.archived != nil {
		size = s.archived.TranscriptSize()
	}
	return size > standby.MaxParked
}

// canMove reports whether the conversation's files, if it has any, can go to where a process was parked.
func (s *slot) canMove() bool {
	p := s.pool
	if s.dir == nil {
		return true
	}
	if !p.opts.Launcher.Mounts() || p.noMoves.Load() || s.saver.busy.Load() { // who saves reads the files where they are
		return false
	}
	err := s.dir.CheckMovable()
	if err == nil {
		err = s.dir.WithTranscript(s.id, func(t claude.Transcript) error { return t.CheckSize(standby.MaxParked) })
	}
	if errors.Is(err, confine.ErrTooMany) || errors.Is(err, claude.ErrTooLarge) {
		p.movedTooLarge.Add(1)
	}
	return err == nil
}

// cannotMove are the errors of a file system on which no files can be moved, and none that a process can bring about
// with what it does to its own.
var cannotMove = []error{syscall.EINVAL, syscall.ENOSYS}

// moveTo gives the conversation another workspace, with the files of the one it has. Where files can't be moved at all
// it is not tried again, as each time costs a parked process.
func (s *slot) moveTo(f *workspace.Folder) error {
	old := s.dir
	if old == nil {
		return s.moveInto(f)
	}
	if err := old.MoveTo(f); err != nil {
		if slices.ContainsFunc(cannotMove, func(of error) bool { return errors.Is(err, of) }) {
			s.pool.noMoves.Store(true)
			s.pool.table.headroom.Store(0)
		}
		return err
	}
	s.pool.spaces.mark(s.user)
	if err := s.moveInto(f); err != nil { // the index is for people; the files are there
		s.pool.opts.Logger.Warn("a workspace is missing in the index", "error", err)
		s.setDir(f)
	}
	s.pool.work.Go(func() {
		if err := old.Remove(); err != nil {
			s.pool.opts.Logger.Warn("a workspace could not be removed", "error", err)
		}
	})
	return nil
}

// fulfil has what is parked follow what the conversation wished for, now that a turn has gone well: strangers' wishes
// are nobody's.
func (s *slot) fulfil() {
	if s.wish != nil {
		s.pool.parked.Prefer(*s.wish)
		s.wish = nil
	}
}

// goOn has a parked process go on from the conversation's transcript, or begin where there is none, and tells how that
// is called. Where the process is of no use another one is started.
func (s *slot) goOn(ctx context.Context, taken *standby.Process, req *api.Request) (proc *cli.Process, how string,
	err error) {
	opts, err := s.prepare(ctx, req)
	if err != nil {
		return nil, "", errors.Join(err, s.abandonParked(taken))
	}
	how = ProcessResumed
	if !opts.Resume {
		how = ProcessStandby
		err = s.dir.WithTranscript(s.id, func(t claude.Transcript) error { return t.WriteNothing(time.Now()) })
	}
	if err == nil {
		within, span := telemetry.Span(ctx, "gate")
		err = taken.GoOn(within, s.id, s.settings.System)
		telemetry.End(span, err)
		if err == nil {
			return taken.Process, how, nil
		}
	}
	s.pool.opts.Logger.Warn("a parked process didn't go on", "user", api.ShortUser(s.user.id), "error", err)
	return s.startInstead(ctx, taken, opts, req)
}

// startInstead ends a parked process that is of no use, and starts one in its place.
func (s *slot) startInstead(ctx context.Context, taken *standby.Process, opts claude.Options, req *api.Request) (
	proc *cli.Process, how string, err error) {
	if err := s.abandonParked(taken); err != nil {
		return nil, "", err
	}
	over, err := s.pool.starter.turnstile.pass(ctx)
	if err != nil {
		return nil, "", err
	}
	defer over()
	if !opts.Resume {
		err = s.dir.WithTranscript(s.id, claude.Transcript.Remove)
	}
	if err == nil {
		proc, err = s.startAnew(ctx, opts, req)
	}
	return proc, howStarted(proc), err
}

func (s *slot) abandonParked(taken *standby.Process) error {
	return errors.Join(taken.LeaveGate(), s.abandon(taken.Process))
}
