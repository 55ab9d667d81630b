package pool_test

import (
	"bufio"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"claudepool/pool"
	"claudepool/pool/api"
)

// talk is a channel of a user's, that is read.
type talk struct {
	s             *service
	user, session string
	lines         *bufio.Reader
}

func (s *service) talk(user string) *talk {
	s.t.Helper()
	c := &talk{s: s, user: user, session: uuid.NewString()}
	raw, err := json.Marshal(c.about())
	require.NoError(s.t, err)
	response, err := s.send(s.t.Context(), http.DefaultClient, api.PathChannelStream, raw)
	require.NoError(s.t, err)
	require.Equal(s.t, http.StatusOK, response.StatusCode)
	s.t.Cleanup(func() { _ = response.Body.Close() })
	c.lines = bufio.NewReader(response.Body)
	return c
}

func (c *talk) about() fields {
	return fields{"oauth_credentials": fields{"access_token": token(c.user)}, "session_id": c.session}
}

// send sends payloads.
func (c *talk) send(payloads ...fields) {
	c.s.t.Helper()
	body := c.about()
	for _, p := range payloads {
		p["uuid"] = uuid.NewString()
	}
	body["events"] = payloads
	raw, err := json.Marshal(body)
	require.NoError(c.s.t, err)
	response, err := c.s.send(c.s.t.Context(), http.DefaultClient, api.PathChannelSend, raw)
	require.NoError(c.s.t, err)
	r := read(response)
	require.Equal(c.s.t, http.StatusOK, r.status, r.body)
}

func (c *talk) say(text string) {
	c.s.t.Helper()
	c.send(fields{"type": "user", "message": fields{"role": "user", "content": text}})
}

func (c *talk) request(id string, request fields) {
	c.s.t.Helper()
	c.send(fields{"type": "control_request", "request_id": id, "request": request})
}

// next reads on to the next payload of a type.
func (c *talk) next(kind string) gjson.Result {
	c.s.t.Helper()
	for {
		line, err := c.lines.ReadString('\n')
		require.NoError(c.s.t, err)
		data, _ := strings.CutPrefix(line, "data: ")
		if payload := gjson.Get(data, "payload"); payload.Get("type").Str == kind {
			return payload
		}
	}
}

func TestChannel_AnInterruptedTurnStaysInItsConversationAndItsProcess(t *testing.T) {
	s := newService(t, nil)
	c := s.talk("ada")
	c.say("[[words=400]] [[delay=100ms]] first")
	c.next("stream_event")
	c.request("stop", fields{"subtype": "interrupt"})
	require.Equal(t, "stop", c.next("control_response").Get("response.request_id").Str)
	require.Equal(t, "error_during_execution", c.next("result").Get("subtype").Str)
	pids := s.pids()
	c.say("second [[words=1]] [[delay=1ms]]")
	require.Equal(t, "success", c.next("result").Get("subtype").Str)
	require.Equal(t, pids, s.pids())
	require.Contains(t, strings.Join(s.lastCall().Messages(), "\n"), "first")
}

// pids are those of the users' processes.
func (s *service) pids() (all []int) {
	for _, u := range s.pool.Snapshot().Users {
		all = append(all, u.PID)
	}
	return all
}

// What a client has registered guards its conversation, also when it has gone and another client asks.
func TestChannel_HooksFailClosedInOthersTurns(t *testing.T) {
	s := newService(t, func(o *pool.Options) { o.PermissionMode = "acceptEdits" })
	c := s.talk("ada")
	c.request("init", fields{"subtype": "initialize", "hooks": fields{"PreToolUse": []fields{
		{"hookCallbackIds": []string{"guard"}}}}})
	c.say("hello")
	require.Equal(t, "success", c.next("result").Get("subtype").Str)
	response, err := s.start(t.Context(), "ada", `[[tool=Bash {"command":"mkdir made && echo done"}]]`,
		fields{"session_id": c.session})
	require.NoError(t, err)
	asked := c.next("control_request")
	require.Equal(t, "hook_callback", asked.Get("request.subtype").Str)
	c.send(fields{"type": "control_response", "response": fields{"subtype": "success",
		"request_id": asked.Get("request_id").Str, "response": fields{"hookSpecificOutput": fields{
			"hookEventName": "PreToolUse", "permissionDecision": "deny", "permissionDecisionReason": "the hook says no"}}}})
	require.Contains(t, read(response).text(t), "the hook says no")
}

// What a hook allows would be run where nobody may approve anything.
func TestChannel_AHookApprovesNothingWhereNothingIsApproved(t *testing.T) {
	s := newService(t, func(o *pool.Options) { o.Approvals = false })
	c := s.talk("ada")
	c.request("init", fields{"subtype": "initialize", "hooks": fields{"PreToolUse": []fields{
		{"hookCallbackIds": []string{"guard"}}}}})
	c.say(`[[tool=Bash {"command":"mkdir made && echo done"}]]`)
	asked := c.next("control_request")
	c.send(fields{"type": "control_response", "response": fields{"subtype": "success",
		"request_id": asked.Get("request_id").Str, "response": fields{"hookSpecificOutput": fields{
			"hookEventName": "PreToolUse", "permissionDecision": "allow"}}}})
	said := c.next("result").Get("result").Str
	require.Contains(t, said, "takes no approvals")
	require.NotContains(t, said, "done")
}

// A client of a channel sends again what gets a 400, and then gives up without a word.
func TestChannel_AnAnswerThatIsRefusedIsToldToTheModel(t *testing.T) {
	s := newService(t, func(o *pool.Options) { o.PermissionMode = "acceptEdits" })
	c := s.talk("ada")
	c.request("mode", fields{"subtype": "set_permission_mode", "mode": "default"})
	c.say(`[[tool=Bash {"command":"mkdir made && echo done"}]]`)
	asked := c.next("control_request")
	c.send(fields{"type": "control_response", "response": fields{"subtype": "success",
		"request_id": asked.Get("request_id").Str, "response": fields{"behavior": "allow", "updatedPermissions": []fields{
			{"type": "addDirectories", "directories": []string{"/"}, "destination": "session"}}}}})
	require.Contains(t, c.next("result").Get("result").Str, "What the client has answered is refused")
}

// Who answers at another place leaves no question open at the readers'.
func TestChannel_AnAnswerAtAnotherPlaceIsToldToItsReaders(t *testing.T) {
	s := newService(t, func(o *pool.Options) { o.PermissionMode = "acceptEdits" })
	c := s.talk("ada")
	c.request("mode", fields{"subtype": "set_permission_mode", "mode": "default"})
	c.say(`[[tool=Bash {"command":"mkdir made && echo done"}]]`)
	id := c.next("control_request").Get("request_id").Str
	status, body := s.answer("ada", c.session, id, allowed)
	require.Equal(t, http.StatusOK, status, body)
	require.Equal(t, id, c.next("control_cancel_request").Get("request_id").Str)
	require.Contains(t, c.next("result").Get("result").Str, "done")
}

// Who only reads keeps neither the process nor the user.
func TestChannel_AReaderDoesntKeepItsUser(t *testing.T) {
	for name, leave := range map[string]func(*service){
		"evicted": func(s *service) {
			s.pool.Evict((&api.Request{OAuth: &api.OAuthCredentials{AccessToken: token("ada")}}).UserID())
		},
		"drained": func(s *service) { s.pool.Drain(s.t.Context()) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newScriptedService(t, nil)
			c := s.talk("ada")
			c.say("hello")
			require.Equal(t, "reply to: hello", c.next("result").Get("result").Str)
			leave(s)
			for _, err := c.lines.ReadString('\n'); err == nil; _, err = c.lines.ReadString('\n') {
				continue
			}
			require.Eventually(t, func() bool { return len(s.owner.releasedUsers()) == 1 }, time.Minute, 5*time.Millisecond)
			require.Empty(t, s.pool.Users())
		})
	}
}

func TestChannel_AReaderKeepsNoProcess(t *testing.T) {
	s := newScriptedService(t, func(o *pool.Options) {
		o.IdleTimeout, o.CleanupInterval = 200*time.Millisecond, 50*time.Millisecond
	})
	c := s.talk("ada")
	require.Empty(t, s.pids(), "to read starts nothing")
	c.say("hello")
	c.next("result")
	require.Eventually(t, func() bool { return len(s.pids()) == 0 }, time.Minute, 5*time.Millisecond)
	c.say("again")
	require.Equal(t, "reply to: again", c.next("result").Get("result").Str)
	require.Empty(t, s.owner.releasedUsers(), "the reader is still the user's")
}
