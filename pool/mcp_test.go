package pool_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"claudepool/pool"
)

// toolServer is an MCP server with one tool, "magpie".
func toolServer(t *testing.T) string {
	t.Helper()
	server := mcp.NewServer(&mcp.Implementation{Name: "birds", Version: "1"}, nil)
	mcp.AddTool(server, &mcp.Tool{Name: "magpie", Description: "sings"},
		func(context.Context, *mcp.CallToolRequest, struct{}) (*mcp.CallToolResult, any, error) {
			return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: "chatter"}}}, nil, nil
		})
	h := httptest.NewServer(mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return server }, nil))
	t.Cleanup(func() {
		for session := range server.Sessions() {
			_ = session.Close()
		}
		h.CloseClientConnections()
		h.Close()
	})
	return h.URL
}

// servers are a request's MCP servers: one, at the URL.
func servers(url string) fields {
	return fields{"mcp_servers": fields{"birds": fields{"type": "http", "url": url}}}
}

// birds is the status of the MCP server as the turn's init line has it, or empty.
func (r reply) birds() string {
	return r.of("system")[0].Get(`mcp_servers.#(name=="birds").status`).Str
}

const magpie = "mcp__birds__magpie"

// tools are the names of the tools that the API was offered last. The CLI offers those of MCP servers once the model
// has looked them up; before, it only tells the model their names.
func (s *service) tools() []string {
	var names []string
	for _, name := range gjson.GetBytes(s.lastCall().Body, "tools.#.name").Array() {
		names = append(names, name.Str)
	}
	require.Contains(s.t, names, "Bash")
	return names
}

func TestPool_MCPServersComeAndGoOnALiveProcess(t *testing.T) {
	s := newService(t, nil)
	s.ask("ada", "one", fields{"system": "first"}).text(t)
	s.allow(magpie)
	first := s.ask("ada", "two", fields{"system": "second"}) // a restart, for the permission
	first.text(t)
	require.NotContains(t, first.body, magpie)

	with := s.ask("ada", "three", servers(toolServer(t)))
	with.text(t)
	require.Equal(t, first.pid, with.pid)
	require.Equal(t, "connected", with.birds())
	require.Contains(t, string(s.lastCall().Body), magpie, "the model is told of the tool")
	s.ask("ada", `[[tool=ToolSearch {"query":"select:`+magpie+`"}]]`, nil).text(t)
	require.Contains(t, s.tools(), magpie)
	called := s.ask("ada", "four [[tool=mcp__birds__magpie {}]]", nil) // what is omitted stays
	require.Equal(t, "tool said: chatter", called.text(t))

	without := s.ask("ada", "five [[tool="+magpie+" {}]]", fields{"mcp_servers": fields{}})
	require.Contains(t, without.text(t), "No such tool")
	require.Equal(t, first.pid, without.pid)
	require.Empty(t, without.birds())
	require.NotContains(t, without.of("system")[0].Get("tools").Raw, magpie)
}

func TestPool_MCPServersThatCantBeReachedFailByNameAndHoldUpNoTurn(t *testing.T) {
	s := newService(t, func(o *pool.Options) { o.SpawnTimeout = 6 * time.Second })
	first := s.ask("ada", "one", nil)
	first.text(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer silent.Close()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, closed.Close())
	for _, addr := range []net.Addr{closed.Addr(), silent.Addr()} {
		r := s.ask("ada", "two", servers("http://"+addr.String()))
		require.Equal(t, "reply to: two", r.text(t))
		require.Equal(t, first.pid, r.pid)
		require.Equal(t, "failed", r.birds(), "the client is told")
	}
}
