package pool

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"claudepool/pool/api"
	"claudepool/pool/broker"
	"claudepool/pool/claude"
	"claudepool/pool/cli"
	"claudepool/pool/confine"
)

// The folders of a workspace.
const (
	homeFolder = "home"
	tempFolder = "tmp"
	workFolder = "work"
)

// workspace is a conversation's own place in the file system. Its processes can do there what they like, so whatever is
// looked for in it is looked for from its root on, never by a whole path: see files.
type workspace struct{ cli.Folders }

// files opens the workspace for the service's own use: no link in it leads out.
func (w *workspace) files() (*os.Root, error) { return os.OpenRoot(w.Root) }

// starter makes workspaces and starts processes in them. Its methods may be called concurrently.
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

// newWorkspace makes a workspace under an opaque name. The error is confine.ErrNoUID where others have to give way.
func (s *starter) newWorkspace() (*workspace, error) {
	root, err := s.launcher.NewWorkspace(homeFolder, tempFolder, workFolder)
	if err != nil {
		return nil, err
	}
	return &workspace{cli.Folders{Root: root, Home: filepath.Join(root, homeFolder), Temp: filepath.Join(root, tempFolder),
		Cwd: filepath.Join(root, workFolder)}}, nil
}

// remove removes a workspace with all that is in it.
func (s *starter) remove(w *workspace) error { return s.launcher.RemoveWorkspace(w.Root) }

// transcript is that of a session in the workspace whose files are given.
func (s *starter) transcript(files *os.Root, w *workspace, session string) claude.Transcript {
	return claude.Transcript{Files: files, Home: homeFolder, Cwd: w.Cwd, SessionID: session, Owner: s.launcher.Owner(w.Root)}
}

// launch starts a process that belongs to nobody.
func (s *starter) launch(ctx context.Context, w *workspace, opts claude.Options) (*cli.Process, error) {
	spec := s.spec
	spec.Folders, spec.Options = w.Folders, opts
	return cli.Start(ctx, s.launcher, s.broker, spec)
}

func (s *slot) makeWorkspace() error {
	if s.dir != nil {
		return nil
	}
	starter := s.pool.starter
	w, err := starter.newWorkspace()
	for errors.Is(err, confine.ErrNoUID) {
		if !s.pool.evictForRoom() {
			s.pool.opts.Logger.Error("no conversation can begin until files of others are removed", "error", err)
			return api.Overloaded(time.Second, "this instance keeps as many conversations as it can")
		}
		w, err = starter.newWorkspace()
	}
	if err != nil {
		return err
	}
	if err := s.settle(w); err != nil {
		return errors.Join(err, starter.remove(w))
	}
	return nil
}

// removeWorkspace removes a conversation's files and their entry in the index. Nobody may use the conversation any more
// but the caller.
func (c *conversation) removeWorkspace() error {
	p := c.pool
	if c.dir == nil {
		return nil
	}
	return errors.Join(p.index.strike(c.user.id, c.id, c.dir), p.starter.remove(c.dir))
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
