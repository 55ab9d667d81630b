package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"claudepool/infra/testkit/need"
	"claudepool/pool/api"
	"claudepool/pool/pooltest"
)

// tool is a tool of the client's.
func tool(name string) object {
	return object{"name": name, "description": "tells of " + name, "input_schema": object{"type": "object",
		"properties": object{"of": object{"type": "string"}}}}
}

// toolChat is a client that runs tools.
type toolChat struct {
	*chat
	tools  []object
	header http.Header
	last   []byte // body of the last request
}

// answered is an answer of the Messages API, with which process gave it.
type answered struct {
	gjson.Result
	served
	status int
	header http.Header
}

func (c *toolChat) say(content any) answered {
	c.t.Helper()
	c.messages = append(c.messages, object{"role": "user", "content": content})
	body, err := json.Marshal(object{"model": "haiku", "max_tokens": 100, "messages": c.messages, "tools": c.tools})
	require.NoError(c.t, err)
	c.last = body
	return c.again()
}

// again sends the last request again.
func (c *toolChat) again() answered {
	c.t.Helper()
	r, err := http.NewRequestWithContext(c.t.Context(), http.MethodPost, c.url+"/v1/messages", bytes.NewReader(c.last))
	require.NoError(c.t, err)
	r.Header = c.header.Clone()
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+c.key)
	response, err := c.http.Do(r)
	require.NoError(c.t, err)
	defer response.Body.Close()
	all, err := io.ReadAll(response.Body)
	require.NoError(c.t, err)
	h := response.Header
	return answered{gjson.ParseBytes(all), served{h.Get(api.HeaderPID), h.Get(api.HeaderProcess)}, response.StatusCode, h}
}

// fork is another client with the same conversation.
func (c *toolChat) fork() *toolChat {
	chat, other := *c.chat, *c
	chat.messages = slices.Clone(chat.messages)
	other.chat = &chat
	return &other
}

// keep has the answer be part of the conversation, and returns the calls it ends with.
func (c *toolChat) keep(a answered) (calls []gjson.Result) {
	c.t.Helper()
	require.Equal(c.t, http.StatusOK, a.status, a.Raw)
	c.messages = append(c.messages, object{"role": "assistant", "content": json.RawMessage(a.Get("content").Raw)})
	return a.Get(`content.#(type=="tool_use")#`).Array()
}

func resultsOf(calls []gjson.Result, more ...object) (content []object) {
	for _, call := range calls {
		content = append(content, object{"type": "tool_result", "tool_use_id": call.Get("id").Str,
			"content": call.Get("name").Str + " said " + call.Get("input.of").Str})
	}
	return append(content, more...)
}

func newToolChats(t *testing.T, environ ...string) (*pooltest.API, func(key string) *toolChat) {
	t.Helper()
	cli, err := pooltest.RealCLI()
	need.Part(t, cli, err)
	standIn, newChat := newChats(t, cli, environ...)
	return standIn, func(key string) *toolChat {
		return &toolChat{chat: newChat(t, key), header: make(http.Header),
			tools: []object{tool("weather"), tool("clock")}}
	}
}

const twoThenOne = `task [[1:tool=mcp__client__weather {"of":"Rome"}` + "\n" + `mcp__client__clock {"of":"Oslo"}]]` +
	`[[2:tool=mcp__client__weather {"of":"Bern"}]]`

// lastSaid is the last message of the last call of the API that has the text anywhere.
func lastSaid(standIn *pooltest.API, text string) (calls int, last string) {
	for _, call := range standIn.Calls() {
		if bytes.Contains(call.Body, []byte(text)) {
			calls++
			last = gjson.GetBytes(call.Body, `messages.#(role=="user")#`).Array()[len(
				gjson.GetBytes(call.Body, `messages.#(role=="user")#`).Array())-1].Raw
		}
	}
	return calls, last
}

func TestTools_TheClientRunsThemWithinOneTurn(t *testing.T) {
	_, newChat := newToolChats(t)
	for _, mode := range []string{"", "default", "plan"} {
		t.Run("permission mode "+mode, func(t *testing.T) {
			c := newChat("tools-" + mode)
			c.t = t
			if mode != "" {
				c.header.Set("X-Claudepool-Permission-Mode", mode)
			}
			first := c.say("mode " + mode + twoThenOne)
			calls := c.keep(first)
			require.Equal(t, "tool_use", first.Get("stop_reason").Str)
			require.Len(t, calls, 2)
			require.Equal(t, "weather", calls[0].Get("name").Str)
			require.JSONEq(t, `{"of":"Oslo"}`, calls[1].Get("input").Raw)

			second := c.say(resultsOf(calls))
			calls = c.keep(second)
			require.Len(t, calls, 1)
			require.Equal(t, served{first.pid, "reused"}, second.served)

			third := c.say(resultsOf(calls, object{"type": "text", "text": "be brief"}))
			require.Empty(t, c.keep(third))
			require.Equal(t, "end_turn", third.Get("stop_reason").Str)
			require.Contains(t, third.Get("content.0.text").Str, "weather said Bern")
			require.Contains(t, third.Get("content.0.text").Str, "be brief", "the model reads what stands beside results")
			require.EqualValues(t, 10, third.Get("usage.input_tokens").Int(), "the part's alone")
			require.Equal(t, first.pid, third.pid)
		})
	}
}

func TestTools_AfterTheTurnItsProcessGoesOn(t *testing.T) {
	standIn, newChat := newToolChats(t)
	c := newChat("after")
	first := c.say("one [[1:tool=mcp__client__weather {}]]")
	c.keep(c.say(resultsOf(c.keep(first))))
	second := c.say("two")
	c.keep(second)
	require.Equal(t, served{first.pid, "reused"}, second.served)

	c.tools = []object{tool("weather"), tool("almanac")}
	third := c.say("three [[1:tool=mcp__client__almanac {}]]")
	require.Equal(t, first.pid, third.pid, "another set of tools")
	c.keep(c.say(resultsOf(c.keep(third))))

	c.tools[0]["description"] = "tells of the sky"
	fourth := c.say("four [[1:tool=mcp__client__weather {}]]")
	require.NotEqual(t, first.pid, fourth.pid, "a process takes no other definition of a tool it knows")
	c.keep(c.say(resultsOf(c.keep(fourth))))
	require.Contains(t, string(standIn.Calls()[len(standIn.Calls())-1].Body), "tells of the sky")

	c.tools = nil
	fifth := c.say("five")
	require.Equal(t, fourth.pid, fifth.pid)
	require.Contains(t, string(standIn.Calls()[len(standIn.Calls())-1].Body), "no longer available", "the model is told")
}

func TestTools_ThoseOfTheProcessRunBesideThem(t *testing.T) {
	_, newChat := newToolChats(t)
	c := newChat("mixed")
	// The CLI runs the command behind the first call's end, and the second call behind that.
	first := c.say("mixed [[1:tool=mcp__client__weather {}\n" + `Bash {"command":"touch seen","description":"d"}` +
		"\nmcp__client__clock {}]]")
	calls := c.keep(first)
	require.Len(t, calls, 1)
	require.Equal(t, "Bash", first.Get(`content.#(type=="mcp_tool_use").name`).Str)
	second := c.say(resultsOf(calls))
	calls = c.keep(second)
	require.Len(t, calls, 1)
	require.Equal(t, "clock", calls[0].Get("name").Str)
	last := c.say(resultsOf(calls))
	require.Contains(t, last.Get("content.0.text").Str, "clock said")
	require.Equal(t, first.pid, last.pid)
}

func TestTools_TheSameResultsRunOnce(t *testing.T) {
	standIn, newChat := newToolChats(t)
	c := newChat("twice")
	c.keep(c.say("hello"))
	calls := c.keep(c.say("twice " + twoThenOne))
	partly := c.fork()
	partly.say(resultsOf(calls[:1]))
	require.Equal(t, http.StatusBadRequest, partly.again().status)

	first := c.say(resultsOf(calls))
	before, _ := lastSaid(standIn, "twice ")
	second := c.again()
	require.Equal(t, first.Get("content").Raw, second.Get("content").Raw)
	after, _ := lastSaid(standIn, "twice ")
	require.Equal(t, before, after)
	require.Contains(t, c.say(resultsOf(c.keep(first))).Raw, "end_turn", "the turn goes on")
}

func TestTools_WhereTheProcessIsGoneAnotherGoesOn(t *testing.T) {
	standIn, newChat := newToolChats(t)
	c := newChat("gone")
	first := c.say("gone " + twoThenOne)
	calls := c.keep(first)
	pid, err := strconv.Atoi(first.pid)
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	second := c.say(resultsOf(calls))
	c.keep(second)
	require.NotEqual(t, first.pid, second.pid)
	_, last := lastSaid(standIn, "gone ")
	require.Contains(t, last, "weather said Rome")
	require.Contains(t, last, "clock said Oslo")
	require.Contains(t, string(standIn.Calls()[len(standIn.Calls())-1].Body), `"name":"mcp__client__clock"`,
		"the model finds its calls under the names that it knows the tools by")
	third := c.say("thanks")
	require.Equal(t, http.StatusOK, third.status, third.Raw)
}

func TestTools_AClientThatVanishesLeavesNothing(t *testing.T) {
	_, newChat := newToolChats(t, "APPROVAL_TIMEOUT=3s")
	c := newChat("vanished")
	c.header.Set("X-Claudepool-Session", "aaaaaaaa-0000-4000-8000-000000000000")
	c.keep(c.say("hello"))
	calls := c.keep(c.say("vanish [[1:tool=mcp__client__weather {}]]"))
	other := c.fork()
	other.messages = other.messages[:2]
	waits := other.say("impatient")
	require.Equal(t, http.StatusTooManyRequests, waits.status, waits.Raw)
	require.Contains(t, waits.Raw, calls[0].Get("id").Str, "it says what is waited for")
	require.Eventually(t, func() bool { return other.again().status == http.StatusOK }, time.Minute, 100*time.Millisecond)

	late := c.say(resultsOf(calls))
	require.Equal(t, http.StatusBadRequest, late.status, late.Raw)
	require.Equal(t, "false", late.header.Get(api.HeaderShouldRetry))
}
