package cli

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"claudepool/pool/claude"
)

var (
	on, off = new(true), new(false)
	servers = json.RawMessage(`{"x":{"type":"http","url":"http://127.0.0.1:2"}}`)
	all     = Settings{Model: "haiku", Fallback: "sonnet", Permission: "plan", System: "be brief",
		Thinking: on, MCP: servers, Background: true}
)

// but is the settings with a change.
func (s Settings) but(change func(*Settings)) Settings {
	change(&s)
	return s
}

func TestSettings_WhatAProcessSatisfiesAndWhatNeedsAnother(t *testing.T) {
	for name, want := range map[string]struct {
		has, wanted          Settings
		satisfied, restarted bool
	}{
		"nothing":             {Settings{}, Settings{}, true, false},
		"the same":            {all, all.but(func(s *Settings) { s.Thinking = new(true) }), true, false},
		"a model":             {Settings{}, Settings{Model: "haiku"}, false, false},
		"another model":       {all, all.but(func(s *Settings) { s.Model = "opus" }), false, false},
		"the default model":   {all, all.but(func(s *Settings) { s.Model = "" }), false, true},
		"another fallback":    {all, all.but(func(s *Settings) { s.Fallback = "" }), false, true},
		"another permission":  {all, all.but(func(s *Settings) { s.Permission = "default" }), false, false},
		"a system prompt":     {Settings{}, Settings{System: "be brief"}, false, true},
		"no system prompt":    {all, all.but(func(s *Settings) { s.System = "" }), false, true},
		"thinking":            {Settings{}, Settings{Thinking: off}, false, false},
		"other thinking":      {all, all.but(func(s *Settings) { s.Thinking = off }), false, false},
		"the CLI's thinking":  {all, all.but(func(s *Settings) { s.Thinking = nil }), false, true},
		"MCP servers":         {Settings{}, Settings{MCP: servers}, false, false},
		"other MCP servers":   {all, all.but(func(s *Settings) { s.MCP = json.RawMessage(`{}`) }), false, false},
		"background":          {Settings{}, Settings{Background: true}, false, true},
		"no background":       {all, all.but(func(s *Settings) { s.Background = false }), false, true},
		"no more MCP servers": {all, all.but(func(s *Settings) { s.MCP = nil }), false, false},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, c *fakeCLI) {
				c.proc.inForce = want.has
				require.Equal(t, want.satisfied, c.proc.Satisfies(want.wanted))
				require.Equal(t, want.restarted, c.proc.NeedsRestart(want.wanted))
				c.die()
				<-c.proc.Exited()
				require.False(t, c.proc.Satisfies(want.wanted))
				require.True(t, c.proc.NeedsRestart(want.wanted))
			})
		})
	}
}

func TestSettings_ThoseOfTheCommandLineAreInForceFromTheStart(t *testing.T) {
	options := claude.Options{SessionID: "s", Model: "haiku", FallbackModel: "sonnet", PermissionMode: "plan",
		Background: true}
	require.Equal(t, Settings{Model: "haiku", Fallback: "sonnet", Permission: "plan", Background: true},
		settingsOf(options))
}

// fit has the process fitted, with a CLI that takes everything but the subtype refused, and returns what it was asked.
func (c *fakeCLI) fit(wanted Settings, refused string) (requests []string, err error) {
	c.t.Helper()
	fitted := later(func() error { return c.proc.Fit(c.t.Context(), wanted) })
	for {
		select {
		case err = <-fitted:
			return requests, err
		case line := <-c.told:
			requests = append(requests, line.Get("request").Raw)
			if id := line.Get("request_id").Str; line.Get("request.subtype").Str == refused {
				c.refuse(id, "no \xff"+c.proc.grant.URL())
			} else {
				c.grant(id, "{}")
			}
		}
	}
}

func TestFit_AsksForNoMoreThanWhatDiffers(t *testing.T) {
	bubble(t, func(t *testing.T, c *fakeCLI) {
		wanted := Settings{Model: "haiku", Permission: "plan", Thinking: on, MCP: servers}
		requests, err := c.fit(wanted, "")
		require.NoError(t, err)
		require.Len(t, requests, 4)
		require.JSONEq(t, `{"subtype":"set_model","model":"haiku"}`, requests[0])
		require.JSONEq(t, `{"subtype":"set_permission_mode","mode":"plan"}`, requests[1])
		require.JSONEq(t, `{"subtype":"set_max_thinking_tokens","max_thinking_tokens":null}`, requests[2])
		require.JSONEq(t, `{"subtype":"mcp_set_servers","servers":`+string(servers)+`}`, requests[3])
		require.True(t, c.proc.Satisfies(wanted))
		for _, change := range []func(*Settings){
			func(s *Settings) { s.Thinking = new(true) },
			func(s *Settings) { s.Thinking = off },
			func(s *Settings) { s.Model = "opus" },
			func(s *Settings) { s.Permission = "default" },
			func(s *Settings) { s.MCP = nil },
		} {
			same := c.proc.Satisfies(wanted.but(change))
			wanted = wanted.but(change)
			requests, err = c.fit(wanted, "")
			require.NoError(t, err)
			require.Equal(t, same, len(requests) == 0)
			require.LessOrEqual(t, len(requests), 1)
			require.True(t, c.proc.Satisfies(wanted))
		}
	})
}

func TestFit_ARefusalLeavesInForceWhatWas(t *testing.T) {
	for subtype, want := range map[string]struct {
		field   string
		inForce Settings
	}{
		"set_model":               {"model", Settings{}},
		"set_permission_mode":     {"permission_mode", Settings{Model: "haiku"}},
		"set_max_thinking_tokens": {"thinking", Settings{Model: "haiku", Permission: "plan"}},
		"mcp_set_servers":         {"mcp_servers", Settings{Model: "haiku", Permission: "plan", Thinking: off}},
	} {
		t.Run(want.field, func(t *testing.T) {
			bubble(t, func(t *testing.T, c *fakeCLI) {
				requests, err := c.fit(Settings{Model: "haiku", Permission: "plan", Thinking: off, MCP: servers}, subtype)
				var refusal *Refusal
				require.ErrorAs(t, err, &refusal)
				require.Equal(t, Refusal{Field: want.field, Reason: "no the API"}, *refusal)
				require.Equal(t, want.field+": refused: no the API", err.Error())
				require.Equal(t, subtype, gjson.Get(requests[len(requests)-1], "subtype").Str, "nothing is asked after it")
				require.Equal(t, want.inForce, c.proc.inForce)
				require.False(t, c.proc.connected.Load())
			})
		})
	}
}

func TestFit_AnAnswerThatComesTooLateIsNobodys(t *testing.T) {
	bubble(t, func(t *testing.T, c *fakeCLI) {
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errGone)
		defer cancel()
		require.Equal(t, errGone, c.proc.Fit(ctx, Settings{Model: "haiku"}))
		late := c.asked("set_model")
		fitted := later(func() error { return c.proc.Fit(t.Context(), Settings{Model: "opus"}) })
		id := c.asked("set_model")
		c.grant(late, "{}")
		c.idle()
		require.Empty(t, fitted)
		require.Empty(t, c.proc.inForce)
		c.grant(id, "{}")
		c.refuse(id, "only the first answer counts")
		require.NoError(t, <-fitted)
		require.Equal(t, "opus", c.proc.inForce.Model)
		c.proc.mu.Lock()
		defer c.proc.mu.Unlock()
		require.Empty(t, c.proc.controls)
	})
}

func TestFit_ADeathIsNoRefusal(t *testing.T) {
	bubble(t, func(t *testing.T, c *fakeCLI) {
		fitted := later(func() error { return c.proc.Fit(t.Context(), Settings{Model: "haiku"}) })
		c.asked("set_model")
		c.die()
		err := <-fitted
		require.ErrorIs(t, err, ErrDied)
		require.NotErrorAs(t, err, new(*Refusal))
		require.ErrorIs(t, c.proc.Fit(t.Context(), Settings{Model: "haiku"}), ErrDied)
	})
}

func TestInitialize_TheSystemPromptIsInForceOnceItIsTaken(t *testing.T) {
	bubble(t, func(t *testing.T, c *fakeCLI) {
		initialize := func() <-chan error { return later(func() error { return c.proc.Initialize(t.Context(), "be brief") }) }
		done := initialize()
		c.refuse(c.asked("initialize"), "not now")
		require.EqualError(t, <-done, `cli: refused: not now (stderr: "its last words")`)
		require.Empty(t, c.proc.inForce)
		done = initialize()
		line := c.next()
		require.Equal(t, "be brief", line.Get("request.appendSystemPrompt").Str)
		c.grant(line.Get("request_id").Str, "{}")
		require.NoError(t, <-done)
		require.True(t, c.proc.Satisfies(Settings{System: "be brief"}))
		done = initialize()
		c.asked("initialize")
		c.die()
		require.ErrorIs(t, <-done, ErrDied)
	})
}
