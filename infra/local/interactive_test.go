package main

import (
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"claudepool/infra/testkit/client"
	"claudepool/pool/api"
)

const asksFor = `[[tool=Bash {"command":"echo once >> ran; wc -l < ran; mkdir -p made"}]]`

// converse begins a turn that asks its client, and goes on without it.
func (d *deployment) converse(front int, session, text string) *client.Stream {
	d.t.Helper()
	turn := client.Turn("sk-ant-oat01-kim", text)
	turn["session_id"], turn["interactive"], turn["permission_mode"] = session, true, "default"
	turn["on_disconnect"] = api.Finish
	stream, err := d.client(front).Begin(d.t.Context(), turn)
	require.NoError(d.t, err)
	return stream
}

// awaitAsked reads on to what is asked.
func awaitAsked(t *testing.T, s *client.Stream) gjson.Result {
	t.Helper()
	for s.Next() {
		if s.Event().Type() == "control_request" {
			return gjson.ParseBytes(s.Event().Data)
		}
	}
	require.NoError(t, s.Err())
	require.Fail(t, "nothing is asked")
	return gjson.Result{}
}

// allow allows what is asked, and returns the status.
func (d *deployment) allow(front int, session, id string) (status int, body string) {
	d.t.Helper()
	answer := client.Credentials("sk-ant-oat01-kim")
	answer["session_id"], answer["request_id"], answer["response"] = session, id, client.Fields{"behavior": "allow"}
	response, err := d.client(front).Post(d.t.Context(), api.PathAnswer, answer, "")
	require.NoError(d.t, err)
	defer response.Body.Close()
	all, _ := io.ReadAll(response.Body)
	return response.StatusCode, string(all)
}

// testInteractive: who was asked comes back by another front, and answers at the first; a tool that was asked for when
// its instance is drained hasn't run, and runs when the client asks again.
func testInteractive(t *testing.T, d *deployment) {
	const session = "0d3b2a4e-6f0a-4d57-9f6e-0f5f6b0d7c11"
	stream := d.converse(0, session, "first "+asksFor)
	id := awaitAsked(t, stream).Get("request_id").Str
	last := stream.Event().ID
	stream.Close()
	back, err := d.client(1).Resume(t.Context(), client.Credentials("sk-ant-oat01-kim"), last)
	require.NoError(t, err)
	defer back.Close()
	status, body := d.allow(0, session, id)
	require.Equal(t, http.StatusOK, status, body)
	a, err := back.Answer()
	require.NoError(t, err)
	require.Equal(t, "tool said: 1", a.Text)

	stream = d.converse(0, session, "second "+asksFor)
	defer stream.Close()
	id = awaitAsked(t, stream).Get("request_id").Str
	d.instances[a.Instance].Signal(syscall.SIGTERM)
	defer d.instance() // in its place
	_, err = stream.Answer()
	require.ErrorIs(t, err, client.ErrStream, "it ends with a word")
	status, body = d.allow(0, session, id)
	require.Equal(t, http.StatusNotFound, status, body)
	again := d.converse(1, session, "second "+asksFor)
	defer again.Close()
	status, body = d.allow(0, session, awaitAsked(t, again).Get("request_id").Str)
	require.Equal(t, http.StatusOK, status, body)
	b, err := again.Answer()
	require.NoError(t, err)
	require.Equal(t, "tool said: 1", b.Text, "files stay behind, and there it hasn't run")
	require.NotEqual(t, a.Instance, b.Instance)
	said := strings.Join(d.context("second "+asksFor), "\n")
	require.Equal(t, 1, strings.Count(said, "second"), said)
}
