package pool_test

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"claudepool/pool"
	"claudepool/pool/api"
)

// interactive is a turn whose client reads it event by event.
type interactive struct {
	s       *service
	user    string
	session string
	body    *bufio.Reader
	rest    func() error
	events  []gjson.Result
	pids    []string
}

// converse begins a turn of a conversation whose client answers what it is asked.
func (s *service) converse(ctx context.Context, user, session, text string, more fields) *interactive {
	s.t.Helper()
	all := fields{"session_id": session, "interactive": true}
	for name, value := range more {
		all[name] = value
	}
	response, err := s.start(ctx, user, text, all)
	require.NoError(s.t, err)
	require.Equal(s.t, http.StatusOK, response.StatusCode)
	s.t.Cleanup(func() { _ = response.Body.Close() })
	return &interactive{s: s, user: user, session: session, body: bufio.NewReader(response.Body),
		rest: response.Body.Close, pids: response.Header.Values(api.HeaderPID)}
}

// next reads on to the next event of a type.
func (i *interactive) next(kind string) gjson.Result {
	i.s.t.Helper()
	for {
		line, err := i.body.ReadString('\n')
		require.NoError(i.s.t, err, "%v", i.events)
		data, ok := strings.CutPrefix(line, "data: {")
		if !ok {
			continue
		}
		event := gjson.Parse("{" + data)
		i.events = append(i.events, event)
		if event.Get("type").Str == kind {
			return event
		}
	}
}

// asked reads on to what is asked next.
func (i *interactive) asked() gjson.Result {
	i.s.t.Helper()
	return i.next("control_request")
}

// answers gives an answer, and returns the status.
func (i *interactive) answers(id, response string) (status int, body string) {
	i.s.t.Helper()
	return i.s.answer(i.user, i.session, id, response)
}

func (s *service) answer(user, session, id, response string) (status int, body string) {
	s.t.Helper()
	raw, err := json.Marshal(fields{"oauth_credentials": fields{"access_token": token(user)}, "session_id": session,
		"request_id": id, "response": json.RawMessage(response)})
	require.NoError(s.t, err)
	answer, err := s.send(s.t.Context(), http.DefaultClient, api.PathAnswer, raw)
	require.NoError(s.t, err)
	r := read(answer)
	return r.status, r.body
}

// toolSaid is what the next result says that the model was told by its tool.
func (i *interactive) toolSaid() string {
	i.s.t.Helper()
	text := i.next("result").Get("result").Str
	said, ok := strings.CutPrefix(text, "tool said: ")
	require.True(i.s.t, ok, text)
	return said
}

// newAskedService is one whose conversations ask before they do anything, unless they are told otherwise.
func newAskedService(t *testing.T, change func(*pool.Options)) *service {
	return newService(t, func(o *pool.Options) {
		o.PermissionMode = "acceptEdits"
		if change != nil {
			change(o)
		}
	})
}

const (
	write   = `[[tool=Bash {"command":"mkdir made; echo done"}]]`
	allowed = `{"behavior":"allow"}`
)

func TestAnswer_AToolRunsWhenItsClientAllowsIt(t *testing.T) {
	s := newAskedService(t, nil)
	session := uuid.NewString()
	mode := fields{"permission_mode": "default"}
	i := s.converse(t.Context(), "ada", session, write, mode)
	asked := i.asked()
	require.Equal(t, api.AskTool, asked.Get("request.subtype").Str)
	require.Equal(t, "mkdir made; echo done", asked.Get("request.input.command").Str)
	id := asked.Get("request_id").Str
	for response, what := range map[string]string{
		`{}`:                            "behavior: must be allow or deny",
		`{"behavior":"deny"}`:           "message: is required",
		`{"behavior":"allow","also":1}`: "response.also: isn't accepted",
		`{"behavior":"allow","toolUseID":"toolu_other"}`: "toolUseID",
		`{"behavior":"allow","updatedPermissions":[{"type":"setMode","destination":"session","mode":"plan"},` +
			`{"type":"setMode","destination":"session","mode":"bypassPermissions"}]}`: "mode",
	} {
		status, body := i.answers(id, response)
		require.Equal(t, http.StatusBadRequest, status, response)
		require.Contains(t, body, what)
	}
	status, _ := i.s.answer("bob", session, id, allowed)
	require.Equal(t, http.StatusNotFound, status, "another user's")
	status, _ = i.answers(uuid.NewString(), allowed)
	require.Equal(t, http.StatusNotFound, status, "never asked")
	status, body := i.answers(id, allowed)
	require.Equal(t, http.StatusOK, status, body)
	status, _ = i.answers(id, allowed)
	require.Equal(t, http.StatusOK, status, "the first time it may not have been heard")
	status, _ = i.answers(id, `{"behavior":"deny","message":"no"}`)
	require.Equal(t, http.StatusNotFound, status, "it is answered")
	require.Equal(t, "done", i.toolSaid())

	i = s.converse(t.Context(), "ada", session, "changed "+write, mode)
	status, body = i.answers(i.asked().Get("request_id").Str,
		`{"behavior":"allow","updatedInput":{"command":"echo something else"}}`)
	require.Equal(t, http.StatusOK, status, body)
	require.Equal(t, "something else", i.toolSaid())

	i = s.converse(t.Context(), "ada", session, "refused "+write, mode)
	status, body = i.answers(i.asked().Get("request_id").Str, `{"behavior":"deny","message":"not on a Saturday"}`)
	require.Equal(t, http.StatusOK, status, body)
	require.Equal(t, "not on a Saturday", i.toolSaid())
}

// The process can ask, but a request that doesn't say that it answers isn't asked.
func TestAnswer_WhoDoesNotSayThatItAnswersIsNotAsked(t *testing.T) {
	s := newAskedService(t, nil)
	session := uuid.NewString()
	mode := fields{"permission_mode": "default", "session_id": session}
	i := s.converse(t.Context(), "ada", session, write, mode)
	status, _ := i.answers(i.asked().Get("request_id").Str, allowed)
	require.Equal(t, http.StatusOK, status)
	i.next("result")
	r := s.ask("ada", "again "+write, mode)
	require.Contains(t, r.text(t), "there is nobody in this conversation")
	require.Empty(t, r.of("control_request"))
}

func TestAnswer_AQuestionOfTheModels(t *testing.T) {
	s := newAskedService(t, nil)
	const question = `[[tool=AskUserQuestion {"questions":[{"question":"Which colour?","header":"Colour",` +
		`"multiSelect":false,` +
		`"options":[{"label":"Blue","description":"b"},{"label":"Red","description":"r"}]}]}]]`
	i := s.converse(t.Context(), "ada", uuid.NewString(), question, fields{"permission_mode": "acceptEdits"})
	asked := i.asked()
	require.True(t, asked.Get("request.requires_user_interaction").Bool())
	input := strings.TrimSuffix(asked.Get("request.input").Raw, "}") + `,"answers":{"Which colour?":"Blue"}}`
	status, body := i.answers(asked.Get("request_id").Str, `{"behavior":"allow","updatedInput":`+input+`}`)
	require.Equal(t, http.StatusOK, status, body)
	require.Contains(t, i.toolSaid(), `"Which colour?"="Blue"`)
	r := s.ask("bob", "which tools", nil)
	require.NotContains(t, string(s.lastCall().Body), "AskUserQuestion", "nobody would answer")
	require.NotEmpty(t, r.text(t))
}

// A mode that an answer sets holds for the turn, or it would be the conversation's without anybody having said so.
func TestAnswer_AModeThatItSetsEndsWithItsTurn(t *testing.T) {
	s := newAskedService(t, nil)
	session := uuid.NewString()
	mode := fields{"permission_mode": "default"}
	file := filepath.Join(t.TempDir(), "x")
	use := `[[tool=Write {"file_path":"` + file + `","content":"x"}]]`
	_ = os.Remove(file)
	i := s.converse(t.Context(), "ada", session, "first "+write, mode)
	status, body := i.answers(i.asked().Get("request_id").Str, `{"behavior":"allow","updatedPermissions":[`+
		`{"type":"setMode","mode":"acceptEdits","destination":"session"}]}`)
	require.Equal(t, http.StatusOK, status, body)
	i.next("result")
	i = s.converse(t.Context(), "ada", session, "second "+use, mode)
	require.Equal(t, "Write", i.asked().Get("request.tool_name").Str)
	require.NoError(t, i.rest())
}

func TestAnswer_IsRefusedWhereProcessesAreNotIsolated(t *testing.T) {
	s := newScriptedService(t, func(o *pool.Options) { o.Approvals = false })
	r := s.ask("ada", "hello", fields{"interactive": true})
	require.Equal(t, http.StatusBadRequest, r.status)
	require.Contains(t, r.body, "takes no approvals")
}

func TestAnswer_WhoNeverAnswersIsToldSoByTheModel(t *testing.T) {
	s := newAskedService(t, func(o *pool.Options) { o.ApprovalTimeout, o.TurnTimeout = 2*time.Second, 10*time.Minute })
	i := s.converse(t.Context(), "ada", uuid.NewString(), write, fields{"permission_mode": "default"})
	id := i.asked().Get("request_id").Str
	require.Contains(t, i.toolSaid(), "Nobody has answered in time")
	status, _ := i.answers(id, allowed)
	require.Equal(t, http.StatusNotFound, status)
}

func TestAnswer_ARequestThatWaitsBehindAQuestionIsToldWhich(t *testing.T) {
	s := newAskedService(t, func(o *pool.Options) { o.QueueTimeout = time.Second })
	session := uuid.NewString()
	i := s.converse(t.Context(), "ada", session, write, fields{"permission_mode": "default"})
	id := i.asked().Get("request_id").Str
	r := s.ask("ada", "hello", fields{"session_id": session})
	require.Equal(t, http.StatusTooManyRequests, r.status)
	require.Contains(t, r.body, id)
}

// A turn that waits is the one that a drain waits for.
func TestAnswer_IsTakenWhileTheInstanceDrains(t *testing.T) {
	s := newAskedService(t, nil)
	i := s.converse(t.Context(), "ada", uuid.NewString(), write, fields{"permission_mode": "default"})
	id := i.asked().Get("request_id").Str
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		s.pool.Drain(t.Context())
	}()
	require.Eventually(t, func() bool { return s.ask("bob", "hello", nil).status != http.StatusOK }, time.Minute,
		10*time.Millisecond)
	status, body := i.answers(id, allowed)
	require.Equal(t, http.StatusOK, status, body)
	require.Equal(t, "done", i.toolSaid())
	<-drained
}

func TestAnswer_MayComeUnderTheTokenThatReplacedTheTurns(t *testing.T) {
	s := newAskedService(t, nil)
	i := s.converse(t.Context(), "ada", uuid.NewString(), write, fields{"permission_mode": "default"})
	id := i.asked().Get("request_id").Str
	status, _ := s.answer("ada-new", i.session, id, allowed)
	require.Equal(t, http.StatusNotFound, status, "nobody has said whose it was")
	raw, err := json.Marshal(fields{"oauth_credentials": fields{"access_token": token("ada-new"),
		"previous_access_token": token("ada")}, "session_id": i.session, "request_id": id,
		"response": json.RawMessage(allowed)})
	require.NoError(t, err)
	answer, err := s.send(t.Context(), http.DefaultClient, api.PathAnswer, raw)
	require.NoError(t, err)
	r := read(answer)
	require.Equal(t, http.StatusOK, r.status, r.body)
	require.Equal(t, "done", i.toolSaid())
}

// Who comes back to a turn must not find a question open that was answered for it.
func TestAnswer_ATurnWhoseClientStaysAwayIsToldNo(t *testing.T) {
	s := newAskedService(t, func(o *pool.Options) { o.ApprovalTimeout = 2 * time.Second })
	i := s.converse(t.Context(), "ada", uuid.NewString(), write, fields{"permission_mode": "default"})
	id := i.asked().Get("request_id").Str
	require.Equal(t, id, i.next("control_cancel_request").Get("request_id").Str)
	require.Contains(t, i.toolSaid(), "Nobody has answered in time")
}
