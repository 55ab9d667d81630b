package pool

import (
	"encoding/json"
	"maps"

	"claudepool/pool/api"
	"claudepool/pool/claude"
	"claudepool/pool/cli"
)

// with returns the settings a request leads to: what it omits stays as it is.
func with(s cli.Settings, req *api.Request) cli.Settings {
	if req.Model != "" {
		s.Model = req.Model
	}
	if req.FallbackModel != nil {
		s.Fallback = *req.FallbackModel
	}
	if req.PermissionMode != "" {
		s.Permission = req.PermissionMode
	}
	if req.System != nil {
		s.System = *req.System
	}
	if req.Thinking != nil {
		s.Thinking = req.Thinking
	}
	if req.MCPServers != nil {
		s.MCP = nil
	}
	if len(req.MCPServers) > 0 {
		s.MCP, _ = json.Marshal(req.MCPServers) // of strings only: can't fail, and sorted by name
	}
	if req.Background != "" {
		s.Background = req.Background == api.Wait
	}
	s.Interactive = s.Interactive || req.Interactive // a process that could ask needn't
	if req.Client != nil {
		s.First, s.Client = req.Client.First, req.Client.Live
	}
	s.Tools = definitionsOf(req.ClientTools) // who doesn't name them can't run them
	return s
}

// definitionsOf is how a process gets to know the client's tools.
func definitionsOf(tools []api.Tool) json.RawMessage {
	if len(tools) == 0 {
		return nil
	}
	all := make([]json.RawMessage, len(tools))
	for i, t := range tools {
		all[i] = claude.HostedTool(t.Name, t.Description, t.InputSchema)
	}
	list, _ := json.Marshal(all) // of JSON: can't fail
	return list
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

// Allowed refuses what a request may not ask of this pool.
func (p *Pool) Allowed(req *api.Request) error {
	if req.PermissionMode != "" && !p.opts.mayMode(req.PermissionMode) {
		return api.Invalid("permission_mode: %q is above what this service allows (%s)",
			req.PermissionMode, p.opts.PermissionMode)
	}
	if req.Interactive && !p.opts.Approvals {
		return api.Invalid("interactive: this service takes no approvals, as it isolates no processes or its operator has " +
			"said so")
	}
	if p.opts.Confined {
		return nil
	}
	for name, server := range req.MCPServers {
		if server.Command != "" {
			return api.Invalid("mcp_servers: %q has a command, which this service runs only while its isolation is in force",
				name)
		}
	}
	return nil
}

// Approves reports whether requests can be interactive.
func (p *Pool) Approves() bool { return p.opts.Approvals }

// permissionRank orders the permission modes by what they let a process do without anybody being asked.
func permissionRank(mode string) int {
	switch mode {
	case "plan":
		return 0
	case "default", "dontAsk":
		return 1
	case "acceptEdits":
		return 2
	}
	return 3
}
