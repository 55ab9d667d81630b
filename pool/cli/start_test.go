package cli

import (
	"context"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"claudepool/pool/broker"
	"claudepool/pool/claude"
	"claudepool/pool/confine"
	"claudepool/pool/pooltest"
	"claudepool/pool/workspace"
)

// host starts processes that are programs.
type host struct {
	t        *testing.T
	api      *pooltest.API
	broker   *broker.Broker
	launcher *confine.Launcher
	spec     Spec
}

// scriptedCLI is asked for by several tests, and to see that it is up to date takes a while too.
var scriptedCLI = sync.OnceValues(pooltest.ScriptedCLI)

func newHost(t *testing.T) *host {
	cli, err := scriptedCLI()
	require.NoError(t, err)
	api, err := pooltest.NewAPI(nil)
	require.NoError(t, err)
	t.Cleanup(api.Close)
	upstream, err := url.Parse(api.URL())
	require.NoError(t, err)
	log := slog.New(slog.DiscardHandler)
	b := broker.New(broker.Options{Upstream: upstream, Logger: log})
	t.Cleanup(b.Close)
	launcher, err := confine.New(confine.Options{Root: t.TempDir(), Logger: log})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, launcher.Close()) })
	folder, err := workspace.New(launcher)
	require.NoError(t, err)
	return &host{t: t, api: api, broker: b, launcher: launcher, spec: Spec{
		Bin: cli, Folder: folder,
		Options: claude.Options{SessionID: uuid.NewString(), Model: "haiku"}, MCPTimeout: time.Second, Logger: log,
		Limits: Limits{Silence: patience, InterruptGrace: patience, Turn: time.Hour, Approval: time.Hour,
			Rate: 1 << 30, Burst: 1 << 30},
	}}
}

func (h *host) start() *Process {
	h.t.Helper()
	p, err := Start(h.t.Context(), h.launcher, h.broker, h.spec)
	require.NoError(h.t, err)
	h.t.Cleanup(func() { require.NoError(h.t, p.Stop()) })
	return p
}

// run runs a message and returns its result's text.
func (h *host) run(p *Process, text string) string {
	h.t.Helper()
	emit := func(context.Context, [][]byte, *Outcome) error { return nil }
	outcome, err := p.Run(h.t.Context(), []byte(strconv.Quote(text)), func() {}, emit)
	require.NoError(h.t, err)
	require.True(h.t, outcome.Good())
	require.NotEmpty(h.t, outcome.Mark)
	return outcome.Result.Result
}

func (h *host) lastCall() pooltest.Call {
	calls := h.api.Calls()
	require.NotEmpty(h.t, calls)
	return calls[len(calls)-1]
}

// state is a process's state as the kernel has it: S sleeps, T is stopped.
func state(t require.TestingT, pid int) string {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	require.NoError(t, err)
	_, after, _ := strings.Cut(string(stat), ") ")
	return after[:1]
}

func TestStart_AProcessRunsSleepsGoesOnAndLeavesNothing(t *testing.T) {
	h := newHost(t)
	p := h.start()
	require.NoError(t, p.Bind(broker.Credential{OAuthToken: "token"}))
	require.NoError(t, p.Initialize(t.Context(), "be brief"))
	require.Equal(t, "reply to: one", h.run(p, "one"))
	require.Equal(t, "be brief", gjson.GetBytes(h.lastCall().Body, "system").Str)
	require.Equal(t, "Bearer token", h.lastCall().Header.Get("Authorization"))
	require.Eventually(t, func() bool { return p.Calls() == 0 }, patience, time.Millisecond)
	Freeze(p.Idle())
	require.Eventually(t, func() bool { return state(t, p.PID()) == "T" }, patience, time.Millisecond)
	p.Thaw()
	require.NoError(t, p.Fit(t.Context(), Settings{Model: "opus", System: "be brief"}))
	require.Equal(t, "reply to: two", h.run(p, "two"))
	require.Equal(t, "opus", h.lastCall().Model)
	require.Equal(t, []string{"user: one", "assistant: reply to: one", "user: two"}, h.lastCall().Messages())
	usages, err := Usage(p)
	require.NoError(t, err)
	require.Equal(t, 1, usages[0].Processes)
	Freeze(p.Idle())
	require.NoError(t, p.Stop(), "also while it sleeps")
	require.Zero(t, p.Exit().Code)
	<-p.Exited()
	_, err = os.Stat("/proc/" + strconv.Itoa(p.PID()))
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.NoError(t, p.Stop())
}

// Who uses too much of the machine may have to stand still for a moment, which wakes nobody who sleeps.
func TestStand_AProcessThatSleepsSleepsOn(t *testing.T) {
	p := newHost(t).start()
	require.NoError(t, p.Initialize(t.Context(), ""))
	families, err := Families(p)
	require.NoError(t, err)
	is := func(want string) {
		require.Eventually(t, func() bool { return state(t, p.PID()) == want }, patience, time.Millisecond)
	}
	p.SetStopped(families[0], true)
	is("T")
	p.SetStopped(families[0], false)
	is("S")
	Freeze(p.Idle())
	is("T")
	p.SetStopped(families[0], true)
	p.SetStopped(families[0], false)
	require.True(t, p.Frozen())
	require.Never(t, func() bool { return state(t, p.PID()) != "T" }, 100*time.Millisecond, time.Millisecond)
	p.Thaw()
	is("S")
}

func TestStart_WhatIsSaidBeforeItIsSomebodysIsForgotten(t *testing.T) {
	h := newHost(t)
	p := h.start()
	require.NoError(t, p.AskAside(t.Context(), "how are you"))
	require.NoError(t, p.Initialize(t.Context(), "be brief"), "not too late for a system prompt")
	require.NoError(t, p.WarmUp(t.Context(), []byte(`"warm up"`)))
	require.Empty(t, h.api.Calls())
	require.NoError(t, p.Bind(broker.Credential{APIKey: "key"}))
	require.Equal(t, "reply to: one", h.run(p, "one"))
	require.Equal(t, []string{"user: one"}, h.lastCall().Messages())
	require.Equal(t, "be brief", gjson.GetBytes(h.lastCall().Body, "system").Str)
}

func TestStart_AnAbandonedMessageIsForgottenAndADeadProcessGoneOnFrom(t *testing.T) {
	h := newHost(t)
	p := h.start()
	require.NoError(t, p.Bind(broker.Credential{APIKey: "key"}))
	h.run(p, "one")
	ctx, hangUp := context.WithCancelCause(t.Context())
	emit := func(context.Context, [][]byte, *Outcome) error { hangUp(errGone); return nil }
	_, err := p.Run(ctx, []byte(`"abandoned [[flood]]"`), func() {}, emit)
	require.Equal(t, errGone, err)
	require.True(t, p.Rewind(t.Context()))
	h.run(p, "two")
	outcome, err := p.Run(t.Context(), []byte(`"three [[exit]]"`), func() {}, emit)
	require.ErrorIs(t, err, ErrDied)
	require.True(t, outcome.Started)
	require.NoError(t, p.Stop())
	require.Equal(t, 1, p.Exit().Code)
	h.spec.Options.Resume = true
	again := h.start()
	require.True(t, again.Resumed())
	require.NoError(t, again.Bind(broker.Credential{APIKey: "key"}))
	h.run(again, "four")
	said := []string{"user: one", "assistant: reply to: one", "user: two", "assistant: reply to: two", "user: four"}
	require.Equal(t, said, h.lastCall().Messages())
}

func TestStart_WhatTheAPISaysOfAProcesssCredentialIsHeard(t *testing.T) {
	h := newHost(t)
	good := broker.Credential{OAuthToken: "good"}
	heard := make(chan broker.Verdict, 10)
	h.broker.OnAnswer(func(c broker.Credential, v broker.Verdict) {
		assert.Equal(t, good, c)
		heard <- v
	})
	p := h.start()
	require.NoError(t, p.Bind(good))
	h.run(p, "one")
	require.Equal(t, broker.Proven, <-heard)
	h.api.Admit(func(token string) int {
		if token == "good" {
			return 0
		}
		return 401
	})
	for credential, want := range map[broker.Credential]broker.Verdict{good: broker.Proven,
		{APIKey: "bad"}: broker.Rejected} {
		verdict, err := h.broker.Prove(t.Context(), credential)
		require.NoError(t, err)
		require.Equal(t, want, verdict)
	}
	require.Len(t, h.api.Counts(), 2)
	require.Empty(t, heard, "no process asked")
}

func TestStart_WhatCantBeStartedIsAnError(t *testing.T) {
	h := newHost(t)
	h.spec.Bin = filepath.Join(t.TempDir(), "missing")
	_, err := Start(t.Context(), h.launcher, h.broker, h.spec)
	require.ErrorIs(t, err, fs.ErrNotExist)
	h.spec.Bin = "/bin/false"
	p := h.start()
	require.ErrorIs(t, p.Initialize(t.Context(), ""), ErrDied)
}
