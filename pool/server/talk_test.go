package server_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"claudepool/pool/api"
	"claudepool/pool/server"
)

const session = "7d9c1f0e-52a1-4f0c-9d3e-3c1a2b4d5e6f"

// follow begins to read a channel of ada's behind an event.
func (h *house) follow(after string) *client { return h.followIn(session, after) }

func (h *house) followIn(session, after string) *client {
	return h.send(ask{path: api.PathChannelStream, lastEvent: after, body: fmt.Sprintf(
		`{"oauth_credentials":{"access_token":%q},"session_id":%q}`, token("ada"), session)})
}

// tell sends payloads on ada's channel.
func (h *house) tell(payloads ...string) reply {
	return h.send(ask{path: api.PathChannelSend, body: fmt.Sprintf(
		`{"oauth_credentials":{"access_token":%q},"session_id":%q,"events":[%s]}`, token("ada"), session,
		strings.Join(payloads, ","))}).whole()
}

func message(text string) string { return messageOf(uuid.NewString(), text) }

func messageOf(id, text string) string {
	return fmt.Sprintf(`{"type":"user","uuid":%q,"session_id":"","parent_tool_use_id":null,`+
		`"message":{"role":"user","content":%q}}`, id, text)
}

func control(id, request string) string {
	return fmt.Sprintf(`{"type":"control_request","uuid":%q,"request_id":%q,"request":%s}`, uuid.NewString(), id, request)
}

func respond(id, response string) string {
	return fmt.Sprintf(`{"type":"control_response","uuid":%q,"response":{"subtype":"success","request_id":%q,`+
		`"response":%s}}`, uuid.NewString(), id, response)
}

var frameForm = regexp.MustCompile(`(?:id: (\d+)\n)?event: (\S+)\ndata: (.*)`)

// frame is an event of a channel.
type frame struct {
	id, name string
	data     gjson.Result
}

// frames are what the client has of a channel.
func (c *client) frames() (all []frame) {
	synctest.Wait()
	for _, f := range frameForm.FindAllStringSubmatch(c.soFar().body, -1) {
		all = append(all, frame{f[1], f[2], gjson.Parse(f[3])})
	}
	return all
}

// payloads are those that are kept, shortened to what tells them apart.
func (c *client) payloads() (all []string) {
	for _, f := range c.frames() {
		p := f.data.Get("payload")
		switch {
		case f.name != "client_event":
		case p.Get("type").Str == "user":
			all = append(all, "user: "+p.Get("message.content").Str)
		case p.Get("type").Str == "control_response":
			all = append(all, p.Get("response.subtype").Str+": "+p.Get("response.request_id").Str)
		case p.Get("type").Str == "result":
			all = append(all, p.Get("subtype").Str+": "+p.Get("errors.0").Str)
		default:
			all = append(all, p.Get("type").Str+": "+p.Get("request_id").Str)
		}
	}
	return all
}

func accepted(t *testing.T, r reply, n int) {
	t.Helper()
	require.Equal(t, http.StatusOK, r.status, r.body)
	require.Equal(t, int64(n), gjson.Get(r.body, "accepted").Int(), r.body)
}

const goodResult, delta = `{"type":"result","subtype":"success"}`, `{"type":"stream_event","event":{}}`

func TestChannel_AMessageIsATurnThatAllReadersSee(t *testing.T) {
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		first := h.follow("")
		synctest.Wait()
		require.Equal(t, http.StatusOK, first.soFar().status)
		require.Zero(t, h.asked(), "to read starts nothing")
		h.next(func(ctx context.Context, turn *turn) error {
			name := h.acquired[0].MessageUUID
			_ = says(`{"type":"assistant"}`, delta)(ctx, turn)
			return turn.say(ctx, strings.Replace(goodResult, "{", `{"user_message_uuids":["`+name+`"],`, 1))
		})
		id := uuid.NewString()
		accepted(t, h.tell(messageOf(id, "hi")), 1)
		time.Sleep(5 * time.Second)
		want := []string{"user: hi", "assistant: ", "success: "}
		require.Equal(t, want, first.payloads())
		var names []string
		for _, f := range first.frames() {
			names = append(names, f.name)
		}
		require.Contains(t, names, "ephemeral_event")
		echo := first.frames()[0].data
		require.Equal(t, []string{id, "client"}, []string{echo.Get("event_id").Str, echo.Get("source").Str})
		req := h.acquired[0]
		require.Equal(t, session, req.SessionID)
		require.NotContains(t, []string{id, ""}, req.MessageUUID, "a CLI drops a message whose name it knows")
		require.Contains(t, first.soFar().body, `"user_message_uuids":["`+id+`"]`)
		require.True(t, req.Interactive)
		require.Equal(t, `"hi"`, string(req.Turn().Content))

		second := h.follow(first.frames()[0].id)
		require.Equal(t, want[1:], second.payloads())
		second.hangUp()
		first.hangUp()
		second.whole()
		first.whole()
		require.Zero(t, h.held, "nobody is held for who has gone")
	})
}

func TestChannel_WhatIsSentTwiceIsRunOnce(t *testing.T) {
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		m := message("hi")
		accepted(t, h.tell(m), 1)
		accepted(t, h.tell(m), 0)
		time.Sleep(time.Minute)
		require.Equal(t, 1, h.asked())
	})
}

func TestChannel_MessagesWaitInLineOrSteer(t *testing.T) {
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		turn := h.next(hangs)
		turn.noSteering = true
		accepted(t, h.tell(message("one"), message("two")), 2)
		synctest.Wait()
		require.Equal(t, 1, h.asked())
		for i := range 7 {
			accepted(t, h.tell(message(fmt.Sprint(i))), 1)
		}
		last := message("too many")
		h.tell(last).refused(t, http.StatusTooManyRequests)
		turn.stop()
		time.Sleep(time.Minute)
		require.Equal(t, 9, h.asked())
		accepted(t, h.tell(last), 1)

		time.Sleep(time.Minute)
		turn = h.next(hangs)
		accepted(t, h.tell(message("begin")), 1)
		synctest.Wait()
		accepted(t, h.tell(strings.Replace(messageOf("8d9c1f0e-52a1-4f0c-9d3e-3c1a2b4d5e6f", "more"), `"message"`,
			`"priority":"now","message"`, 1)), 1)
		require.Len(t, turn.steered, 1)
		require.Contains(t, turn.steered[0], ` "more" now`)
		require.NotContains(t, turn.steered[0], "8d9c1f0e-52a1-4f0c-9d3e-3c1a2b4d5e6f")
		require.Equal(t, 11, h.asked())
		turn.stop()
	})
}

func TestChannel_ATurnWithoutAResultGetsOne(t *testing.T) {
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		c := h.follow("")
		h.next(fails(api.BadGateway("the process ended")))
		accepted(t, h.tell(message("one")), 1)
		time.Sleep(time.Second)
		h.meanwhile(func(context.Context) error { return errSecret })
		accepted(t, h.tell(message("two")), 1)
		synctest.Wait()
		require.Equal(t, []string{"user: one", "error_during_execution: the process ended", "user: two",
			"error_during_execution: the process of this conversation could not be made ready"}, c.payloads())
		c.leave()
	})
}

func TestChannel_ControlRequestsAreAnswered(t *testing.T) {
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		c := h.follow("")
		accepted(t, h.tell(control("a", `{"subtype":"initialize","jsonSchema":{},`+
			`"hooks":{"PreToolUse":[{"hookCallbackIds":["h"]}]}}`)), 1)
		accepted(t, h.tell(
			control("b", `{"subtype":"initialize","systemPrompt":"mine"}`),
			control("c", `{"subtype":"set_model","model":"sonnet"}`),
			control("d", `{"subtype":"set_permission_mode","mode":"plan"}`),
			control("e", `{"subtype":"set_permission_mode","mode":"bypassPermissions"}`)), 4)
		accepted(t, h.tell(
			control("f", `{"subtype":"mcp_status"}`),
			control("g", `{"subtype":"interrupt"}`)), 2)
		require.Equal(t, []string{"success: a", "error: b", "success: c", "success: d", "error: e", "error: f",
			"success: g"}, c.payloads())
		require.Zero(t, h.asked())
		accepted(t, h.tell(message("hi")), 1)
		synctest.Wait()
		req := h.acquired[0]
		require.Equal(t, []string{"sonnet", "plan"}, []string{req.Model, req.PermissionMode})
		require.JSONEq(t, `{"hooks":{"PreToolUse":[{"hookCallbackIds":["h"]}]}}`, string(req.Client.Live))
		require.JSONEq(t, `{"jsonSchema":{}}`, string(req.Client.First))
		time.Sleep(time.Minute)
		c.leave()
	})
}

func TestChannel_AnInterruptEndsTheTurnAndNotTheNext(t *testing.T) {
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		c := h.follow("")
		turn := h.next(func(ctx context.Context, turn *turn) error {
			turn.sent()
			<-turn.stopped
			return turn.say(ctx, `{"type":"result","subtype":"error_during_execution"}`)
		})
		turn.noSteering = true
		next := uuid.NewString()
		accepted(t, h.tell(message("one"), messageOf(next, "two")), 2)
		synctest.Wait()
		accepted(t, h.tell(control("stop", `{"subtype":"interrupt"}`)), 1)
		require.Equal(t, 1, turn.interrupted)
		synctest.Wait()
		require.Contains(t, c.soFar().body, `"still_queued":["`+next+`"]`)
		time.Sleep(time.Minute)
		require.Equal(t, 2, h.asked())
		c.leave()
	})
}

func TestChannel_AnInterruptEndsATurnThatHasntBegun(t *testing.T) {
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		c := h.follow("")
		h.meanwhile(func(ctx context.Context) error {
			<-ctx.Done()
			return context.Cause(ctx)
		})
		accepted(t, h.tell(message("one")), 1)
		synctest.Wait()
		accepted(t, h.tell(control("stop", `{"subtype":"interrupt"}`)), 1)
		require.Contains(t, c.payloads(),
			"error_during_execution: the message was interrupted before its turn had begun")
		c.leave()
	})
}

// asks has a turn's process ask something, and returns what it is answered.
func asks(h *house, a api.Ask) (asked chan string) {
	asked = make(chan string, 1)
	h.next(func(ctx context.Context, turn *turn) error {
		turn.sent()
		h.mu.Lock()
		host := h.acquired[len(h.acquired)-1].Host
		h.mu.Unlock()
		a.Answer = func(response json.RawMessage) error { asked <- string(response); turn.stop(); return nil }
		a.Refuse = func(why string) error { asked <- "error: " + why; turn.stop(); return nil }
		a.Line = fmt.Appendf(nil, `{"type":"control_request","request_id":%q,`+
			`"request":{"input":{"hook_event_name":"PreToolUse"}}}`, a.ID)
		if host.Asked(a) {
			_ = turn.say(ctx, string(a.Line))
		}
		<-turn.stopped
		return turn.say(ctx, goodResult)
	})
	return asked
}

func TestChannel_WhatAProcessAsksIsAnsweredOnceByAClient(t *testing.T) {
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		c := h.follow("")
		asked := asks(h, api.Ask{ID: "ask", Subtype: api.AskTool})
		accepted(t, h.tell(message("hi")), 1)
		time.Sleep(time.Hour / 2)
		require.Equal(t, []string{"user: hi", "control_request: ask"}, c.payloads(), "somebody is there")
		accepted(t, h.tell(respond("other", `{"behavior":"allow"}`), respond("ask", `{"behavior":"allow"}`),
			respond("ask", `{"behavior":"deny","message":"no"}`)), 3)
		require.JSONEq(t, `{"behavior":"allow"}`, <-asked)
		require.ElementsMatch(t, []string{"user: hi", "control_request: ask", "control_cancel_request: ask", "success: "},
			c.payloads(), "other readers see that it is over")
		c.leave()
	})
}

// What runs is to come to its end, whatever begins no more.
func TestChannel_ATurnIsAnsweredWhileItsInstanceDrains(t *testing.T) {
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		asked := asks(h, api.Ask{ID: "ask", Subtype: api.AskTool})
		accepted(t, h.tell(message("hi")), 1)
		synctest.Wait()
		h.mu.Lock()
		h.refuses = errDraining
		h.mu.Unlock()
		h.tell(message("more")).refused(t, http.StatusServiceUnavailable)
		h.tell(respond("other", `{"behavior":"allow"}`)).refused(t, http.StatusServiceUnavailable)
		accepted(t, h.tell(respond("ask", `{"behavior":"allow"}`)), 1)
		require.JSONEq(t, `{"behavior":"allow"}`, <-asked)
		time.Sleep(time.Minute)
	})
}

func TestChannel_WhereNobodyIsConnectedTheAnswerIsNo(t *testing.T) {
	for subtype, want := range map[string]string{api.AskTool: `"behavior":"deny"`,
		"hook_callback": `"permissionDecision":"deny"`, api.AskElicitation: "error: "} {
		t.Run(subtype, func(t *testing.T) {
			inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
				c := h.follow("")
				asked := asks(h, api.Ask{ID: "ask", Subtype: subtype})
				accepted(t, h.tell(message("hi")), 1)
				time.Sleep(time.Minute)
				c.leave()
				time.Sleep(59 * time.Second)
				synctest.Wait()
				require.Empty(t, asked)
				time.Sleep(2 * time.Second)
				synctest.Wait()
				require.Contains(t, <-asked, want)
			})
		})
	}
}

// Nothing that is read may be lost, and no owner may be kept by who reads.
func TestChannel_ItsReadersComeAgainWhenTheirUserIsGivenUp(t *testing.T) {
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		turn := h.next(func(ctx context.Context, turn *turn) error {
			turn.sent()
			<-turn.stopped
			return turn.say(ctx, goodResult)
		})
		accepted(t, h.tell(message("hi")), 1)
		c := h.follow("")
		synctest.Wait()
		h.leaving()
		time.Sleep(time.Minute)
		require.False(t, c.isOver(), "a turn runs")
		turn.stop()
		c.whole()
		require.Equal(t, []string{"user: hi", "success: "}, c.payloads())
		require.NotContains(t, c.soFar().body, "[DONE]")

		idle := h.follow("")
		synctest.Wait()
		h.leaving()
		idle.whole()
	})
}

func TestChannel_ADeletedConversationHasNone(t *testing.T) {
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		h.deletes = func(context.Context, *api.Request) (int, error) { return 1, nil }
		accepted(t, h.tell(message("hi")), 1)
		time.Sleep(time.Minute)
		c, other := h.follow(""), h.followIn(uuid.NewString(), "")
		synctest.Wait()
		h.send(ask{path: api.PathDelete, more: `,"session_id":"` + session + `"`}).whole()
		c.whole()
		h.follow("").whole().refused(t, http.StatusNotFound)
		h.tell(message("again")).refused(t, http.StatusNotFound)
		require.False(t, other.isOver())
		h.send(ask{path: api.PathDelete}).whole()
		other.whole()
	})
}

func TestChannel_ASilentStreamHasPings(t *testing.T) {
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		c := h.follow("")
		time.Sleep(time.Minute + time.Second)
		synctest.Wait()
		require.Equal(t, 1+4, strings.Count(c.soFar().body, api.Ping))
		c.leave()
	})
}

func TestChannel_BadInputIsRefused(t *testing.T) {
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		for _, last := range []string{"x", "-1", "9007199254740992", "1.5"} {
			h.follow(last).whole().refused(t, http.StatusBadRequest)
		}
		for _, sent := range []string{`{}`, `{"type":"user"}`, message(""), `{"type":"keep_alive"}`, `7`,
			control("", `{}`), control("a", `7`), strings.Replace(message("x"), `"type"`, `"isMeta":true,"type"`, 1)} {
			h.tell(sent).refused(t, http.StatusBadRequest)
		}
		h.tell().refused(t, http.StatusBadRequest)
		h.refuses = errNotOwner
		h.tell(message("x")).refused(t, http.StatusMisdirectedRequest)
		h.follow("").whole().refused(t, http.StatusMisdirectedRequest)
		require.Zero(t, h.asked())
	})
}

func TestChannel_AUserHasSoManyReaders(t *testing.T) {
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		var all []*client
		for range 16 {
			all = append(all, h.follow(""))
		}
		synctest.Wait()
		h.follow("").whole().refused(t, http.StatusTooManyRequests)
		for _, c := range all {
			c.leave()
		}
		require.Zero(t, h.held)
	})
}
