package pool

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"reflect"
	"strings"

	"claudepool/pool/api"
	"claudepool/pool/claude"
)

// settings are what a request may ask of its conversation beside its message. In a process they are what is in force.
type settings struct {
	model      string // empty: the CLI's own default
	fallback   string
	permission string
	system     string
	thinking   *bool           // nil: the CLI's own default
	mcp        json.RawMessage // nil: none
}

// with returns the settings a request leads to: what it omits stays as it is.
func (s settings) with(req *api.Request) settings {
	if req.Model != "" {
		s.model = req.Model
	}
	if req.FallbackModel != nil {
		s.fallback = *req.FallbackModel
	}
	if req.PermissionMode != "" {
		s.permission = req.PermissionMode
	}
	if req.System != nil {
		s.system = *req.System
	}
	if req.Thinking != nil {
		s.thinking = req.Thinking
	}
	if req.MCPServers != nil {
		s.mcp, _ = json.Marshal(req.MCPServers) // of strings only: can't fail, and sorted by name
	}
	return s
}

// withoutCommands leaves MCP servers out that are programs.
func withoutCommands(servers json.RawMessage) json.RawMessage {
	var all map[string]api.MCPServer
	if servers == nil || json.Unmarshal(servers, &all) != nil {
		return nil
	}
	maps.DeleteFunc(all, func(_ string, s api.MCPServer) bool { return s.Command != "" })
	kept, _ := json.Marshal(all) // as in with
	return kept
}

// fits reports whether the process can have a turn with the wanted settings as it is.
func (p *process) fits(wanted settings) bool {
	return p.alive() && !p.spent() && reflect.DeepEqual(p.inForce, wanted)
}

// needsRestart reports whether the wanted settings differ in what only a new process can change.
func (s settings) needsRestart(wanted settings) bool {
	return s.system != wanted.system || s.fallback != wanted.fallback || wanted.model == "" && s.model != "" ||
		wanted.thinking == nil && s.thinking != nil
}

// fit changes a live process to the wanted settings by control requests. A refusal is the client's error: the settings
// that were in force stay.
func (p *process) fit(ctx context.Context, wanted settings, scrub func([]byte) []byte) error {
	if wanted.model != p.inForce.model {
		if err := p.change(ctx, "model", claude.SetModel{Model: wanted.model}, scrub); err != nil {
			return err
		}
		p.inForce.model = wanted.model
	}
	if wanted.permission != p.inForce.permission {
		if err := p.change(ctx, "permission_mode", claude.SetPermissionMode{Mode: wanted.permission}, scrub); err != nil {
			return err
		}
		p.inForce.permission = wanted.permission
	}
	if wanted.thinking != nil && (p.inForce.thinking == nil || *p.inForce.thinking != *wanted.thinking) {
		if err := p.change(ctx, "thinking", claude.SetThinking{On: *wanted.thinking}, scrub); err != nil {
			return err
		}
		p.inForce.thinking = wanted.thinking
	}
	if !bytes.Equal(wanted.mcp, p.inForce.mcp) {
		if err := p.change(ctx, "mcp_servers", claude.SetMCPServers{Servers: wanted.mcp}, scrub); err != nil {
			return err
		}
		p.inForce.mcp = wanted.mcp
	}
	return nil
}

// change makes one control request on behalf of the request's field.
func (p *process) change(ctx context.Context, field string, request any, scrub func([]byte) []byte) error {
	line, err := p.control(ctx, request)
	if errors.Is(err, errRefused) {
		reason := strings.ToValidUTF8(string(scrub([]byte(line.Error))), "")
		return api.Invalid("%s: refused: %s", field, reason)
	}
	return err
}
