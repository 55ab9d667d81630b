package cli

import (
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"claudepool/pool/claude"
)

// toolList is a list of definitions of these names.
func toolList(names ...string) json.RawMessage {
	var all []json.RawMessage
	for _, name := range names {
		all = append(all, claude.HostedTool(name, "tells", json.RawMessage(`{"type":"object"}`)))
	}
	list, _ := json.Marshal(all)
	return list
}

func mcp(id, method string) string {
	return `{"type":"control_request","request_id":"` + id + `","request":{"subtype":"mcp_message",` +
		`"server_name":"client","message":{"jsonrpc":"2.0","id":7,"method":"` + method +
		`","params":{"protocolVersion":"2025-11-25"}}}}`
}

// fitTools has the process fitted by a CLI that asks for the list of tools when it is told of their server.
func (c *fakeCLI) fitTools(wanted Settings) (requests []string, listed []gjson.Result) {
	c.t.Helper()
	fitted := later(func() error { return c.proc.Fit(c.t.Context(), wanted) })
	for {
		synctest.Wait() // what was told comes before the end
		select {
		case line := <-c.told:
			if line.Get("type").Str == "control_response" {
				listed = append(listed, line.Get("response.response.mcp_response"))
				continue
			}
			request := line.Get("request")
			requests = append(requests, request.Get("subtype").Str+" "+request.Get("servers").Raw+
				request.Get("settings.permissions.allow").Raw)
			c.grant(line.Get("request_id").Str, "{}")
			if request.Get("servers.client").Exists() {
				c.say(mcp("list", claude.MCPList))
			}
		default:
			require.NoError(c.t, <-fitted)
			return requests, listed
		}
	}
}

func TestTools_AreListedBeforeTheProcessIsFitted(t *testing.T) {
	bubble(t, func(t *testing.T, c *fakeCLI) {
		wanted := Settings{MCP: servers, Tools: toolList("one", "two")}
		requests, listed := c.fitTools(wanted)
		with := claude.WithServer(servers, ToolServer)
		require.Equal(t, []string{`apply_flag_settings ["mcp__client"]`,
			"mcp_set_servers " + strings.TrimSpace(string(with))}, requests)
		require.Len(t, listed, 1)
		require.EqualValues(t, 7, listed[0].Get("id").Int())
		require.JSONEq(t, string(wanted.Tools), listed[0].Get("result.tools").Raw)
		require.True(t, c.proc.Satisfies(wanted))

		wanted.Tools = toolList("three", "one")
		requests, listed = c.fitTools(wanted)
		require.Len(t, listed, 1)
		require.Equal(t, "mcp_set_servers "+string(servers), requests[1], "or the CLI wouldn't ask for the list again")
		wanted.Tools = nil
		requests, _ = c.fitTools(wanted)
		require.Equal(t, []string{"apply_flag_settings []", "mcp_set_servers " + string(servers)}, requests,
			"what others have under the name is not to run without approval")
	})
}

func TestTools_OfANameThatIsKnownThereIsOneDefinition(t *testing.T) {
	bubble(t, func(t *testing.T, c *fakeCLI) {
		c.fitTools(Settings{Tools: toolList("one")})
		c.fitTools(Settings{})
		require.False(t, c.proc.NeedsRestart(Settings{Tools: toolList("two", "one")}))
		changed := json.RawMessage(strings.ReplaceAll(string(toolList("one")), "tells", "sings"))
		require.True(t, c.proc.NeedsRestart(Settings{Tools: changed}))
	})
}

func TestTools_CallsAreTheHosts(t *testing.T) {
	bubble(t, func(t *testing.T, c *fakeCLI) {
		c.fitTools(Settings{Tools: toolList("one")})
		h := &silent{taking: Take}
		c.proc.SetHost(h)
		c.say(mcp("init", "initialize"), mcp("call", claude.MCPCall), mcp("other", "resources/list"))
		answers := map[string]gjson.Result{}
		for range 2 {
			line := c.next()
			answers[line.Get("response.request_id").Str] = line.Get("response.response.mcp_response")
		}
		require.Equal(t, "2025-11-25", answers["init"].Get("result.protocolVersion").Str)
		require.True(t, answers["other"].Get("error.code").Exists())
		require.Len(t, h.asked, 1)
		require.Equal(t, "call", h.asked[0].ID)
	})
}
