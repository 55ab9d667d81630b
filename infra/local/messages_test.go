package main

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"claudepool/infra/hop"
	"claudepool/infra/settings"
	"claudepool/infra/testkit"
	"claudepool/infra/testkit/need"
	"claudepool/pool/api"
	"claudepool/pool/pooltest"
)

// chat is a client of the Messages API that sends the whole conversation each time.
type chat struct {
	t        *testing.T
	url      string
	key      string
	http     *http.Client
	messages []any
}

type object = map[string]any

// served is which process has answered.
type served struct{ pid, process string }

// newChats serves the local service with a CLI, and returns who talks to it.
func newChats(t *testing.T, cli string, more ...string) (*pooltest.API, func(t *testing.T, key string) *chat) {
	t.Helper()
	standIn, err := pooltest.NewAPI(nil)
	require.NoError(t, err)
	t.Cleanup(standIn.Close)
	dir := testkit.Folder(t)
	environ := []string{"PATH=" + os.Getenv("PATH"), "HOP_KEYS=" + hop.NewKey(), "WORKSPACES_ROOT=" +
		filepath.Join(dir, "workspaces"),
		"ARCHIVE_DIR=" + filepath.Join(dir, "archive"), "CLAUDE_BIN=" + cli, "ANTHROPIC_BASE_URL=" +
			standIn.URL(), "STANDBY=1", "SPAWN_TIMEOUT=2m"}
	environ = append(environ, more...)
	pool, err := settings.LoadPool(environ)
	require.NoError(t, err)
	front, err := settings.LoadFront(environ)
	require.NoError(t, err)
	s, err := start(t.Context(), slog.New(slog.DiscardHandler), pool, front, flags{instances: 1})
	require.NoError(t, err)
	t.Cleanup(s.stop)
	server := httptest.NewServer(s.front)
	t.Cleanup(server.Close)
	return standIn, func(t *testing.T, key string) *chat {
		return &chat{t: t, url: server.URL, key: "sk-ant-api03-" + key, http: http.DefaultClient}
	}
}

// post sends what is asked with what was said before.
func (c *chat) post(text string, stream bool) (*http.Response, []byte) {
	c.t.Helper()
	c.messages = append(c.messages, object{"role": "user", "content": text})
	body, err := json.Marshal(object{"model": "haiku", "max_tokens": 100, "stream": stream, "messages": c.messages})
	require.NoError(c.t, err)
	r, err := http.NewRequestWithContext(c.t.Context(), http.MethodPost, c.url+"/v1/messages", bytes.NewReader(body))
	require.NoError(c.t, err)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+c.key)
	response, err := c.http.Do(r)
	require.NoError(c.t, err)
	defer response.Body.Close()
	all, err := io.ReadAll(response.Body)
	require.NoError(c.t, err)
	return response, all
}

// ask has the answer be part of the conversation, and returns its blocks.
func (c *chat) ask(text string) (served, gjson.Result) {
	c.t.Helper()
	response, all := c.post(text, false)
	require.Equal(c.t, http.StatusOK, response.StatusCode, string(all))
	content := gjson.GetBytes(all, "content")
	c.messages = append(c.messages, object{"role": "assistant", "content": json.RawMessage(content.Raw)})
	return served{response.Header.Get(api.HeaderPID), response.Header.Get(api.HeaderProcess)}, content
}

// askStream does the same as clients do that take a stream: void blocks are blocks.
func (c *chat) askStream(text string) (served, []object) {
	c.t.Helper()
	response, all := c.post(text, true)
	require.Equal(c.t, http.StatusOK, response.StatusCode, string(all))
	blocks := accumulated(c.t, string(all))
	require.Contains(c.t, string(all), "event: message_stop\n")
	c.messages = append(c.messages, object{"role": "assistant", "content": blocks})
	_, receipt, _ := strings.Cut(string(all), ": receipt ") // the headers may have gone before there was a process
	return served{gjson.Get(receipt, "pid").Raw, gjson.Get(receipt, "process").Str}, blocks
}

// accumulated are the blocks of a stream, as clients have them that know nothing of void ones.
func accumulated(t *testing.T, stream string) (blocks []object) {
	t.Helper()
	for frame := range strings.SplitSeq(stream, "\n\n") {
		_, data, _ := strings.Cut(frame, "\ndata: ")
		event := gjson.Parse(data)
		switch event.Get("type").Str {
		case "content_block_start":
			require.EqualValues(t, len(blocks), event.Get("index").Int())
			blocks = append(blocks, event.Get("content_block").Value().(object))
		case "content_block_delta":
			block := blocks[len(blocks)-1]
			for _, part := range []string{"text", "thinking", "signature"} {
				if more := event.Get("delta." + part); more.Exists() {
					block[part] = block[part].(string) + more.Str
				}
			}
		}
	}
	return blocks
}

// textOf joins the texts.
func textOf(blocks []object) (text string) {
	for _, b := range blocks {
		if b["type"] == "text" {
			text += b["text"].(string)
		}
	}
	return text
}

func TestMessages_AClientOfTheMessagesAPITalksToTheRealCLI(t *testing.T) {
	t.Parallel()
	cli, err := pooltest.RealCLI()
	standIn, newChat := newChats(t, need.Part(t, cli, err))

	t.Run("one process", func(t *testing.T) {
		c := newChat(t, "one")
		first, blocks := c.askStream("first")
		require.Equal(t, "reply to: first", textOf(blocks))
		for _, text := range []string{"second", "third", "fourth"} {
			served, _ := c.ask(text)
			again, _ := c.askStream("again " + text)
			require.Equal(t, []string{first.pid, first.pid}, []string{served.pid, again.pid})
			require.Equal(t, []string{"reused", "reused"}, []string{served.process, again.process})
		}
	})
	t.Run("tools, thinking and a cut answer come back", func(t *testing.T) {
		c := newChat(t, "blocks")
		pid := ""
		for _, text := range []string{
			`look [[1:tool=Bash {"command":"echo found"}]][[1:say=let me see]]`,
			`think [[blocks={"type":"thinking","thinking":"hm"},{"type":"text","text":"thought"}]]`,
			`cut [[1:pause=300ms]][[1:cut]]`,
			`broken [[1:words=5]][[1:pause=300ms]][[1:error=overloaded_error]]`,
			`another [[1:words=5]][[1:pause=300ms]][[1:cut]]`,
		} {
			served, blocks := c.askStream(text)
			require.NotEmpty(t, blocks)
			if pid != "" {
				require.Equal(t, "reused", served.process, text)
				require.Equal(t, pid, served.pid, text)
			}
			pid = served.pid
		}
		served, content := c.ask(`more [[1:tool=Bash {"command":"echo more"}]]`)
		require.Equal(t, "reused", served.process)
		require.Equal(t, "claude-code", content.Get(`#(type=="mcp_tool_use").server_name`).Str)
		require.Contains(t, content.Get(`#(type=="mcp_tool_result").content.0.text`).Str, "more")
	})
	t.Run("a conversation that nobody here knows", func(t *testing.T) {
		c := newChat(t, "unknown")
		c.messages = []any{object{"role": "user", "content": "do it"}, object{"role": "assistant", "content": []object{
			{"type": "thinking", "thinking": "cut", "signature": ""},
			{"type": "mcp_tool_use", "id": "toolu_1", "name": "Bash", "server_name": "claude-code", "input": object{}},
			{"type": "mcp_tool_result", "tool_use_id": "toolu_1", "is_error": false, "content": []object{}}, {"type": "text",
				"text": "done"}}}}
		_, blocks := c.askStream("and now")
		require.Equal(t, "reply to: and now", textOf(blocks))
		calls := standIn.Calls()
		require.NotContains(t, string(calls[len(calls)-1].Body), "mcp_tool")
		require.Contains(t, string(calls[len(calls)-1].Body), "done")
	})
	t.Run("failures", func(t *testing.T) {
		c := newChat(t, "fails")
		first, _ := c.ask("before")
		before := slices.Clip(c.messages)
		for status, kind := range map[string]string{"400": "invalid_request_error", "403": "permission_error",
			"529": "overloaded_error"} {
			for _, stream := range []bool{false, true} {
				c.messages = before
				response, body := c.post("fail [[status="+status+"]]", stream)
				require.Equal(t, status, response.Status[:3], string(body))
				require.Equal(t, "false", response.Header.Get(api.HeaderShouldRetry))
				require.Equal(t, kind, gjson.GetBytes(body, "error.type").Str)
				require.NotContains(t, string(body), "127.0.0.1")
			}
		}
		c.messages = before
		after, _ := c.ask("after")
		require.Equal(t, served{first.pid, "reused"}, after)
	})
}
