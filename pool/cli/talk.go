package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"claudepool/pool/claude"
)

// refusalBytes bounds the refusals that a CLI hasn't read yet of what it has asked: a pipe's size. A CLI that asks on
// and on without reading is killed, or it could fill the service's memory.
const refusalBytes = 64 << 10

// errRefused says that the CLI answered a control request with an error.
var errRefused = errors.New("cli: refused")

// Initialize is the handshake. The system prompt counts on a process's first one only, and only before its first run.
func (p *Process) Initialize(ctx context.Context, system string) error {
	return p.InitializeWith(ctx, system, nil)
}

// InitializeWith is Initialize with what else a client asks of it: see Settings.First.
func (p *Process) InitializeWith(ctx context.Context, system string, first json.RawMessage) error {
	if _, err := p.control(ctx, claude.Initialize{AppendSystemPrompt: system, More: first}); err != nil {
		return fmt.Errorf("%w (stderr: %q)", err, p.StderrTail())
	}
	p.inForce.System, p.inForce.First = system, first
	return nil
}

// send writes one line to the CLI.
func (p *Process) send(line []byte) error {
	p.write.Lock()
	defer p.write.Unlock()
	if _, err := p.stdin.Write(line); err != nil {
		return fmt.Errorf("%w: %w", ErrDied, err)
	}
	return nil
}

// control makes a control request and waits for its answer.
func (p *Process) control(ctx context.Context, request any) (claude.Line, error) {
	id, reply := p.newControl()
	defer p.dropControl(id)
	failed := make(chan error, 1)
	go func() { // a CLI that doesn't read must not hold up a caller with a deadline; the end of its stdin ends this
		if err := p.send(claude.ControlRequest(id, request)); err != nil {
			failed <- err
		}
	}()
	select {
	case line := <-reply:
		if line.Subtype != "success" {
			return line, fmt.Errorf("%w: %s", errRefused, line.Error)
		}
		return line, nil
	case err := <-failed:
		return claude.Line{}, err
	case <-p.exited:
		return claude.Line{}, ErrDied
	case <-ctx.Done():
		return claude.Line{}, context.Cause(ctx)
	}
}

// newControl makes an id for a control request, whose answer reply gets.
func (p *Process) newControl() (id string, reply chan claude.Line) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.nextID++
	id, reply = "cp-"+strconv.Itoa(p.nextID), make(chan claude.Line, 1)
	p.controls[id] = reply
	return id, reply
}

func (p *Process) dropControl(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.controls, id)
}

// read takes the CLI's output apart until it ends.
func (p *Process) read(stdout io.ReadCloser) {
	defer stdout.Close()
	lines := claude.NewReader(stdout)
	var err error
	for err == nil {
		var raw []byte
		if raw, err = lines.Next(); err == nil {
			p.noteActivity()
			p.dispatch(raw)
		}
	}
	if !errors.Is(err, io.EOF) {
		p.log.Warn("reading a process failed", "pid", p.PID(), "error", err)
		p.kill()
	}
	p.grant.ProcessEnded()
	p.mu.Lock()
	t := p.turn
	p.ended = true
	close(p.exited)
	p.mu.Unlock()
	p.dropAsks()
	if t != nil {
		t.fail(ErrDied)
	}
}

// dispatch hands one line to whom it is for. Lines that aren't JSON and lines that belong to no turn of ours (what the
// CLI does of itself between turns, echoes of control requests) are dropped.
func (p *Process) dispatch(raw []byte) {
	if inner := p.inner.Load(); inner != nil {
		inner.Replace(raw)
	}
	line, err := claude.ParseLine(raw)
	if err != nil {
		if !p.wroteGarbage.Swap(true) { // said once, or what a process writes would fill the log
			p.log.Warn("a process wrote something that is not JSON", "pid", p.PID(), "bytes", len(raw))
		}
		return
	}
	switch line.Type {
	case "control_response":
		p.mu.Lock()
		reply := p.controls[line.RequestID]
		delete(p.controls, line.RequestID)
		p.mu.Unlock()
		if reply != nil {
			reply <- line
		}
	case "control_request":
		if line.Asks == "mcp_message" && p.askedOfTools(line) {
			return
		}
		if p.asked(line) {
			p.show(line, (*turn).addShown)
		}
	case "control_cancel_request":
		if p.withdrawn(line.RequestID) {
			p.show(line, (*turn).addShown)
		}
	default:
		p.show(line, (*turn).add)
	}
}

// show hands a line to the run, if there is one.
func (p *Process) show(line claude.Line, add func(*turn, claude.Line)) {
	p.mu.Lock()
	t := p.turn
	p.mu.Unlock()
	if t != nil {
		add(t, line)
	}
}

// noteActivity notes that the CLI has said something, or was asked for something.
func (p *Process) noteActivity() { p.lastLine.Store(time.Now().UnixNano()) }

// silentFor is how long neither the CLI nor the API has said anything.
func (p *Process) silentFor() time.Duration {
	last := time.Unix(0, p.lastLine.Load())
	if api := p.grant.LastHeard(); api.After(last) {
		last = api
	}
	return time.Since(last)
}
