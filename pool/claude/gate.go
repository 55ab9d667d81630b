package claude

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

// A CLI that is told to resume a file whose name ends in .jsonl has done all else of its start when it opens that file.
// Where a FIFO is in the file's place it waits there, at no cost, until somebody writes: what it then reads is the
// transcript, and the session is the one whose id stands in its lines. It reads the file once more by its name, by then
// a regular one, and goes on in the transcript of that session in the same folder; where there is none it writes down
// anew what it has read. (Seen on 2.1.330; pool/parked_test.go holds it against the CLI.)

const (
	// gateSuffix is what the CLI knows a path from a session's id by.
	gateSuffix = ".jsonl"
	// gateLook is how often it is looked whether the CLI has come to the gate.
	gateLook = 2 * time.Millisecond
	// gatePatience is how long a CLI that was at the gate may take to be there again, as one that was stopped has to.
	gatePatience = 2 * time.Second
)

// ErrGate says that a CLI didn't take its transcript at the gate.
var ErrGate = errors.New("claude: the gate was left")

// Gate is where a CLI that was started with Options.Gate waits for a transcript. It is for one goroutine at a time, and
// has to be removed.
type Gate struct {
	seen string   // absolute, as the CLI sees it
	path string   // relative to the workspace
	fifo *os.File // what it is, whatever may stand at the path
	held *os.File // its inner end, while the CLI is kept at it
}

// NewGate makes a gate where the workspace's transcripts are; home is as the CLI sees it. Nobody else may be in the
// workspace yet: what is on the way isn't looked at.
func (t Transcript) NewGate(home string) (g *Gate, err error) {
	if err := t.makeFolder(); err != nil {
		return nil, err
	}
	g = &Gate{path: filepath.Join(filepath.Dir(t.path()), uuid.NewString()+gateSuffix)}
	within, err := filepath.Rel(t.Home, g.path)
	if err != nil {
		return nil, fmt.Errorf("claude: gate: %w", err)
	}
	g.seen = filepath.Join(home, within)
	path := filepath.Join(t.Files.Name(), g.path)
	if err := unix.Mkfifo(path, 0o400); err != nil {
		return nil, fmt.Errorf("claude: gate: %w", err)
	}
	if err := os.Lchown(path, t.Owner, t.Owner); err != nil {
		return nil, fmt.Errorf("claude: gate: %w", err)
	}
	g.fifo, err = os.OpenFile(path, unix.O_PATH|unix.O_NOFOLLOW, 0) // #nosec G304 -- nobody is there yet
	return g, err
}

// Path is what Options.Gate is to be.
func (g *Gate) Path() string { return g.seen }

// Hold waits a moment for the CLI to be at the gate and keeps it there: one that was stopped opens the FIFO once more,
// by its name. From then on something else may stand at that. The error is ErrGate if the CLI isn't there, or ctx's
// cause.
func (g *Gate) Hold(ctx context.Context) (err error) {
	if g.held == nil {
		g.held, err = g.await(ctx)
	}
	return err
}

// Open lets the CLI go on from a transcript, which is in its place and has at most limit bytes, and holds it before.
// The error is ErrGate if the CLI isn't there or has left, ErrTooLarge with which nothing was tried, or ctx's cause;
// nobody knows then what the CLI has read.
func (g *Gate) Open(ctx context.Context, t Transcript, limit int64) error {
	text, err := t.Read(limit)
	if err == nil {
		err = g.Hold(ctx)
	}
	if err != nil {
		return err
	}
	w := g.held
	defer func() { g.held = nil }()
	defer w.Close()
	defer context.AfterFunc(ctx, func() { _ = w.SetWriteDeadline(time.Unix(1, 0)) })()
	if err := g.replace(t); err != nil {
		return err
	}
	_, err = w.Write(text)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return context.Cause(ctx)
	case errors.Is(err, syscall.EPIPE):
		return ErrGate
	}
	return err
}

// replace puts the transcript, as a second name of it, in the FIFO's place.
func (g *Gate) replace(t Transcript) error {
	beside := g.path + ".next"
	if err := t.Files.Link(t.path(), beside); err != nil {
		return err
	}
	if err := t.Files.Rename(beside, g.path); err != nil {
		return errors.Join(err, t.Files.Remove(beside))
	}
	return nil
}

// await opens the gate's inner end when the CLI waits at the outer one.
func (g *Gate) await(ctx context.Context) (*os.File, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, gatePatience, ErrGate)
	defer cancel()
	for {
		// The descriptor is of the FIFO itself, whatever stands at its name.
		w, err := os.OpenFile(fmt.Sprint("/proc/self/fd/", g.fifo.Fd()), os.O_WRONLY|syscall.O_NONBLOCK, 0)
		if !errors.Is(err, syscall.ENXIO) {
			return w, err
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(gateLook):
		}
	}
}

// Remove gives the gate up. A CLI that waits at it stays there, and one that is held finds nothing; after Open it has
// to have answered something. Whatever has its name by now goes; there may be nothing.
func (g *Gate) Remove(t Transcript) error {
	err := t.Files.Remove(g.path)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if g.held != nil {
		err = errors.Join(err, g.held.Close())
	}
	return errors.Join(err, g.fifo.Close())
}

// ReadAtStart are the paths of files of which a CLI takes notice before it comes to its gate, and not of those that are
// there afterwards. home and work are its folders. (Seen on 2.1.330: what it is told to remember, its instructions, its
// skills and a repository's state it reads with the first turn.)
func ReadAtStart(home, work string) []string {
	paths := []string{filepath.Join(work, ".mcp.json"), filepath.Join(work, "HEAD")}
	for _, folder := range []string{home, work} {
		for _, name := range []string{"agents", "commands", "hooks", "output-styles", "rules", "settings.json",
			"settings.local.json", "state", "workflows", "plugins/installed_plugins.json", "plugins/known_marketplaces.json"} {
			paths = append(paths, filepath.Join(folder, ".claude", name))
		}
	}
	return paths
}
