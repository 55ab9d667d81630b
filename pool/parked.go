package pool

import (
	"context"
	"errors"

	"claudepool/pool/api"
	"claudepool/pool/claude"
	"claudepool/pool/cli"
	"claudepool/pool/standby"
)

// newParked keeps processes parked for conversations that have a past. What waits for a transcript opens a file that
// only its uid keeps others from.
func newParked(p *Pool) *standby.Keeper {
	opts := keeperOptions(p)
	opts.Parked, opts.Room = true, func() int { return p.table.room() - p.standbys.Stats().Ready }
	if p.opts.Launcher.SeparatesUIDs() {
		opts.Min = p.opts.Parked
	}
	return standby.New(opts)
}

// unpark takes a parked process for a conversation that has a past but no files here, and gives the conversation its
// workspace. It returns nil where none fits.
func (s *slot) unpark(ctx context.Context, req *api.Request) *standby.Process {
	p := s.pool
	if s.dir != nil || !s.mirror.fetch && len(s.seed.Before) == 0 {
		return nil
	}
	opts := s.options()
	opts.PermissionMode = p.opts.PermissionMode // it can be changed later
	taken, err := p.parked.Resume(ctx, credentialOf(req), opts, !s.user.isUnproven())
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

// goOn has a parked process go on from the conversation's transcript, if there is one after all. It returns nothing
// where the process was of no use: then that has ended.
func (s *slot) goOn(ctx context.Context, taken *standby.Process, opts claude.Options) (*cli.Process, error) {
	err := error(nil)
	if opts.Resume {
		if err = taken.GoOn(ctx, s.id, s.settings.System); err == nil {
			return taken.Process, nil
		}
		s.pool.opts.Logger.Warn("a parked process didn't go on", "user", api.ShortUser(s.user.id), "error", err)
	}
	taken.LeaveGate()
	return nil, s.abandon(taken.Process)
}
