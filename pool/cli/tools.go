package cli

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/tidwall/gjson"

	"claudepool/pool/claude"
)

// ToolServer is the MCP server that has the tools which the host runs. Their names begin with it: mcp__client__….
const ToolServer = "client"

// listTime is how long a CLI may take to ask which tools there are, once it knows of the server.
const listTime = 10 * time.Second

// mostTools is about how many names a CLI is told of, all of which it keeps.
const mostTools = 1024

var errUnlisted = errors.New("cli: the tools were not listed in time")

// toolServer answers the CLI what the server's tools are. Calls are asks, for the Host.
type toolServer struct {
	mu    sync.Mutex // guards the following
	tools json.RawMessage
	told  func() // says that the CLI has been told of them
	// telling says that it hasn't read them yet
	telling bool
	// seen has the digests of all definitions that the CLI was ever told: of a name that it knows it takes no other.
	seen map[string][sha256.Size]byte
}

// set says which tools there are from now on. listed is closed when the CLI knows.
func (s *toolServer) set(tools json.RawMessage) (listed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	told := make(chan struct{})
	s.tools, s.told = tools, sync.OnceFunc(func() { close(told) })
	if s.seen == nil {
		s.seen = make(map[string][sha256.Size]byte)
	}
	eachTool(tools, func(name string, digest [sha256.Size]byte) bool {
		s.seen[strings.Clone(name)] = digest // a part of the list, which would be kept with it
		return true
	})
	return told
}

// clear says that there are none: another server may have the name.
func (s *toolServer) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tools = nil
}

// canHave reports whether a live CLI can be given these tools.
func (s *toolServer) canHave(tools json.RawMessage) bool {
	if tools == nil {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	can := len(s.seen) < mostTools
	eachTool(tools, func(name string, digest [sha256.Size]byte) bool {
		before, known := s.seen[name]
		can = can && !known || known && before == digest
		return can
	})
	return can
}

func eachTool(tools json.RawMessage, do func(name string, digest [sha256.Size]byte) bool) {
	gjson.ParseBytes(tools).ForEach(func(_, tool gjson.Result) bool {
		return do(tool.Get("name").String(), sha256.Sum256([]byte(tool.Raw)))
	})
}

// askedOfTools answers what the CLI asks the server but for calls, and reports whether it did.
func (p *Process) askedOfTools(line claude.Line) bool {
	m := claude.ReadMCP(line.Raw)
	if m.Server != ToolServer || m.Method == claude.MCPCall {
		return false
	}
	p.tools.mu.Lock()
	defer p.tools.mu.Unlock()
	if p.tools.tools == nil {
		return false
	}
	answer := claude.AnswerControl(line.RequestID, m.Answer(p.tools.tools))
	if m.Method != claude.MCPList {
		p.answerNow(answer)
		return true
	}
	p.tools.tellLocked(p, answer)
	return true
}

// tellLocked tells the CLI what tools there are, which may take more room than other answers. One that asks again
// before it has read that is killed, as one is that asks under too long a name.
func (s *toolServer) tellLocked(p *Process, answer []byte) {
	if s.telling || len(answer) > len(s.tools)+refusalBytes {
		p.kill()
		return
	}
	s.telling = true
	told := s.told
	go func() {
		_ = p.send(answer)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.telling = false
		told()
	}()
}

// fitServers connects the process to other MCP servers, and offers it other tools of the host's. The CLI doesn't ask
// again what tools a server has that it knows, so that one goes first.
func (p *Process) fitServers(ctx context.Context, wanted Settings) error {
	sameTools := bytes.Equal(wanted.Tools, p.inForce.Tools)
	if !sameTools && p.inForce.Tools != nil || wanted.Tools == nil {
		if err := p.setServers(ctx, wanted.MCP, nil); err != nil {
			return err
		}
	}
	if wanted.Tools == nil {
		return nil
	}
	if sameTools {
		return p.setServers(ctx, wanted.MCP, wanted.Tools)
	}
	if err := p.change(ctx, "tools", claude.AllowServer{Name: ToolServer}); err != nil {
		return err
	}
	listed := p.tools.set(wanted.Tools)
	if err := p.setServers(ctx, wanted.MCP, wanted.Tools); err != nil {
		p.Recycle() // another server of that name would need no approval
		return err
	}
	select {
	case <-listed:
		return nil
	case <-p.exited:
		return ErrDied
	case <-time.After(listTime):
		return errUnlisted
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// setServers has the process have these MCP servers and no others, and with tools the host's own.
func (p *Process) setServers(ctx context.Context, servers, tools json.RawMessage) error {
	if tools == nil && p.inForce.Tools != nil { // the name may become that of a server that isn't the host's
		if err := p.change(ctx, "tools", claude.AllowServer{}); err != nil {
			return err
		}
	}
	all := servers
	if tools != nil {
		all = claude.WithServer(servers, ToolServer)
	}
	if err := p.change(ctx, "mcp_servers", claude.SetMCPServers{Servers: all}); err != nil {
		return err
	}
	if tools == nil {
		p.tools.clear()
	}
	p.inForce.MCP, p.inForce.Tools = servers, tools
	p.connected.Store(all != nil)
	return nil
}
