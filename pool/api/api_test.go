package api

import (
	"errors"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const secret = "sk-ant-oat01-very-secret"

// body is a good request with one field replaced; a value of "-" takes the field out.
func body(field, value string) string {
	fields := map[string]string{
		"oauth_credentials": `{"access_token":"` + secret + `"}`,
		"messages":          `[{"role":"user","content":"hi"}]`,
	}
	fields[field] = value
	if value == "-" {
		delete(fields, field)
	}
	var parts []string
	for k, v := range fields {
		if k != "" {
			parts = append(parts, `"`+k+`":`+v)
		}
	}
	return "{" + strings.Join(parts, ",") + "}"
}

func TestDecode_RefusesBadInputWithA4xxThatKeepsTheToken(t *testing.T) {
	bad := map[string]string{
		"empty": "", "blank": " \n", "half": `{"messages":[`, "array": "[]", "null": "null", "number": "1", "string": `"x"`,
		"trailing": body("", "") + "{}", "not UTF-8": body("model", "\"\xff\""), "NUL in system": body("system",
			`"a\u0000b"`),
		"deep":            body("x", strings.Repeat("[", 100)+strings.Repeat("]", 100)),
		"deeper":          strings.Repeat(`{"a":`, 100_000),
		"no messages":     body("messages", "-"),
		"null messages":   body("messages", "null"),
		"empty messages":  body("messages", "[]"),
		"messages object": body("messages", "{}"),
		"message null":    body("messages", "[null]"),
		"message string":  body("messages", `["hi"]`),
		"no role":         body("messages", `[{"content":"hi"}]`),
		"system role":     body("messages", `[{"role":"system","content":"hi"}]`),
		"role number":     body("messages", `[{"role":1,"content":"hi"}]`),
		"assistant last":  body("messages", `[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]`),
		"assistant first": body("messages", `[{"role":"assistant","content":"b"},{"role":"user","content":"a"}]`),
		"no content":      body("messages", `[{"role":"user"}]`),
		"content null":    body("messages", `[{"role":"user","content":null}]`),
		"content number":  body("messages", `[{"role":"user","content":1}]`),
		"content object":  body("messages", `[{"role":"user","content":{}}]`),
		"content empty":   body("messages", `[{"role":"user","content":""}]`),
		"content blank":   body("messages", `[{"role":"user","content":" \n"}]`),
		"no blocks":       body("messages", `[{"role":"user","content":[]}]`),
		"block string":    body("messages", `[{"role":"user","content":["hi"]}]`),
		"block no type":   body("messages", `[{"role":"user","content":[{"text":"hi"}]}]`),
		"block odd type":  body("messages", `[{"role":"user","content":[{"type":"exec"}]}]`),
		"user tool_use":   body("messages", `[{"role":"user","content":[{"type":"tool_use"}]}]`),
		"text number":     body("messages", `[{"role":"user","content":[{"type":"text","text":1}]}]`),
		"text blank": body("messages", `[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text",`+
			`"text":" \t"}]}]`),
		"text empty":       body("messages", `[{"role":"user","content":[{"type":"text","text":""}]}]`),
		"no credential":    body("oauth_credentials", "-"),
		"null credential":  body("oauth_credentials", "null"),
		"token empty":      body("oauth_credentials", `{"access_token":""}`),
		"token number":     body("oauth_credentials", `{"access_token":1}`),
		"token newline":    body("oauth_credentials", `{"access_token":"`+secret+`\nX-Evil: 1"}`),
		"token space":      body("oauth_credentials", `{"access_token":"`+secret+` x"}`),
		"token short":      body("oauth_credentials", `{"access_token":"a"}`),
		"token long":       body("oauth_credentials", `{"access_token":"`+strings.Repeat("a", 5000)+`"}`),
		"token not ASCII":  body("oauth_credentials", `{"access_token":"`+secret+`é"}`),
		"credential array": body("oauth_credentials", "[]"),
		"both":             body("api_key", `"sk-ant-api03-abcdefgh"`),
		"model flag":       body("model", `"--dangerously-skip-permissions"`),
		"model space":      body("model", `"haiku --x"`),
		"model number":     body("model", "1"),
		"model long":       body("model", `"`+strings.Repeat("a", 200)+`"`),
		"fallback flag":    body("fallback_model", `"-p"`),
		"session path":     body("session_id", `"../../etc/passwd"`),
		"session flag":     body("session_id", `"--resume"`),
		"session short":    body("session_id", `"123"`),
		"session number":   body("session_id", "1"),
		"system number":    body("system", "1"),
		"system blocks":    body("system", `[{"type":"image"}]`),
		"thinking string":  body("thinking", `"yes"`),
		"thinking object":  body("thinking", `{"type":"sometimes"}`),
		"mode odd":         body("permission_mode", `"yolo"`),
		"mode number":      body("permission_mode", "1"),
		"background odd":   body("background", `"forever"`),
		"background bool":  body("background", "true"),
		"servers array":    body("mcp_servers", "[]"),
		"server name":      body("mcp_servers", `{"../x":{"url":"http://h/"}}`),
		"server empty":     body("mcp_servers", `{"x":{}}`),
		"server type":      body("mcp_servers", `{"x":{"type":"sdk"}}`),
		"server file":      body("mcp_servers", `{"x":{"type":"http","url":"file:///etc/passwd"}}`),
		"server both":      body("mcp_servers", `{"x":{"type":"http","url":"http://h/","command":"sh"}}`),
		"server NUL":       body("mcp_servers", `{"x":{"command":"sh","args":["a\u0000"]}}`),
	}
	require.Greater(t, len(bad), 45)
	for name, input := range bad {
		_, err := Decode([]byte(input))
		var e *Error
		require.ErrorAs(t, err, &e, name)
		require.True(t, e.Status >= 400 && e.Status < 500, "%s: %d", name, e.Status)
		require.NotContains(t, e.Message, secret, name)
		require.NotEmpty(t, e.Message, name)
	}
}

func TestDecode_TakesWhatClientsSend(t *testing.T) {
	r, err := Decode([]byte(`{"api_key":"sk-ant-api03-abcdefgh","max_tokens":5,"stream":true,"temperature":1,
		"messages":[{"role":"user","content":[{"type":"text","text":"hi","cache_control":{"type":"ephemeral"}}]}],
		"system":[{"type":"text","text":"a"},{"type":"text","text":"b"}],"thinking":{"type":"enabled","budget_tokens":5},
		"session_id":"AAAAAAAA-0000-4000-8000-000000000000","mcp_servers":{}}`))
	require.NoError(t, err)
	require.Equal(t, "a\n\nb", *r.System)
	require.True(t, *r.Thinking)
	require.Equal(t, "aaaaaaaa-0000-4000-8000-000000000000", r.SessionID)
	require.NotNil(t, r.MCPServers, "an empty set is not an omitted one")
	require.Len(t, r.UserID(), 16)
	require.Equal(t, r.UserID()[:8], ShortUser(r.UserID()))
}

func TestWriteError_GivesNothingAwayThatIsNoError(t *testing.T) {
	w := httptest.NewRecorder()
	WriteError(w, "req_1", RateLimited(1500*time.Millisecond, "slow down"))
	require.Equal(t, 429, w.Code)
	require.Equal(t, "2", w.Header().Get("Retry-After"))
	require.JSONEq(t, `{"type":"error","error":{"type":"rate_limit_error","message":"slow down"},"request_id":"req_1"}`,
		w.Body.String())

	w = httptest.NewRecorder()
	WriteError(w, "", errors.New("dial tcp 10.0.0.7: refused"))
	require.Equal(t, 500, w.Code)
	require.NotContains(t, w.Body.String(), "10.0.0.7")
	require.Equal(t, `data: {"type":"error","error":{"type":"api_error","message":"internal error"}}`+"\n\n",
		string(ErrorEvent(errors.New("secret"))))
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(body("", "")))
	f.Add([]byte(body("mcp_servers", `{"x":{"url":"http://h/"}}`)))
	f.Fuzz(func(t *testing.T, input []byte) {
		r, err := Decode(input)
		if err != nil {
			var e *Error
			require.ErrorAs(t, err, &e)
			require.True(t, e.Status >= 400 && e.Status < 500)
			return
		}
		require.NotEmpty(t, r.Token())
		_ = r.Readings()
	})
}
