package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"claudepool/pool/claude"
)

// Settings are what a process can be asked for beside its messages.
type Settings struct {
	Model      string // empty: the CLI's own default
	Fallback   string
	Permission string
	System     string
	Thinking   *bool           // nil: the CLI's own default
	MCP        json.RawMessage // an object of servers by name; nil: none
	Background bool            // work that outlives its turn is offered, and a run waits for it
	// Interactive says that the CLI asks its host before what needs approval, and can have it ask the user questions.
	Interactive bool
	// First is what a client asks of a process's first handshake, and Client what it asks of a later one: objects with
	// fields of claude.Initialize; nil: nothing.
	First, Client json.RawMessage
	// Tools are those that the host runs: a list of definitions as MCP has them. nil is none.
	Tools json.RawMessage
}

// equal spares what reflect.DeepEqual allocates, as every request asks.
func (s Settings) equal(o Settings) bool {
	thinking := s.Thinking == o.Thinking || s.Thinking != nil && o.Thinking != nil && *s.Thinking == *o.Thinking
	return thinking && s.Model == o.Model && s.Fallback == o.Fallback && s.Permission == o.Permission &&
		s.System == o.System && s.Background == o.Background && s.Interactive == o.Interactive &&
		bytes.Equal(s.First, o.First) && bytes.Equal(s.Client, o.Client) &&
		bytes.Equal(s.MCP, o.MCP) && (s.MCP == nil) == (o.MCP == nil) && bytes.Equal(s.Tools, o.Tools)
}

func settingsOf(o claude.Options) Settings {
	return Settings{Model: o.Model, Fallback: o.FallbackModel, Permission: o.PermissionMode, Background: o.Background,
		Interactive: o.Interactive}
}

// Refusal is the error of settings that the CLI doesn't take. Those that were in force stay.
type Refusal struct {
	Field  string // the request's name for it
	Reason string // the CLI's words, valid UTF-8 and without the broker's address
	Passes bool   // it may be taken later: the CLI asks the API about a model it doesn't know, which had no answer now
}

func (r *Refusal) Error() string { return r.Field + ": refused: " + r.Reason }

// lasting are the CLI's codes for what it won't take later either, as seen in 2.1.330: there is no such model, the API
// has said a 400 or 403, the CLI doesn't know the request, or what is wrong is said in words alone.
var lasting = []string{"", "not_found", "check_rejected", "unsupported_request"}

// Satisfies reports whether a message with the wanted settings can be run as the process is.
func (p *Process) Satisfies(wanted Settings) bool {
	return p.Alive() && !p.Unusable() && !p.modeChanged.Load() && p.inForce.equal(wanted)
}

// NeedsRestart reports whether the process can't be fitted to the wanted settings: it has ended or isn't to be used
// again, or they differ in what only a new process can change.
func (p *Process) NeedsRestart(wanted Settings) bool {
	s := p.inForce
	return !p.Alive() || p.Unusable() || s.System != wanted.System || s.Fallback != wanted.Fallback ||
		s.Background != wanted.Background || s.Interactive != wanted.Interactive ||
		!bytes.Equal(s.First, wanted.First) || s.Client != nil && wanted.Client == nil ||
		!p.tools.canHave(wanted.Tools) ||
		wanted.Model == "" && s.Model != "" || wanted.Thinking == nil && s.Thinking != nil
}

// Fit changes a live process to the wanted settings by control requests. The error is a *Refusal if the CLI refuses
// one.
func (p *Process) Fit(ctx context.Context, wanted Settings) error {
	if wanted.Model != p.inForce.Model {
		if err := p.change(ctx, "model", claude.SetModel{Model: wanted.Model}); err != nil {
			return err
		}
		p.inForce.Model = wanted.Model
	}
	if wanted.Permission != p.inForce.Permission || p.modeChanged.Load() {
		if err := p.change(ctx, "permission_mode", claude.SetPermissionMode{Mode: wanted.Permission}); err != nil {
			return err
		}
		p.inForce.Permission = wanted.Permission
		p.modeChanged.Store(false)
	}
	if wanted.Thinking != nil && (p.inForce.Thinking == nil || *p.inForce.Thinking != *wanted.Thinking) {
		if err := p.change(ctx, "thinking", claude.SetThinking{On: *wanted.Thinking}); err != nil {
			return err
		}
		p.inForce.Thinking = wanted.Thinking
	}
	if !bytes.Equal(wanted.MCP, p.inForce.MCP) || !bytes.Equal(wanted.Tools, p.inForce.Tools) {
		if err := p.fitServers(ctx, wanted); err != nil {
			return err
		}
	}
	if !bytes.Equal(wanted.Client, p.inForce.Client) {
		if err := p.change(ctx, "initialize", claude.Initialize{More: wanted.Client}); err != nil {
			return err
		}
		p.inForce.Client = wanted.Client
	}
	return nil
}

// change makes one control request on behalf of the request's field.
func (p *Process) change(ctx context.Context, field string, request any) error {
	line, err := p.control(ctx, request)
	if errors.Is(err, errRefused) {
		return &Refusal{Field: field, Reason: strings.ToValidUTF8(string(p.grant.Scrub([]byte(line.Error))), ""),
			Passes: !slices.Contains(lasting, line.ErrorCode)}
	}
	return err
}
