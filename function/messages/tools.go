package messages

import (
	"github.com/tidwall/gjson"

	"claudepool/pool/api"
)

// toolFields are those of a tool that have their effect, or none that anybody could miss.
var toolFields = map[string]bool{"type": true, "name": true, "description": true, "input_schema": true,
	"cache_control": true}

// tools translates the tools that the client runs itself. Those of MCP servers are there anyway: clients name them
// that want all that a server has.
func (t *translation) tools() (err error) {
	list := t.sent["tools"]
	if !isSet(list) {
		return nil
	}
	if !list.IsArray() {
		return api.Invalid("tools: must be an array")
	}
	own, i := []byte(nil), 0
	list.ForEach(func(_, tool gjson.Result) bool {
		switch kind := tool.Get("type"); {
		case kind.Str == "mcp_toolset" && t.isServer(tool):
		case kind.Str == "mcp_toolset":
			err = api.Invalid("tools.%d: is not supported here but for all tools of a server in mcp_servers", i)
		case isSet(kind) && kind.Str != "custom":
			err = api.Invalid("tools.%d.type: is not supported here, only tools of the client's own with an input_schema", i)
		default:
			own = append(t.tool(append(own, ','), tool), '}')
		}
		i++
		return err == nil
	})
	if err != nil || own == nil {
		return err
	}
	own[0] = '['
	t.clientTools = true
	t.set("client_tools", string(append(own, ']')))
	return nil
}

// tool appends a tool as the pooled contract has it, but for its end.
func (t *translation) tool(to []byte, tool gjson.Result) []byte {
	to = append(to, `{"name":`...)
	to = append(to, rawOr(tool.Get("name"), `""`)...)
	tool.ForEach(func(name, value gjson.Result) bool {
		switch {
		case !isSet(value):
		case name.Str == "description", name.Str == "input_schema":
			to = append(append(append(append(to, ',', '"'), name.Str...), '"', ':'), value.Raw...)
		case !toolFields[name.Str]:
			t.ignored.Add("tools." + name.Str)
		}
		return true
	})
	return to
}

// isServer reports whether a tool stands for all that one of the request's servers has.
func (t *translation) isServer(tool gjson.Result) bool {
	is, n := false, 0
	t.sent["mcp_servers"].ForEach(func(_, server gjson.Result) bool {
		is = server.Get("name").Str == tool.Get("mcp_server_name").Str
		n++
		return !is && n < maxServers
	})
	tool.ForEach(func(name, value gjson.Result) bool {
		is = is && (name.Str == "type" || name.Str == "mcp_server_name" || !isSet(value))
		return is
	})
	return is
}

// choice refuses a choice of tools that the CLI can't be held to.
func (t *translation) choice() error {
	choice := t.sent["tool_choice"]
	kind := choice.Get("type").Str
	switch {
	case !isSet(choice):
	case !choice.IsObject():
		return api.Invalid("tool_choice: must be an object")
	case kind == "none" && !t.clientTools:
	case kind != "auto":
		return api.Invalid("tool_choice: is not supported here but for auto, as Claude Code has tools of its own")
	case choice.Get("disable_parallel_tool_use").Bool():
		return api.Invalid("tool_choice.disable_parallel_tool_use: is not supported here")
	}
	return nil
}

// clientCalls emits the calls of the client's own tools, for which the turn waits from here on.
func (f *Fold) clientCalls(calls gjson.Result) {
	f.endRepeat()
	f.start(gjson.Result{})
	f.close()
	f.resultsOfAll(false) // the process's own tools may go on while the client's do
	f.waits = true
	calls.ForEach(func(_, call gjson.Result) bool {
		f.openBlock(`{"type":"tool_use","id":` + call.Get("id").Raw + `,"name":` + call.Get("name").Raw + `,"input":{}}`)
		input := string(appendText([]byte(`{"type":"input_json_delta","partial_json":`), call.Get("input").Raw))
		f.passDelta(input + `}`)
		f.close()
		return true
	})
}
