package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/google/uuid"

	"claudepool/pool/claude"
)

// What is looked for in a line. Inside of texts the quotation marks would be escaped.
var (
	textDelta  = []byte(`"text_delta"`)
	resultLine = []byte(`"type":"result"`)
	failedLine = []byte(`"is_error":true`)
)

// sample is what a client saw of one request.
type sample struct {
	first   time.Duration // until the first text_delta
	total   time.Duration // until the result, through the service until the end mark
	process string        // how the service found the process
	pid     int
	text    string // of the result
}

// conversation is one user's, by whichever way it reaches a CLI.
type conversation interface {
	ask(ctx context.Context, text string) (sample, error)
	close()
}

// cli is a running CLI that is talked to over its own pipes.
type cli struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines *claude.Reader
}

// home is where a CLI that is run without the service keeps its files.
type home struct{ home, temp, cwd string }

func newHome(root string) (home, error) {
	dir, err := os.MkdirTemp(root, "home-")
	if err != nil {
		return home{}, err
	}
	h := home{filepath.Join(dir, "home"), filepath.Join(dir, "tmp"), filepath.Join(dir, "work")}
	return h, errors.Join(os.Mkdir(h.home, 0o700), os.Mkdir(h.temp, 0o700), os.Mkdir(h.cwd, 0o700))
}

// startCLI starts a CLI with the arguments and the environment the pool gives it and those of the variant, but with the
// API in the broker's place.
func (l *lab) startCLI(bin string, h home, opts claude.Options, v variant) (*cli, error) {
	cmd := exec.Command(bin, append(claude.Args(opts), v.args...)...)
	cmd.Env = append(claude.Environment{Home: h.home, Temp: h.temp, BaseURL: l.api.URL(), Secret: "bench"}.Vars(),
		v.env...)
	cmd.Dir, cmd.Stderr = h.cwd, os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &cli{cmd: cmd, stdin: stdin, lines: claude.NewReader(stdout)}, nil
}

// turn sends a message and reads until its result; each gets every line.
func (c *cli) turn(ctx context.Context, text string, each func(line []byte)) error {
	defer context.AfterFunc(ctx, func() { _ = c.cmd.Process.Kill() })()
	if _, err := c.stdin.Write(claude.UserMessage(uuid.NewString(), quote(text))); err != nil {
		return err
	}
	for {
		line, err := c.lines.Next()
		if err != nil {
			return fmt.Errorf("the CLI ended: %w", err)
		}
		each(line)
		if bytes.Contains(line, resultLine) {
			if bytes.Contains(line, failedLine) {
				return fmt.Errorf("the turn failed: %s", line)
			}
			return nil
		}
	}
}

func (c *cli) ask(ctx context.Context, text string) (sample, error) {
	return c.askSince(ctx, time.Now(), text)
}

// askSince counts from a moment before, such as that of the CLI's start.
func (c *cli) askSince(ctx context.Context, began time.Time, text string) (sample, error) {
	s := sample{pid: c.cmd.Process.Pid}
	err := c.turn(ctx, text, func(line []byte) {
		if s.first == 0 && bytes.Contains(line, textDelta) {
			s.first = time.Since(began)
		}
	})
	s.total = time.Since(began)
	return s, err
}

// close ends the CLI as its host does: the end of its input, and a kill should that not be enough.
func (c *cli) close() {
	_ = c.stdin.Close()
	kill := time.AfterFunc(5*time.Second, func() { _ = c.cmd.Process.Kill() })
	defer kill.Stop()
	for {
		if _, err := c.lines.Next(); err != nil {
			break
		}
	}
	_ = c.cmd.Wait()
}

// warmCLI starts a CLI and has a first turn with it.
func (l *lab) warmCLI(ctx context.Context, bin, text string) (*cli, error) {
	h, err := newHome(l.scratch)
	if err != nil {
		return nil, err
	}
	c, err := l.startCLI(bin, h, claude.Options{SessionID: uuid.NewString(), Model: "haiku"}, variant{})
	if err != nil {
		return nil, err
	}
	if _, err := c.ask(ctx, text); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// spawning starts a CLI for every request, which goes on with the transcript of the one before.
type spawning struct {
	lab     *lab
	home    home
	session string
	resume  bool
}

func (l *lab) newSpawning() (*spawning, error) {
	h, err := newHome(l.scratch)
	return &spawning{lab: l, home: h, session: uuid.NewString()}, err
}

func (s *spawning) ask(ctx context.Context, text string) (sample, error) {
	began := time.Now()
	c, err := s.lab.startCLI(s.lab.bin, s.home, claude.Options{SessionID: s.session, Resume: s.resume, Model: "haiku"},
		variant{})
	if err != nil {
		return sample{}, err
	}
	defer c.close()
	s.resume = true
	return c.askSince(ctx, began, text)
}

func (s *spawning) close() {}

// direct is a CLI that is kept and talked to over its pipes. It starts with its first request.
type direct struct {
	lab *lab
	cli *cli
}

func (d *direct) ask(ctx context.Context, text string) (sample, error) {
	began := time.Now()
	if d.cli == nil {
		h, err := newHome(d.lab.scratch)
		if err != nil {
			return sample{}, err
		}
		if d.cli, err = d.lab.startCLI(d.lab.bin, h, claude.Options{SessionID: uuid.NewString(), Model: "haiku"},
			variant{}); err != nil {
			return sample{}, err
		}
	}
	return d.cli.askSince(ctx, began, text)
}

func (d *direct) close() {
	if d.cli != nil {
		d.cli.close()
	}
}
