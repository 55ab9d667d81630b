package standby

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"claudepool/pool/broker"
	"claudepool/pool/claude"
	"claudepool/pool/cli"
)

// prompt is far less than the start's deadline, of those tests, and more than what is waited for at a gate.
const prompt = patience / 4

// newParking has a Keeper keep processes parked.
func newParking(t *testing.T, change func(*stage, *Options)) *stage {
	return newStage(t, func(s *stage, o *Options) {
		o.Parked = true
		if change != nil {
			change(s, o)
		}
	})
}

// usual is what processes are parked with.
var usual = Wish{CLI: claude.Options{PermissionMode: "default"}}

// unpark takes a parked process, which ends with the test.
func (s *stage) unpark() (*Process, error) {
	p, err := s.Unpark(s.t.Context(), ada, usual)
	if err == nil {
		s.t.Cleanup(func() { assert.NoError(s.t, p.Discard()) })
	}
	return p, err
}

func (s *stage) requireUnpark() *Process {
	s.t.Helper()
	p, err := s.unpark()
	require.NoError(s.t, err)
	return p
}

// seed writes the past of a conversation into a process's workspace and returns its session.
func seed(t testing.TB, p *Process, said string) (session string) {
	session = uuid.NewString()
	content, err := json.Marshal(said)
	assert.NoError(t, err)
	assert.NoError(t, p.Folder.WithTranscript(session, func(t claude.Transcript) error {
		_, err := t.Write([]claude.HistoryMessage{{Role: "user", Content: content},
			{Role: "assistant", Content: json.RawMessage(`"yes"`)}}, time.Now())
		return err
	}))
	return session
}

// fifos are the FIFOs, and the second names that were to take their places, of all workspaces.
func (s *stage) fifos() (found []string) {
	_ = filepath.WalkDir(s.root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && (d.Type() == fs.ModeNamedPipe || strings.HasSuffix(path, ".next")) {
			found = append(found, path)
		}
		return nil // of what is being removed
	})
	return found
}

// transcript is what a process's workspace has of a session.
func transcript(t testing.TB, p *Process, session string) (text string) {
	assert.NoError(t, p.Folder.WithTranscript(session, func(t claude.Transcript) error {
		lines, err := t.Read(1 << 20)
		text = string(lines)
		return err
	}))
	return text
}

func TestParked_OneGoesOnFromATranscript(t *testing.T) {
	t.Parallel()
	s := newParking(t, nil)
	s.await(1)
	require.Len(t, s.fifos(), 1)
	s.room.Store(0) // no other one
	p := s.requireUnpark()
	require.ErrorIs(t, p.Bind(eve), broker.ErrBound)
	gates := openGates(p)
	require.Equal(t, 2, gates, "the gate's, and its inner end")
	session := seed(t, p, "once upon a time")
	require.NoError(t, p.GoOn(t.Context(), session, "You are a zebra."))
	require.False(t, p.NeedsRestart(cli.Settings{Permission: "default", System: "You are a zebra."}))
	require.Empty(t, s.fifos())
	require.Zero(t, openGates(p))
	for range 2 {
		sessions, err := say(t.Context(), p.Process, "[[events=1]]")
		require.NoError(t, err)
		require.Equal(t, map[string]bool{session: true}, sessions)
	}
	text := transcript(t, p, session)
	require.Equal(t, 1, strings.Count(text, "once upon a time"))
	require.Equal(t, 2, strings.Count(text, "events=1"))
	entries, err := filepath.Glob(filepath.Join(p.Folder.Home, ".claude", "projects", "*", "*"))
	require.NoError(t, err)
	require.Len(t, entries, 1, "its transcript alone")
}

// openGates is how many of this process's descriptors are of FIFOs in a process's folder.
func openGates(p *Process) (n int) {
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		to, _ := os.Readlink("/proc/self/fd/" + e.Name())
		if strings.HasPrefix(to, p.Folder.Root+"/") && strings.Contains(to, ".jsonl") {
			n++
		}
	}
	return n
}

func TestParked_AFrozenOneGoesOn(t *testing.T) {
	t.Parallel()
	for name, real := range map[string]bool{"scripted": false, "real": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newParking(t, func(s *stage, o *Options) {
				o.FreezeAfter = 50 * time.Millisecond
				if real {
					s.useRealCLI()
				}
			})
			s.await(1)
			first := <-s.started
			s.awaitState(first.PID(), "T")
			s.room.Store(0)
			p := s.requireUnpark()
			require.Equal(t, first, p.Process)
			session := seed(t, p, "once")
			require.NoError(t, p.GoOn(t.Context(), session, ""))
			sessions, err := say(t.Context(), p.Process, "[[events=1]]")
			require.NoError(t, err)
			require.Equal(t, map[string]bool{session: true}, sessions)
		})
	}
}

func TestParked_OnlyOneThatWasStartedWithTheOptionsIsTaken(t *testing.T) {
	t.Parallel()
	s := newParking(t, nil)
	s.await(1)
	_, err := s.Unpark(t.Context(), ada, Wish{CLI: claude.Options{PermissionMode: "default", Model: "opus"}})
	require.ErrorIs(t, err, ErrNone)
	require.Equal(t, Stats{Ready: 1, Misses: 1}, s.Stats())
}

func TestParked_OneThatHasNotComeToItsGateIsNotHandedOut(t *testing.T) {
	t.Parallel()
	s := newParking(t, func(s *stage, _ *Options) { s.bin = script(t, mute) })
	<-s.started
	require.Never(t, func() bool { return s.Stats().Ready > 0 }, 300*time.Millisecond, 10*time.Millisecond)
	_, err := s.unpark()
	require.ErrorIs(t, err, ErrNone)
}

// What is killed before it was bound costs its user nothing: another one is handed out.
func TestParked_OneThatDiesBeforeItIsBoundIsPassedOver(t *testing.T) {
	t.Parallel()
	var once sync.Once
	killed := 0
	s := newParking(t, func(_ *stage, o *Options) {
		o.Min = 2
		o.OnClaim = func(p *cli.Process) { once.Do(func() { killed = p.PID(); p.Kill() }) }
	})
	s.await(2)
	p := s.requireUnpark()
	require.NotEqual(t, killed, p.PID())
	require.Empty(t, state(killed))
	require.NoError(t, p.GoOn(t.Context(), seed(t, p, "once"), ""))
}

func TestParked_OneThatDiesWhileItWaitsIsReplacedAndNothingOfItIsLeft(t *testing.T) {
	t.Parallel()
	s := newParking(t, nil)
	s.await(1)
	p := <-s.started
	p.Kill()
	s.eventually(func() bool { pids := s.readyPIDs(); return len(pids) == 1 && pids[0] != p.PID() })
	require.Equal(t, 1, s.workspaces())
	require.Len(t, s.fifos(), 1)
}

// A process that waits at its gate doesn't see the end of its stdin, which others are given time for.
func TestParked_OneThatNobodyGotEndsAtOnce(t *testing.T) {
	t.Parallel()
	s := newParking(t, func(s *stage, _ *Options) { s.bin = script(t, gateOf+`trap '' TERM; exec cat "$gate"`) })
	s.await(1)
	began := time.Now()
	s.Close()
	require.Less(t, time.Since(began), time.Second)
}

func TestParked_OneThatIsNotToGoOnLeavesNothingOfItsGate(t *testing.T) {
	t.Parallel()
	s := newParking(t, nil)
	s.await(1)
	s.room.Store(0)
	p := s.requireUnpark()
	require.NoError(t, p.LeaveGate())
	require.False(t, p.Alive())
	require.Empty(t, s.fifos())
	require.Zero(t, openGates(p))
}

// The following play a CLI.
const (
	gateOf = `for a; do case $a in --resume=*) gate=${a#--resume=};; esac; done; `
	opens  = gateOf + `exec 3< "$gate"; `
	die    = `kill -KILL $$`
)

// Whatever becomes of a process at its gate, its user is told soon, and nothing is left of the gate.
func TestParked_WhatGoesWrongAtTheGateIsToldSoon(t *testing.T) {
	long, short := strings.Repeat("once ", 200_000), "once"
	for name, c := range map[string]struct {
		cli   string // empty: the scripted one
		said  string // before
		fault func(*testing.T, *Process)
		want  error
	}{
		"it was killed when it was bound": {said: short, want: claude.ErrGate,
			fault: func(_ *testing.T, p *Process) { p.Kill() }},
		"it is killed when the name is the transcript's": {said: long, want: claude.ErrGate,
			cli: opens + `while [ -p "$gate" ]; do :; done; ` + die},
		"it is killed in the midst of reading": {said: long, want: claude.ErrGate,
			cli: opens + `head -c 70000 <&3 > /dev/null; ` + die},
		"it is killed when all is written": {said: short, want: cli.ErrDied,
			cli: opens + `cat <&3 > /dev/null; ` + die},
		"it reads no more":       {said: long, want: errGateTime, cli: opens + mute},
		"it doesn't answer":      {said: short, want: errGateTime, cli: opens + "cat <&3 > /dev/null; " + mute},
		"there is no transcript": {want: fs.ErrNotExist},
		"it is too large":        {said: strings.Repeat("x", MaxParked), want: claude.ErrTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newParking(t, func(s *stage, _ *Options) {
				if c.cli != "" {
					s.bin = script(t, c.cli)
				}
			})
			s.await(1)
			s.room.Store(0)
			p := s.requireUnpark()
			session := uuid.NewString()
			if c.said != "" {
				session = seed(t, p, c.said)
			}
			if c.fault != nil {
				c.fault(t, p)
			}
			began := time.Now()
			err := p.GoOn(t.Context(), session, "")
			require.True(t, errors.Is(err, c.want) || errors.Is(err, cli.ErrDied), err) // it is seen in two ways
			require.Less(t, time.Since(began), prompt)
			require.Empty(t, s.fifos(), "the folder is the conversation's by then")
			require.Zero(t, openGates(p))
			require.False(t, p.Alive())
		})
	}
}

// Who has left its gate before it is held there is of no use, whether it lives or not.
func TestParked_OneThatHasLeftItsGateIsPassedOver(t *testing.T) {
	for name, text := range map[string]string{"it ends": opens + "exit 0", "it lives": opens + "exec 3<&-; " + mute} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newParking(t, func(s *stage, o *Options) {
				s.bin = script(t, text)
				o.OnClaim = func(*cli.Process) { letGo(t, s.fifos()[0]) }
			})
			s.await(1)
			s.room.Store(0)
			began := time.Now()
			_, err := s.unpark()
			require.ErrorIs(t, err, ErrNone)
			require.Less(t, time.Since(began), prompt)
			require.Empty(t, s.fifos())
		})
	}
}

// letGo ends a process's waiting at its gate, and returns when it isn't there any more.
func letGo(t *testing.T, gate string) {
	open := func() error {
		w, err := os.OpenFile(gate, os.O_WRONLY|syscall.O_NONBLOCK, 0)
		if err == nil {
			err = w.Close()
		}
		return err
	}
	assert.NoError(t, open())
	assert.Eventually(t, func() bool { return errors.Is(open(), syscall.ENXIO) }, patience, time.Millisecond)
}
