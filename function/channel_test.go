package function

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"claudepool/infra/hop"
	"claudepool/pool/api"
)

const (
	talkID     = "0d3b2a4e-6f0a-4d57-9f6e-0f5f6b0d7c11"
	streamPath = "/v1/conversations/" + talkID + "/stream"
	sendPath   = "/v1/conversations/" + talkID + "/send"
)

// numbered is an event of a channel.
func numbered(n int) string {
	return fmt.Sprintf("id: %d\nevent: client_event\ndata: {\"event_id\":\"e%d\",\"sequence_num\":%d,"+
		"\"source\":\"worker\",\"payload\":{\"type\":\"assistant\"}}\n\n", n, n, n)
}

// tells writes as an instance tells a reader.
func tells(w http.ResponseWriter, parts ...string) {
	w.Header().Set("Content-Type", "text/event-stream")
	for _, p := range parts {
		_, _ = io.WriteString(w, p)
		_ = http.NewResponseController(w).Flush()
	}
}

// An owner may go at any time, also in the middle of an event.
func TestChannel_TheStreamGoesOnWithTheNextOwner(t *testing.T) {
	var asked []string
	note := func(r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		asked = append(asked, r.URL.Path+" "+r.Header.Get(api.HeaderLastEvent)+" "+gjson.GetBytes(body, "session_id").Str+" "+
			gjson.GetBytes(body, "oauth_credentials.access_token").Str)
	}
	said := func(parts ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			note(r)
			tells(w, parts...)
			if len(asked) < 3 {
				time.Sleep(channelPause + 100*time.Millisecond)
			}
		}
	}
	_, url, r := newFront(t, said(numbered(5), numbered(6), numbered(7)[:20]), nil)
	served := 0
	r.owners[1] = newInstance(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if served++; served == 1 {
			note(q)
			refuse(421, false)(w, q)
			return
		}
		said(numbered(7), ": ping\n", numbered(8))(w, q)
	}))
	go func() {
		time.Sleep(channelPause / 2)
		r.Misdirected("", r.owners[0])
	}()
	response, body := do(t, http.MethodGet, url+streamPath, "", append(ada[:2:2], "Last-Event-ID", "4")...)
	require.Equal(t, 200, response.StatusCode, body)
	require.Equal(t, "text/event-stream", response.Header.Get("Content-Type"))
	require.Equal(t, numbered(5)+numbered(6)+numbered(7)+": ping\n"+numbered(8), body)
	const about = " " + talkID + " sk-ant-oat01-ada"
	require.Equal(t, []string{api.PathChannelStream + " 4" + about, api.PathChannelStream + " 6" + about,
		api.PathChannelStream + " 6" + about}, asked)
}

func TestChannel_ErrorsBeforeTheStreamAreToldAsTheyAre(t *testing.T) {
	for _, status := range []int{400, 404, 429, 503} {
		_, url, _ := newFront(t, refuse(status, false))
		response, body := do(t, http.MethodGet, url+streamPath, "", ada...)
		require.Equal(t, status, response.StatusCode, body)
		response, _ = do(t, http.MethodPost, url+sendPath, `{"events":[{"payload":{"type":"user","message":`+
			`{"role":"user","content":"hi"}}}]}`, ada...)
		require.Equal(t, status, response.StatusCode)
	}
}

func TestChannel_WhatIsSentReachesTheOwnerWithAUUID(t *testing.T) {
	var got []byte
	var claims hop.Claims
	var service string
	keys, err := hop.ParseKeys("0123456789abcdef0123456789abcdef")
	require.NoError(t, err)
	f, url, _ := newFront(t, func(w http.ResponseWriter, r *http.Request) {
		got, _ = io.ReadAll(r.Body)
		claims, _ = keys.Verify(r.Header.Get(api.HeaderHop), time.Now())
		service = r.Header.Get(api.HeaderServiceKey)
		passes(200, `{"accepted":1}`)(w, r)
	})
	f.opts.APIKeys, err = ParseAPIKeys("b0f8a3c3d3b1f2f4c8a6a1c1e0c7a9c0c9ff2c2ad5a9f6d5f6f0e5a0d4c1b2a3")
	require.NoError(t, err)
	const sent = `{"session_id":"` + talkID + `","events":[{"payload":{"type":"user","message":{"role":"user",` +
		`"content":"hi"}}}]}`
	response, body := do(t, http.MethodPost, url+sendPath, sent, ada...)
	require.Equal(t, 401, response.StatusCode, body)
	f.opts.APIKeys = nil
	response, body = do(t, http.MethodPost, url+sendPath, sent, ada...)
	require.Equal(t, 200, response.StatusCode, body)
	require.JSONEq(t, `{"accepted":1}`, body)
	require.Equal(t, api.PathChannelSend, claims.Path)
	require.Empty(t, service)
	sending, err := api.DecodeSending(got)
	require.NoError(t, err)
	require.Equal(t, talkID, sending.Request.SessionID)
	require.Equal(t, claims.User, sending.Request.UserID())
	require.NotEmpty(t, sending.Payloads[0].UUID)
}

func TestChannel_BadRequestsAreRefusedAtTheFront(t *testing.T) {
	_, url, _ := newFront(t, func(http.ResponseWriter, *http.Request) { t.Error("nothing is to reach an instance") })
	for _, sent := range []string{"", "{", `{}`, `{"events":[]}`, `{"events":[{"payload":{"type":"user"}}]}`,
		`{"events":[{"payload":{"type":"user","message":{"role":"user","content":"x"}}}],"more":1}`,
		`{"events":[{"payload":{"type":"user","message":{"role":"user","content":"x"},"tool_use_result":1}}]}`,
		`{"events":[{"payload":{"type":"user","message":{"role":"assistant","content":"x"}}}]}`,
		`{"events":[{"payload":null}]}`, `{"events":[{}]}`, `{"events":7}`,
		`{"session_id":"9d3b2a4e-6f0a-4d57-9f6e-0f5f6b0d7c11","events":[{"payload":{"type":"control_cancel_request",` +
			`"request_id":"r"}}]}`,
	} {
		response, body := do(t, http.MethodPost, url+sendPath, sent, ada...)
		require.Equal(t, 400, response.StatusCode, "%s: %s", sent, body)
	}
	for _, path := range []string{"/v1/conversations/x/stream", "/v1/conversations/" + talkID[1:] + "/stream"} {
		response, body := do(t, http.MethodGet, url+path, "", ada...)
		require.Equal(t, 400, response.StatusCode, body)
	}
	response, _ := do(t, http.MethodGet, url+streamPath, "")
	require.Equal(t, 401, response.StatusCode)
}

// Readers may stay for ever, so a front that ends doesn't wait for them.
func TestChannel_AStreamEndsWithItsFront(t *testing.T) {
	f, url, _ := newFront(t, func(w http.ResponseWriter, r *http.Request) {
		tells(w, numbered(1))
		<-r.Context().Done()
	})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url+streamPath, nil)
	require.NoError(t, err)
	r.Header.Set(ada[0], ada[1])
	response, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer response.Body.Close()
	lines := bufio.NewReader(response.Body)
	_, err = lines.ReadString('}')
	require.NoError(t, err)
	go f.Drain(time.Hour)
	rest, err := io.ReadAll(lines)
	require.NoError(t, err)
	require.False(t, strings.Contains(string(rest), "[DONE]"))
}
