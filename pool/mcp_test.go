package pool_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
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
	t.Parallel()
	s := newService(t, allowing(t, magpie))
	first := s.ask("ada", "one", nil)
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
	t.Parallel()
	s := newService(t, func(o *pool.Options) { o.SpawnTimeout = 20 * time.Second }) // of which a server has a third
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

// init makes the test binary an MCP server on its standard input and output.
func init() {
	if len(os.Args) < 2 || os.Args[1] != "-mcp" {
		return
	}
	server := mcp.NewServer(&mcp.Implementation{Name: "owls", Version: "1"}, nil)
	_ = server.Run(context.Background(), &mcp.StdioTransport{})
	os.Exit(0)
}

// commandLines are those of all processes, by pid.
func commandLines(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	lines := make(map[string]string)
	for _, file := range files {
		if line, err := os.ReadFile(file); err == nil {
			lines[filepath.Base(filepath.Dir(file))] = string(line)
		}
	}
	return lines
}

// Everybody on the machine can read command lines. The servers get their secrets all the same, which are words that no
// other test says.
func TestPool_SecretsOfMCPServersAreInNoCommandLine(t *testing.T) {
	t.Parallel()
	s := newService(t, func(o *pool.Options) { o.Confined = true })
	var keys sync.Map
	birds := toolServer(t)
	upstream, err := url.Parse(birds)
	require.NoError(t, err)
	proxy := httputil.NewSingleHostReverseProxy(upstream)
	proxy.FlushInterval = -1
	door := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		keys.Store(r.Header.Get("X-Key"), true)
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(func() { door.CloseClientConnections(); door.Close() })
	self, err := os.Executable()
	require.NoError(t, err)
	seen := fmt.Sprint("seen-", os.Getpid()) // an argument, which is no place for a secret
	r := s.ask("ada", "one", fields{"mcp_servers": fields{
		"birds": fields{"type": "http", "url": door.URL, "headers": fields{"X-Key": "gentian-of-the-header"}},
		"owls": fields{"command": self, "args": []string{"-mcp",
			seen}, "env": fields{"OWL_KEY": "gentian-of-the-environment"}},
	}})
	require.Equal(t, "reply to: one", r.text(t))
	for _, name := range []string{"birds", "owls"} {
		require.Equal(t, "connected", r.of("system")[0].Get(`mcp_servers.#(name=="`+name+`").status`).Str, r.body)
	}
	_, came := keys.Load("gentian-of-the-header")
	require.True(t, came)

	owls := ""
	for pid, line := range commandLines(t) {
		if strings.Contains(line, seen) && strings.Contains(line, "-mcp") {
			owls = pid
		}
		require.NotContains(t, line, "gentian", pid)
		require.NotContains(t, line, token("ada"), pid)
	}
	require.NotEmpty(t, owls, "the control: an argument is found")
	environment, err := os.ReadFile("/proc/" + owls + "/environ")
	require.NoError(t, err)
	require.Contains(t, string(environment), "gentian-of-the-environment")
	require.NotContains(t, s.logs.String(), "gentian")
}
