package pool

import (
	"encoding/json"
	"maps"

	"claudepool/pool/api"
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
		s.MCP, _ = json.Marshal(req.MCPServers) // of strings only: can't fail, and sorted by name
	}
	if req.Background != "" {
		s.Background = req.Background == api.Wait
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
