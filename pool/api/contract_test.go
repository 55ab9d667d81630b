package api

import (
	"errors"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	token = "sk-ant-oat01-secret"
	who   = `"oauth_credentials":{"access_token":"` + token + `"}`
	turn  = `"messages":[{"role":"user","content":"Hi"}]`
	uuid  = "0f8fad5b-d9cb-469f-a165-70867728950e"
)

// with is a good body with more fields.
func with(fields string) string { return "{" + who + "," + turn + "," + fields + "}" }

// saying is a good body but for its messages.
func saying(messages string) string { return "{" + who + `,"messages":` + messages + "}" }

// content is a good body but for its turn's content.
func content(c string) string { return saying(`[{"role":"user","content":` + c + `}]`) }

var bad = map[string]struct {
	body   string
	status int
}{
	"empty":                 {"", 400},
	"blank":                 {" \r\n\t", 400},
	"half":                  {"{" + who + "," + turn, 400},
	"two values":            {with(`"model":"haiku"`) + "{}", 400},
	"an array":              {"[]", 400},
	"a string":              {`"` + token + `"`, 400},
	"a number":              {"1", 400},
	"a mark before it":      {"\ufeff" + with(`"model":"haiku"`), 400},
	"raw NULs":              {"\x00\x00", 400},
	"a raw NUL in a string": {with("\"model\":\"a\x00\""), 400},
	"invalid UTF-8":         {with("\"model\":\"a\xff\""), 400},
	"deep arrays":           {strings.Repeat("[", 1_000_000), 400},
	"deep objects":          {with(`"x":` + strings.Repeat(`{"a":`, 64) + "1" + strings.Repeat("}", 64)), 400},
	"no credential":         {"{" + turn + "}", 401},
	"null credential":       {`{"oauth_credentials":null,` + turn + "}", 401},
	"no access token":       {`{"oauth_credentials":{},` + turn + "}", 401},
	"empty access token":    {`{"oauth_credentials":{"access_token":""},` + turn + "}", 401},
	"both credentials":      {with(`"api_key":"sk-ant-api03-another"`), 400},
	"credential a string":   {`{"oauth_credentials":"` + token + `",` + turn + "}", 400},
	"access token a number": {`{"oauth_credentials":{"access_token":12345678},` + turn + "}", 400},
	"newline in the token": {`{"oauth_credentials":{"access_token":"` + token + `\nX-Evil: 1"},` + turn + "}",
		400},
	"space in the token":  {`{"oauth_credentials":{"access_token":"` + token + ` x"},` + turn + "}", 400},
	"NUL in the token":    {`{"oauth_credentials":{"access_token":"` + token + `\u0000"},` + turn + "}", 400},
	"umlaut in the token": {`{"oauth_credentials":{"access_token":"` + token + `ü"},` + turn + "}", 400},
	"short token":         {`{"oauth_credentials":{"access_token":"short"},` + turn + "}", 400},
	"long token": {`{"oauth_credentials":{"access_token":"` + strings.Repeat(token, 300) + `"},` +
		turn + "}", 400},
	"the present token as previous": {`{"oauth_credentials":{"access_token":"` + token + `","previous_access_token":"` +
		token + `"},` + turn + "}", 400},
	"short previous token": {`{"oauth_credentials":{"access_token":"` + token +
		`","previous_access_token":"short"},` + turn + "}", 400},
	"newline in previous token": {`{"oauth_credentials":{"access_token":"x` + token + `","previous_access_token":"` +
		token + `\n"},` + turn + "}", 400},
	"previous token as server": {`{"oauth_credentials":{"access_token":"another-token","previous_access_token":"` +
		token + `"},"mcp_servers":{"` + token + `":{}},` + turn + "}", 400},
	"foreign API key":    {`{"api_key":"` + token + `",` + turn + "}", 400},
	"API key a list":     {`{"api_key":["` + token + `"],` + turn + "}", 400},
	"no messages":        {"{" + who + "}", 400},
	"no message":         {saying("[]"), 400},
	"messages a string":  {saying(`"` + token + `"`), 400},
	"a message a string": {saying(`["` + token + `"]`), 400},
	"null message":       {saying("[null]"), 400},
	"too many messages": {saying("[" + strings.Repeat(`{"role":"user","content":"a"},`, maxMessages) +
		`{"role":"user","content":"a"}]`), 400},
	"no role":              {saying(`[{"content":"a"}]`), 400},
	"system role":          {saying(`[{"role":"system","content":"a"}]`), 400},
	"token as role":        {saying(`[{"role":"` + token + `","content":"a"}]`), 400},
	"the assistant last":   {saying(`[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]`), 400},
	"the assistant first":  {saying(`[{"role":"assistant","content":"b"},{"role":"user","content":"a"}]`), 400},
	"no content":           {saying(`[{"role":"user"}]`), 400},
	"null content":         {content("null"), 400},
	"empty content":        {content(`""`), 400},
	"blank content":        {content(`" \n"`), 400},
	"content a number":     {content("1"), 400},
	"content an object":    {content(`{"type":"text","text":"a"}`), 400},
	"no block":             {content("[]"), 400},
	"a block a string":     {content(`["` + token + `"]`), 400},
	"null block":           {content("[null]"), 400},
	"a block without type": {content(`[{"text":"a"}]`), 400},
	"unknown block":        {content(`[{"type":"` + token + `"}]`), 400},
	"the user's tool use":  {content(`[{"type":"tool_use","id":"x","name":"y","input":{}}]`), 400},
	"the assistant's image": {saying(`[{"role":"user","content":"a"},{"role":"assistant",` +
		`"content":[{"type":"image"}]},{"role":"user","content":"b"}]`), 400},
	"empty text block":           {content(`[{"type":"text","text":""}]`), 400},
	"text block of a number":     {content(`[{"type":"text","text":1}]`), 400},
	"tool results alone":         {content(`[{"type":"tool_result","tool_use_id":"x"}]`), 400},
	"a flag as model":            {with(`"model":"--model"`), 400},
	"short flag as model":        {with(`"model":"-p"`), 400},
	"a space in the model":       {with(`"model":"haiku --resume"`), 400},
	"newline after the model":    {with(`"model":"haiku\n"`), 400},
	"long model":                 {with(`"model":"` + strings.Repeat("a", maxModel+1) + `"`), 400},
	"model a number":             {with(`"model":1`), 400},
	"a flag as fallback":         {with(`"fallback_model":"--dangerously-skip-permissions"`), 400},
	"a path as session":          {with(`"session_id":"../../etc/passwd"`), 400},
	"a path behind the session":  {with(`"session_id":"` + uuid + `/../x"`), 400},
	"newline behind the session": {with(`"session_id":"` + uuid + `\n"`), 400},
	"NUL behind the session":     {with(`"session_id":"` + uuid + `\u0000"`), 400},
	"session without dashes":     {with(`"session_id":"` + strings.ReplaceAll(uuid, "-", "") + `"`), 400},
	"token as session":           {with(`"session_id":"` + token + `"`), 400},
	"session a number":           {with(`"session_id":7`), 400},
	"system a number":            {with(`"system":7`), 400},
	"NUL in the system":          {with(`"system":"a\u0000b"`), 400},
	"NUL in a system block":      {with(`"system":[{"type":"text","text":"a\u0000"}]`), 400},
	"an image as system":         {with(`"system":[{"type":"image"}]`), 400},
	"null in the system":         {with(`"system":[null]`), 400},
	"thinking a string":          {with(`"thinking":"` + token + `"`), 400},
	"thinking of unknown type":   {with(`"thinking":{"type":"` + token + `"}`), 400},
	"thinking a list":            {with(`"thinking":[{"type":"enabled"}]`), 400},
	"unknown permission mode":    {with(`"permission_mode":"--` + token + `"`), 400},
	"servers a list":             {with(`"mcp_servers":[]`), 400},
	"a server a string":          {with(`"mcp_servers":{"a":"` + token + `"}`), 400},
	"null server":                {with(`"mcp_servers":{"a":null}`), 400},
	"empty server":               {with(`"mcp_servers":{"a":{}}`), 400},
	"a server without a name":    {with(`"mcp_servers":{"":{"command":"a"}}`), 400},
	"a path as server's name":    {with(`"mcp_servers":{"../a":{"command":"a"}}`), 400},
	"token as server's name":     {with(`"mcp_servers":{"` + token + `":{}}`), 400},
	"unknown kind of server":     {with(`"mcp_servers":{"a":{"type":"ws","url":"ws://a"}}`), 400},
	"command and url":            {with(`"mcp_servers":{"a":{"command":"a","url":"http://a"}}`), 400},
	"http with a command":        {with(`"mcp_servers":{"a":{"type":"http","command":"a","url":"http://a"}}`), 400},
	"a file as url":              {with(`"mcp_servers":{"a":{"type":"http","url":"file:///etc/passwd"}}`), 400},
	"url without host":           {with(`"mcp_servers":{"a":{"type":"sse","url":"http://"}}`), 400},
	"NUL in an argument":         {with(`"mcp_servers":{"a":{"command":"a","args":["\u0000"]}}`), 400},
	"NUL in the environment":     {with(`"mcp_servers":{"a":{"command":"a","env":{"A":"\u0000"}}}`), 400},
	"= in an environment's name": {with(`"mcp_servers":{"a":{"command":"a","env":{"A=B":"c"}}}`), 400},
	"newline in a server's header": {with(`"mcp_servers":{"a":{"type":"http","url":"http://a","headers":{"A":"b\r\nC: ` +
		`d"}}}`), 400},
	"the environment in a header": {with(`"mcp_servers":{"a":{"type":"http","url":"http://a","headers":{"A":"x ${HOME}` +
		` y"}}}`), 400},
	"the environment in a url": {with(`"mcp_servers":{"a":{"type":"http","url":"http://a/${HOME:-x}"}}`), 400},
	"arguments a string":       {with(`"mcp_servers":{"a":{"command":"a","args":"b"}}`), 400},
}

// requireClientError says that err is an *Error of the 4xx kind and returns it.
func requireClientError(t *testing.T, err error) *Error {
	t.Helper()
	var e *Error
	require.ErrorAs(t, err, &e)
	require.GreaterOrEqual(t, e.Status, 400)
	require.Less(t, e.Status, 500)
	require.NotEmpty(t, e.Message)
	require.NotEmpty(t, e.Type)
	return e
}

func TestDecode_BadInputIsTheClientsErrorAndNeverRepeatsTheToken(t *testing.T) {
	for name, c := range bad {
		t.Run(name, func(t *testing.T) {
			req, err := Decode([]byte(c.body))
			require.Nil(t, req)
			e := requireClientError(t, err)
			require.Equal(t, c.status, e.Status, e.Message)
			require.NotContains(t, e.Message, "secret")
			require.NotContains(t, e.Message, "Request.", "names of Go types are no business of the client's")
		})
	}
}

func TestDecode_ServersAreCounted(t *testing.T) {
	var servers []string
	for i := range maxServers + 1 {
		servers = append(servers, fmt.Sprintf(`"s%d":{"command":"a"}`, i))
	}
	_, err := Decode([]byte(with(`"mcp_servers":{` + strings.Join(servers, ",") + "}")))
	require.Equal(t, 400, requireClientError(t, err).Status)
	_, err = Decode([]byte(with(`"mcp_servers":{` + strings.Join(servers[1:], ",") + "}")))
	require.NoError(t, err)
}

func TestDecode_AcceptsAllThatIsPromised(t *testing.T) {
	req, err := Decode([]byte(with(`"model":"us.anthropic/claude-x:0[1m]","fallback_model":"sonnet","thinking":true,
		"session_id":"` + strings.ToUpper(uuid) + `","system":[{"type":"text","text":"a"},{"type":"text","text":"b"}],
		"permission_mode":"plan","background":"wait","max_tokens":5,"stream":true,
		"mcp_servers":{"a":{"command":"b","args":["--c"],"env":{"D":"e"}},"h":{"type":"http","url":"https://h/x"}}`)))
	require.NoError(t, err)
	require.Equal(t, token, req.Token())
	require.Equal(t, uuid, req.SessionID)
	require.Equal(t, "a\n\nb", *req.System)
	require.True(t, *req.Thinking)
	require.Equal(t, "sonnet", *req.FallbackModel)
	require.Equal(t, Wait, req.Background)
	require.Equal(t, "stdio", req.MCPServers["a"].Type)
	require.Len(t, req.UserID(), 16)
	require.Empty(t, req.Readings()[0].Before)
	require.Equal(t, "Hi", req.Turn().Text())
}

func TestDecode_LeftOutAndNullAreTheSame(t *testing.T) {
	for _, body := range []string{
		"{" + who + "," + turn + "}",
		with(`"system":null,"thinking":null,"fallback_model":null,"mcp_servers":null,"model":null,"background":null,` +
			`"session_id":null,"api_key":null`),
	} {
		req, err := Decode([]byte(body))
		require.NoError(t, err)
		require.Nil(t, req.System)
		require.Nil(t, req.Thinking)
		require.Nil(t, req.FallbackModel)
		require.Nil(t, req.MCPServers)
		require.Empty(t, req.Background)
	}
}

func TestDecode_ThinkingMayBeTheMessagesAPIsObject(t *testing.T) {
	for form, want := range map[string]bool{"true": true, "false": false, `{"type":"enabled","budget_tokens":9}`: true,
		`{"type":"adaptive"}`: true, `{"type":"disabled"}`: false} {
		req, err := Decode([]byte(with(`"thinking":` + form)))
		require.NoError(t, err, form)
		require.Equal(t, want, *req.Thinking, form)
	}
}

func TestDecode_ContentIsKeptByteForByte(t *testing.T) {
	raw := `[ {"type":"text","text":"\u0041  [[[[{{{{ \" \\"}, {"type":"image","source":{"a": 1}} ]`
	req, err := Decode([]byte(content(raw)))
	require.NoError(t, err)
	require.Equal(t, raw, string(req.Turn().Content))
	require.Equal(t, raw, string(req.Readings()[0].Message()))
}

func TestWriteError_IsTheMessagesAPIsEnvelope(t *testing.T) {
	for _, c := range []struct {
		err    *Error
		status int
		kind   string
	}{
		{Invalid("m"), 400, "invalid_request_error"}, {Authentication("m"), 401, "authentication_error"},
		{NotFound("m"), 404, "not_found_error"}, {MethodNotAllowed("m"), 405, "invalid_request_error"},
		{TooLarge("m"), 413, "request_too_large"}, {Misdirected("m"), 421, "api_error"},
		{RateLimited(time.Millisecond, "m"), 429, "rate_limit_error"}, {Overloaded(time.Second, "m"), 529,
			"overloaded_error"},
		{BadGateway("m"), 502, "api_error"}, {Unavailable(time.Second, "m"), 503, "api_error"},
	} {
		w := httptest.NewRecorder()
		WriteError(w, "req_1", fmt.Errorf("wrapped: %w", c.err))
		require.Equal(t, c.status, w.Code)
		require.Equal(t, "application/json", w.Header().Get("Content-Type"))
		require.Equal(t, "req_1", w.Header().Get(HeaderRequestID))
		require.JSONEq(t, `{"type":"error","error":{"type":"`+c.kind+`","message":"m"},"request_id":"req_1"}`,
			w.Body.String())
		if c.err.RetryAfter > 0 {
			require.Equal(t, "1", w.Header().Get("Retry-After"))
		} else {
			require.Empty(t, w.Header().Get("Retry-After"))
		}
	}
}

func TestWriteError_GivesNothingAwayOfOtherErrors(t *testing.T) {
	w := httptest.NewRecorder()
	WriteError(w, "", errors.New("dial 10.0.0.1: "+token))
	require.Equal(t, 500, w.Code)
	require.JSONEq(t, `{"type":"error","error":{"type":"api_error","message":"internal error"}}`, w.Body.String())
}

func TestErrorEvent_IsOneLineAndAnEmptyOne(t *testing.T) {
	event := string(ErrorEvent(BadGateway("a\nb")))
	require.Equal(t, `data: {"type":"error","error":{"type":"api_error","message":"a\nb"}}`+"\n\n", event)
	require.NotContains(t, string(ErrorEvent(errors.New(token))), token)
}

func TestDecode_WhatIsKeptOfARequestIsBounded(t *testing.T) {
	prompt := func(n int) string { return with(`"system":"` + strings.Repeat("x", n) + `"`) }
	servers := func(n int) string { return with(`"mcp_servers":{"a":{"command":"` + strings.Repeat("x", n) + `"}}`) }
	for name, c := range map[string]struct {
		of   func(int) string
		most int
	}{"system": {prompt, maxSystem}, "mcp_servers": {servers, maxServersSize - len(`{"a":{"command":""}}`)}} {
		_, err := Decode([]byte(c.of(c.most)))
		require.NoError(t, err, name)
		_, err = Decode([]byte(c.of(c.most + 1)))
		require.Contains(t, requireClientError(t, err).Message, name)
	}
}
