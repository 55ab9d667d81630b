package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"claudepool/infra/testkit/grammar"
	"claudepool/pool/api"
	"claudepool/pool/pooltest"
	"claudepool/pool/pooltest/turns"
)

// What a client accumulates of a stream is what another one gets that asks the same without streaming, through a front
// and an instance, and both find their conversation again with what they were given.
func TestMessages_FiveHundredRandomTurnsStreamedAndNot(t *testing.T) {
	t.Parallel()
	const pairs, turnsOfEach = 20, 26
	cli, err := pooltest.ScriptedCLI()
	require.NoError(t, err)
	_, newChat := newChats(t, cli)
	plain := &http.Client{Transport: http.DefaultTransport}
	var failures, voids atomic.Int64
	t.Run("conversations", func(t *testing.T) {
		for n := range pairs {
			t.Run(fmt.Sprint(n), func(t *testing.T) {
				t.Parallel()
				streams, waits := newChat(t, fmt.Sprint("streams", n)), newChat(t, fmt.Sprint("waits", n))
				if n > 0 { // to hold each answer against the description takes longer than to make it
					streams.http, waits.http = plain, plain
				}
				streams.ask("hello")
				waits.ask("hello")
				for seed := n * turnsOfEach; seed < (n+1)*turnsOfEach; seed++ {
					streamed, whole := streams.random(seed, true), waits.random(seed, false)
					same(t, seed, streamed, whole)
					switch {
					case streamed.Failed.Exists():
						failures.Add(1)
					case len(streamed.Content()) < len(streamed.Blocks):
						voids.Add(1)
					}
				}
			})
		}
	})
	t.Logf("%d turns failed, %d had void blocks", failures.Load(), voids.Load())
	require.Greater(t, failures.Load(), int64(20))
	require.Greater(t, voids.Load(), int64(20))
}

// random has a random turn, whose answer becomes part of the conversation unless it is an error.
func (c *chat) random(seed int, stream bool) *grammar.Message {
	before := c.messages
	response, all := c.post(fmt.Sprintf("[[random=%d]]", seed), stream)
	process, check, content := response.Header.Get(api.HeaderProcess), grammar.Whole, any(nil)
	switch {
	case response.StatusCode != http.StatusOK:
		c.messages = before
		return &grammar.Message{Failed: gjson.ParseBytes(all)}
	case stream:
		_, receipt, _ := strings.Cut(string(all), ": receipt ")
		process, check, content = gjson.Get(receipt, "process").Str, grammar.Check, accumulated(c.t, string(all))
	default:
		content = json.RawMessage(gjson.GetBytes(all, "content").Raw)
	}
	message, err := check(all)
	require.NoError(c.t, err, "seed %d: %s", seed, all)
	if message.Failed.Exists() {
		c.messages = before
		return message
	}
	require.Contains(c.t, []string{"reused", "resumed"}, process, "seed %d", seed)
	c.messages = append(c.messages, object{"role": "assistant", "content": content})
	return message
}

// same has both be failures of one kind, or the same message.
func same(t *testing.T, seed int, streamed, whole *grammar.Message) {
	for _, part := range []string{"error.type", "error.message"} {
		require.Equal(t, whole.Failed.Get(part).Raw, streamed.Failed.Get(part).Raw, "seed %d", seed)
	}
	if whole.Failed.Exists() {
		return
	}
	for _, part := range []string{"id", "type", "role", "model"} {
		require.Equal(t, whole.Head.Get(part).Raw, streamed.Head.Get(part).Raw, "seed %d", seed)
	}
	for _, part := range []string{"stop_reason", "stop_sequence", "stop_details"} {
		require.Equal(t, whole.Head.Get(part).Raw, streamed.Last.Get("delta."+part).Raw, "seed %d", seed)
	}
	require.JSONEq(t, whole.Head.Get("usage").Raw, streamed.Last.Get("usage").Raw, "seed %d", seed)
	require.Equal(t, whole.Content(), streamed.Content(), "seed %d", seed)

	said := turns.Random(uint64(seed)) // #nosec G115 -- a small number
	require.False(t, said.Failure, "seed %d", seed)
	require.Equal(t, said.Texts, grammar.Said(whole.Content(), "text", "text"), "seed %d", seed)
	require.EqualValues(t, said.Output, whole.Head.Get("usage.output_tokens").Int(), "seed %d", seed)
}
