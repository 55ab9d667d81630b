package messages

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"claudepool/pool/api"
)

const weather = `{"name":"weather","description":"tells","input_schema":{"type":"object"}}`

func TestDecode_ToolsOfTheClient(t *testing.T) {
	req, pooled, asked, err := Decode([]byte(`{`+hello+`,"mcp_servers":[{"type":"url","name":"a","url":"https://h/"}],
		"tool_choice":{"type":"auto"},"tools":[{"type":"mcp_toolset","mcp_server_name":"a"},`+weather+`,
		{"type":"custom","name":"clock","input_schema":{"type":"object"},"strict":true,
		"cache_control":{"type":"ephemeral"}}]}`),
		headers("X-Api-Key", key))
	require.NoError(t, err)
	require.Equal(t, Ignored{"max_tokens", "tools.strict"}, asked.Ignored)
	again, err := api.Decode(pooled)
	require.NoError(t, err)
	for _, r := range []*api.Request{req, again} {
		schema := json.RawMessage(`{"type":"object"}`)
		require.Equal(t, []api.Tool{{Name: "weather", Description: "tells", InputSchema: schema},
			{Name: "clock", InputSchema: schema}}, r.ClientTools)
	}
}

func TestDecode_ToolsThatCannotBeHadAreRefused(t *testing.T) {
	tool := func(name string) string { return `"tools":[{"name":"` + name + `","input_schema":{"type":"object"}}]` }
	for field, want := range map[string]string{
		`"tools":{}`: "tools: must be an array",
		`"tools":[{"type":"web_search_20250305","name":"web_search"}]`:   "tools.0.type",
		`"tools":[` + weather + `,{"name":"x"}]`:                         "tools.1.input_schema",
		`"tools":[` + weather + `,` + weather + `]`:                      "tools.1.name",
		tool(strings.Repeat("x", 65)):                                    "tools.0.name",
		tool("odd name"):                                                 "tools.0.name",
		tool(""):                                                         "tools.0.name",
		`"tools":[1]`:                                                    "tools.0.name",
		`"tools":[` + weather + `],"tool_choice":{"type":"any"}`:         "tool_choice",
		`"tools":[` + weather + `],"tool_choice":{"type":"none"}`:        "tool_choice",
		`"tool_choice":{"type":"tool","name":"weather"}`:                 "tool_choice",
		`"tool_choice":"auto"`:                                           "tool_choice",
		`"tool_choice":{"type":"auto","disable_parallel_tool_use":true}`: "disable_parallel_tool_use",
		`"tools":[` + strings.Repeat(weather+",", 300) + weather + `]`:   "at most 256",
		`"tools":[{"name":"a","input_schema":{"type":"object","x":"` + strings.Repeat("x", 300<<10) + `"}}]`: "in all",
		`"tools":[` + weather + `],"mcp_servers":[{"type":"url","name":"client","url":"https://h/"}]`:        "mcp_servers",
	} {
		_, _, _, err := Decode([]byte("{"+hello+","+field+"}"), headers("X-Api-Key", key))
		require.Error(t, err, field)
		require.Equal(t, 400, api.Known(err).Status, field)
		require.Contains(t, err.Error(), want)
	}
	_, _, _, err := Decode([]byte("{"+hello+`,"tool_choice":{"type":"none"},`+tool(strings.Repeat("x", 64))[:9]+"]}"),
		headers("X-Api-Key", key))
	require.NoError(t, err, "none is what there is without tools")
}

func TestFold_CallsOfTheClientsToolsEndTheMessage(t *testing.T) {
	call := func(name string) string {
		return `{"type":"assistant","message":{"id":"m","content":[{"type":"tool_use","id":"i-` + name + `",` +
			`"name":"` + name + `","input":{}}]}}`
	}
	event := func(data string) string { return `{"type":"stream_event","event":{` + data + `}}` }
	rome := api.ToolCall{ID: "i-weather", Name: "weather", Input: json.RawMessage(`{"of":"<Rome>"}`)}
	for _, hide := range []bool{false, true} {
		c := NewCollector(1 << 20)
		f := NewFold(&Asked{Model: "haiku", HideTools: hide}, "msg_x", c.Take)
		for _, line := range []string{
			event(`"type":"message_start","message":{"id":"m","model":"haiku","usage":{"input_tokens":3}}`),
			call("Bash"), call("mcp__client__weather"),
			event(`"type":"message_delta","delta":{"stop_reason":"tool_use"},"usage":{"output_tokens":4}`),
			event(`"type":"message_stop"`),
			string(api.ToolCallsEvent([]api.ToolCall{rome})),
		} {
			f.Take([]byte(line))
		}
		require.Nil(t, f.End())
		own := `{"type":"mcp_tool_use","id":"i-Bash","name":"Bash","server_name":"claude-code","input":{}},` +
			`{"type":"mcp_tool_result","tool_use_id":"i-Bash","is_error":false,"content":[]},`
		if hide {
			own = ""
		}
		require.JSONEq(t, `{"id":"m","type":"message","role":"assistant","model":"haiku","content":[`+own+
			`{"type":"tool_use","id":"i-weather","name":"weather","input":{"of":"<Rome>"}}],"stop_reason":"tool_use",
			"stop_sequence":null,"stop_details":null,"usage":{"input_tokens":3,"cache_creation_input_tokens":0,
			"cache_read_input_tokens":0,"output_tokens":4}}`, string(c.Message()))
	}
}
