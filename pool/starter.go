package pool

import (
	"context"
	"errors"
	"time"

	"claudepool/pool/api"
	"claudepool/pool/broker"
	"claudepool/pool/claude"
	"claudepool/pool/cli"
	"claudepool/pool/confine"
	"claudepool/pool/workspace"
)

// starter starts processes in workspaces. Its methods may be called concurrently.
type starter struct {
	launcher *confine.Launcher
	broker   *broker.Broker
	spec     cli.Spec // but for its folders and options
	gate     gate
}

func newStarter(opts Options, limits cli.Limits) *starter {
	return &starter{launcher: opts.Launcher, broker: opts.Broker, gate: newGate(), spec: cli.Spec{
		Bin: opts.ClaudeBin, Limits: limits, Logger: opts.Logger,
		MCPTimeout: opts.SpawnTimeout / 3, // or a server that is silent would cost the process
		// The model has as long again for what it does about a command that took too long.
		Commands: cli.Commands{Usual: opts.TurnTimeout / 10, Longest: opts.TurnTimeout / 2},
	}}
}

// launch starts a process that belongs to nobody.
func (s *starter) launch(ctx context.Context, in *workspace.Folder, opts claude.Options) (*cli.Process, error) {
	spec := s.spec
	spec.Folder, spec.Options = in, opts
	return cli.Start(ctx, s.launcher, s.broker, spec)
}

func (s *slot) makeWorkspace() error {
	if s.dir != nil {
		return nil
	}
	launcher := s.pool.starter.launcher
	f, err := workspace.New(launcher)
	for errors.Is(err, confine.ErrNoUID) {
		if !s.pool.evictForRoom() {
			s.pool.opts.Logger.Error("no conversation can begin until files of others are removed", "error", err)
			return api.Overloaded(time.Second, "this instance keeps as many conversations as it can")
		}
		f, err = workspace.New(launcher)
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
}

func credentialOf(req *api.Request) broker.Credential {
	if req.OAuth != nil {
		return broker.Credential{OAuthToken: req.OAuth.AccessToken}
	}
	return broker.Credential{APIKey: req.APIKey}
}
