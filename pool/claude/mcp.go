package claude

import (
	"encoding/json"

	"github.com/tidwall/gjson"
)

// MCPMessage is what the CLI says to an MCP server that lives in its host: JSON-RPC, in a control request of the
// subtype mcp_message. The CLI is the only client of such a server, so that what of the protocol stands here is what it
// speaks.
type MCPMessage struct {
	Server string
	Method string
	id     json.RawMessage // empty: it is a notification
	params gjson.Result
}

// ReadMCP reads the control request.
func ReadMCP(line []byte) MCPMessage {
	request := gjson.GetBytes(line, "request")
	message := request.Get("message")
	return MCPMessage{Server: request.Get("server_name").Str, Method: message.Get("method").Str,
		id: json.RawMessage(message.Get("id").Raw), params: message.Get("params")}
}

// What the CLI says to such a server. Everything else is refused, or only told.
const (
	mcpInitialize = "initialize"
	mcpPing       = "ping"
	MCPList       = "tools/list"
	MCPCall       = "tools/call"
)

// methodNotFound is JSON-RPC's code.
const methodNotFound = -32601

// Call reads a call of a tool: the model's id for it, the tool and its input, an object.
func (m MCPMessage) Call() (id, name string, input json.RawMessage) {
	input = json.RawMessage(`{}`)
	if arguments := m.params.Get("arguments"); arguments.IsObject() {
		input = json.RawMessage(arguments.Raw)
	}
	return m.params.Get("_meta.claudecode/toolUseId").Str, m.params.Get("name").Str, input
}

// Answer is what the control request is answered with by a server that has the tools, a list as MCP defines it. It is
// not for calls.
func (m MCPMessage) Answer(tools json.RawMessage) json.RawMessage {
	switch m.Method {
	case mcpInitialize:
		return m.result(map[string]any{"protocolVersion": m.params.Get("protocolVersion").Str,
			"capabilities": map[string]any{"tools": struct{}{}},
			"serverInfo":   map[string]string{"name": m.Server, "version": "1"}})
	case MCPList:
		return m.result(map[string]any{"tools": tools})
	case mcpPing:
		return m.result(struct{}{})
	}
	if len(m.id) == 0 {
		m.id = json.RawMessage(`0`)
		return m.result(struct{}{}) // the CLI waits for an answer to notifications, too
	}
	return m.response("error", map[string]any{"code": methodNotFound, "message": "not supported"})
}

// Result is what a call is answered with: MCP's content blocks.
func (m MCPMessage) Result(content []json.RawMessage, isError bool) json.RawMessage {
	if content == nil {
		content = []json.RawMessage{}
	}
	return m.result(map[string]any{"content": content, "isError": isError})
}

func (m MCPMessage) result(result any) json.RawMessage { return m.response("result", result) }

func (m MCPMessage) response(kind string, value any) json.RawMessage {
	return line(map[string]any{"mcp_response": map[string]any{"jsonrpc": "2.0", "id": m.id, kind: value}})
}

// WithServer are MCP servers, an object by their names, with one more that lives in the host.
func WithServer(servers json.RawMessage, name string) json.RawMessage {
	all := make(map[string]json.RawMessage)
	if servers != nil {
		_ = json.Unmarshal(servers, &all) // it was an object before
	}
	all[name] = line(map[string]string{"type": "sdk", "name": name})
	return line(all)
}

// HostedTool is the definition of a tool, in a list as MCP defines it. It is offered to the model as it is, without
// having to be looked up first, and calls that come together run together, as what they do is known to their client
// alone.
func HostedTool(name, description string, schema json.RawMessage) json.RawMessage {
	return line(struct {
		Name        string          `json:"name"`
		Description string          `json:"description,omitempty"`
		InputSchema json.RawMessage `json:"inputSchema"`
		Annotations map[string]bool `json:"annotations"`
		Meta        map[string]any  `json:"_meta"`
	}{name, description, schema, map[string]bool{"readOnlyHint": true},
		map[string]any{"anthropic/alwaysLoad": true, "anthropic/maxResultSizeChars": longestResult}})
}

// longestResult is how many characters of a tool's result the CLI passes on at most, whatever a server asks for. Of
// what is longer the model gets the beginning, and where the rest is.
const longestResult = 500_000
