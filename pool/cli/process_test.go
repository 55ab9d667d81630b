package cli

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"claudepool/pool/broker"
	"claudepool/pool/confine"
)

func TestProcess_IsBoundToOneCredential(t *testing.T) {
	ada, bob := broker.Credential{OAuthToken: "ada"}, broker.Credential{OAuthToken: "bob"}
	bubble(t, func(t *testing.T, c *fakeCLI) {
		end := c.call()
		require.Equal(t, 1, c.proc.Calls())
		require.ErrorIs(t, c.proc.Bind(ada), broker.ErrBusy)
		end()
		require.Zero(t, c.proc.Calls())
		require.NoError(t, c.proc.Bind(ada))
		require.NoError(t, c.proc.Bind(ada))
		require.ErrorIs(t, c.proc.Bind(bob), broker.ErrBound)
		require.ErrorIs(t, c.proc.Rebind(bob, broker.Credential{APIKey: "bob"}), broker.ErrBound)
		require.NoError(t, c.proc.Rebind(ada, bob))
		require.NoError(t, c.proc.Bind(bob))
		c.die()
		<-c.proc.Exited()
		require.ErrorIs(t, c.proc.Bind(ada), broker.ErrBound)
		require.ErrorIs(t, c.proc.Bind(bob), ErrDied)
	})
}

func TestProcess_TellsOfItsChild(t *testing.T) {
	bubble(t, func(t *testing.T, c *fakeCLI) {
		require.Equal(t, 42, c.proc.PID())
		require.Equal(t, confine.Exit{Code: 3}, c.proc.Exit())
		require.Equal(t, "its last words", c.proc.StderrTail())
		require.False(t, c.proc.Resumed())
		require.NoError(t, c.proc.SetNice(1))
		require.NoError(t, c.proc.Signal(syscall.SIGSTOP))
		require.Equal(t, []syscall.Signal{syscall.SIGSTOP}, c.sent())
	})
}

func TestProcess_KillReturnsWhenNothingMoreIsRead(t *testing.T) {
	bubble(t, func(t *testing.T, c *fakeCLI) {
		require.True(t, c.proc.Alive())
		c.proc.Kill()
		require.False(t, c.proc.Alive())
		c.proc.Kill()
	})
}

func TestProcess_ItsAccessEndsWithIt(t *testing.T) {
	bubble(t, func(t *testing.T, c *fakeCLI) {
		ask := func() int {
			r := httptest.NewRequest(http.MethodPost, "/v1/messages", strings.NewReader("{}"))
			r.Header.Set("Authorization", "Bearer "+c.proc.Secret())
			w := httptest.NewRecorder()
			c.proc.grant.ServeHTTP(w, r)
			return w.Code
		}
		require.Equal(t, http.StatusServiceUnavailable, ask(), "it is nobody's")
		require.NoError(t, c.proc.Stop())
		require.Equal(t, http.StatusUnauthorized, ask())
	})
}

func TestProcess_WhatCantBeReadIsKilled(t *testing.T) {
	bubble(t, func(t *testing.T, c *fakeCLI) {
		r := c.begin(t.Context(), nil)
		_ = c.stdout.CloseWithError(errors.New("an error of the pipe"))
		require.ErrorIs(t, r.end(), ErrDied)
		require.Equal(t, []syscall.Signal{syscall.SIGKILL}, c.sent())
	})
}

// What it asks is answered when it reads; who asks without end is no CLI.
func TestProcess_OneThatAsksWithoutReadingIsKilled(t *testing.T) {
	t.Parallel()
	ask := func(i int) string { return fmt.Sprintf(`{"type":"control_request","request_id":"ask-%d"}`, i) }
	c := newCLI(t, newGrants(t))
	for i := range 100 {
		c.say(ask(i))
	}
	require.Empty(t, c.sent())
	c.listen()
	for range 100 {
		require.Equal(t, "control_response", c.next().Get("type").Str)
	}
	c = newCLI(t, newGrants(t))
	for i := 0; c.proc.Alive() && i < 1_000_000; i++ {
		c.say(ask(i))
	}
	require.Contains(t, c.sent(), syscall.SIGKILL)
	c = newCLI(t, newGrants(t))
	c.listen()
	c.say(`{"type":"control_request","request_id":"` + strings.Repeat("x", 1<<20) + `"}`)
	<-c.proc.Exited()
}

func TestFreeze_AProcessSleepsUntilItIsUsed(t *testing.T) {
	const stop, goOn = syscall.SIGSTOP, syscall.SIGCONT
	bubble(t, func(t *testing.T, c *fakeCLI) {
		p := c.proc
		idle := p.Idle()
		p.Thaw() // while the machine was looked at
		idle.stop()
		require.Empty(t, c.sent())
		p.Idle().stop()
		p.Idle().stop()
		require.Equal(t, []syscall.Signal{stop}, c.sent())
		p.Thaw()
		p.Thaw()
		require.Equal(t, []syscall.Signal{stop, goOn}, c.sent())
		p.Idle().stop()
		require.NoError(t, p.Stop())
		idle.stop()
		require.Equal(t, []syscall.Signal{stop, goOn, stop, goOn}, c.sent(), "or SIGTERM would not reach it")
	})
}

// Between the moment at which nobody uses a process and its freezing somebody may.
func TestFreeze_WhoUsesItBeforeItIsLookedAtFindsItAwake(t *testing.T) {
	bubble(t, func(t *testing.T, c *fakeCLI) {
		idle := c.proc.Idle()
		c.proc.Thaw()
		idle.stop()
		require.False(t, c.proc.Frozen())
		require.Empty(t, c.sent())
	})
}

func TestFreeze_WhoIsAboutToUseItAlwaysFindsItAwake(t *testing.T) {
	bubble(t, func(t *testing.T, c *fakeCLI) {
		p := c.proc
		for range 1000 {
			idle := p.Idle()
			go idle.stop()
			p.Thaw()
			synctest.Wait()
			require.False(t, p.Frozen())
		}
		stops := 0
		for i, s := range c.sent() {
			if s == syscall.SIGSTOP {
				stops++
				require.Equal(t, syscall.SIGCONT, c.sent()[i+1])
			}
		}
		require.Len(t, c.sent(), 2*stops)
	})
}

func TestFreeze_OneThatIsNotIdleGoesOn(t *testing.T) {
	bubble(t, func(t *testing.T, calling *fakeCLI) {
		calling.call()
		connected, dead := newCLI(t, calling.grants), newCLI(t, calling.grants)
		connected.listen()
		_, err := connected.fit(Settings{MCP: servers}, "")
		require.NoError(t, err)
		dead.die()
		<-dead.proc.Exited()
		Freeze(calling.proc.Idle(), connected.proc.Idle(), dead.proc.Idle())
		for _, c := range []*fakeCLI{calling, connected, dead} {
			require.Empty(t, c.sent())
		}
	})
}
