package pool

import (
	"context"
	"errors"
	"time"

	"claudepool/infra/telemetry"
	"claudepool/pool/api"
	"claudepool/pool/broker"
	"claudepool/pool/claude"
	"claudepool/pool/cli"
	"claudepool/pool/confine"
	"claudepool/pool/standby"
	"claudepool/pool/workspace"
)

// starter starts processes in workspaces. Its methods may be called concurrently.
type starter struct {
	launcher  *confine.Launcher
	broker    *broker.Broker
	spec      cli.Spec // but for its folders and options
	turnstile turnstile
}

func newStarter(p *Pool) *starter {
	opts := p.opts
	limits := cli.Limits{Silence: opts.SilenceTimeout, InterruptGrace: p.tuning.interruptGrace,
		Turn: opts.TurnTimeout, Approval: opts.ApprovalTimeout, Rate: fairRate, Burst: fairBurst}
	return &starter{launcher: opts.Launcher, broker: opts.Broker, turnstile: newTurnstile(), spec: cli.Spec{
		Bin: opts.ClaudeBin, Limits: limits, Logger: opts.Logger,
		MCPTimeout: opts.SpawnTimeout / 3, // or a server that is silent would cost the process
		// The model has as long again for what it does about a command that took too long.
		Commands: cli.Commands{Usual: opts.TurnTimeout / 10, Longest: opts.TurnTimeout / 2},
	}}
}

// Queue waits behind those who wait to have a process started. It keeps no place itself: a standby's would be taken for
// as long as turns delay its start.
func (s *starter) Queue(ctx context.Context) error {
	over, err := s.turnstile.pass(ctx)
	if err == nil {
		over()
	}
	return err
}

// NewFolder makes a workspace. The error is confine.ErrNoUID where others have to give way.
func (s *starter) NewFolder() (*workspace.Folder, error) { return workspace.New(s.launcher) }

// Start starts a process that belongs to nobody.
func (s *starter) Start(ctx context.Context, in *workspace.Folder, opts claude.Options) (*cli.Process, error) {
	spec := s.spec
	spec.Folder, spec.Options = in, opts
	return cli.Start(ctx, s.launcher, s.broker, spec)
}

// obtain gets a process for the conversation, one that was started in advance if there is one that fits.
func (s *slot) obtain(ctx context.Context, req *api.Request) (proc *cli.Process, how string, err error) {
	s.origin = api.ContextNone
	s.endInnerID(true)
	if proc, err = s.claim(ctx, credentialOf(req)); !errors.Is(err, standby.ErrNone) {
		return proc, ProcessStandby, err
	}
	if err = s.loadAhead(ctx); err != nil {
		return nil, "", err
	}
	defer func() { s.archived = nil }()
	if taken := s.unpark(ctx, req); taken != nil {
		return s.goOn(ctx, taken, req)
	}
	ctx, span := telemetry.Span(ctx, "start")
	proc, err = s.start(ctx, req)
	telemetry.End(span, err)
	return proc, howStarted(proc), err
}

// howStarted tells how a process that was started for a request is called.
func howStarted(proc *cli.Process) string {
	if proc != nil && proc.Resumed() {
		return ProcessResumed
	}
	return ProcessCold
}

func (s *slot) makeWorkspace() error {
	if s.dir != nil {
		return nil
	}
	starter := s.pool.starter
	f, err := starter.NewFolder()
	for errors.Is(err, confine.ErrNoUID) {
		if !s.pool.evictForRoom() {
			s.pool.opts.Logger.Error("no conversation can begin until files of others are removed", "error", err)
			return api.Overloaded(time.Second, "this instance keeps as many conversations as it can")
		}
		f, err = starter.NewFolder()
	}
	if err != nil {
		return err
	}
	if err := s.moveInto(f); err != nil {
		return errors.Join(err, f.Remove())
	}
	return nil
}

// moveInto gives the conversation its workspace and enters it in the index.
func (s *slot) moveInto(f *workspace.Folder) error {
	if err := s.pool.index.Link(s.user.id, s.id, f); err != nil {
		return err
	}
	s.setDir(f)
	return nil
}

// removeWorkspace removes a conversation's files and their entry in the index. Nobody may use the conversation any more
// but the caller.
func (c *conversation) removeWorkspace() error {
	p := c.pool
	if c.dir == nil {
		return nil
	}
	return errors.Join(p.index.Unlink(c.user.id, c.id, c.dir), c.dir.Remove())
}

// dropFiles removes the files of a conversation that is not known any more.
func (c *conversation) dropFiles() {
	p := c.pool
	if err := c.removeWorkspace(); err != nil {
		p.opts.Logger.Warn("a workspace could not be removed", "error", err)
	}
	p.spaces.mark(c.user)
}

func credentialOf(req *api.Request) broker.Credential {
	if req.OAuth != nil {
		return broker.Credential{OAuthToken: req.OAuth.AccessToken}
	}
	return broker.Credential{APIKey: req.APIKey}
}
