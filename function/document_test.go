package function

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/stretchr/testify/require"

	"claudepool/function/chat"
	"claudepool/function/messages"
	"claudepool/function/openapi"
	"claudepool/pool/api"
)

// described is the description of the service, which is valid.
func described(t *testing.T) *openapi3.T {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromData(openapi.Document())
	require.NoError(t, err)
	require.NoError(t, doc.Validate(t.Context()))
	require.Equal(t, "3.1.0", doc.OpenAPI)
	return doc
}

func TestDocument_IsServedAndNeedNotBeSentAgain(t *testing.T) {
	_, url, _ := newFront(t)
	answer, text := do(t, http.MethodGet, url+"/openapi.json", "")
	require.Equal(t, 200, answer.StatusCode)
	require.JSONEq(t, string(openapi.Document()), text)
	tag := answer.Header.Get("ETag")
	require.NotEmpty(t, tag)
	answer, text = do(t, http.MethodGet, url+"/openapi.json", "", "If-None-Match", tag)
	require.Equal(t, 304, answer.StatusCode)
	require.Empty(t, text)
	answer, _ = do(t, http.MethodGet, url+"/openapi.json", "", "If-None-Match", `"another"`)
	require.Equal(t, 200, answer.StatusCode)
	answer, text = do(t, http.MethodHead, url+"/openapi.json", "")
	require.Equal(t, []string{"200", tag, ""}, []string{fmt.Sprint(answer.StatusCode), answer.Header.Get("ETag"), text})
	_, text = do(t, http.MethodGet, url+"/", "")
	require.Contains(t, text, "GET /openapi.json")
}

func TestDocument_IsForPages(t *testing.T) {
	f, _, _ := newFront(t)
	f.opts.AllowedOrigins = []string{"https://app.example.com"}
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		r := httptest.NewRequest(method, "/openapi.json", nil)
		r.Header.Set("Origin", "https://app.example.com")
		w := httptest.NewRecorder()
		f.endpoints()["/openapi.json"].ServeHTTP(w, r)
		require.Equal(t, "https://app.example.com", w.Header().Get("Access-Control-Allow-Origin"), method)
	}
}

func TestDocument_HasEachEndpointWithItsMethodsAndNoOther(t *testing.T) {
	f, _, _ := newFront(t)
	f.close() // so that no stream goes on
	var answered, written []string
	for pattern, handler := range f.endpoints() {
		path := strings.TrimSuffix(pattern, "{$}")
		for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch,
			http.MethodDelete, http.MethodOptions, http.MethodTrace} {
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, httptest.NewRequest(method, path, nil))
			if w.Code != http.StatusMethodNotAllowed {
				answered = append(answered, method+" "+path)
			}
		}
	}
	for path, item := range described(t).Paths.Map() {
		for method := range item.Operations() {
			written = append(written, method+" "+path)
		}
	}
	slices.Sort(answered)
	slices.Sort(written)
	require.Equal(t, answered, written)
}

// decoders are those of the paths whose bodies the service reads.
var decoders = map[string]func(body []byte) error{
	api.PathMessages: func(body []byte) error { _, err := api.Decode(body); return err },
	api.PathResume:   func(body []byte) error { _, err := api.DecodeCredential(body); return err },
	api.PathAnswer:   func(body []byte) error { _, err := api.DecodeAnswer(body); return err },
	api.PathDelete:   func(body []byte) error { _, err := api.DecodeDeletion(body); return err },
	api.PathMessagesAPI: func(body []byte) error {
		_, _, _, err := messages.Decode(body, http.Header{"X-Api-Key": {"sk-ant-api03-secret"}})
		return err
	},
	api.PathChat: func(body []byte) error {
		_, _, _, err := chat.Decode(body, http.Header{"X-Api-Key": {"sk-ant-api03-secret"}})
		return err
	},
	api.PathConversationFork: func(body []byte) error { _, err := api.DecodeFork(body); return err },
	api.PathCountTokens:      func(body []byte) error { _, err := api.Object(body); return err },
	api.PathSend: func(body []byte) error {
		const id = "0d3b2a4e-6f0a-4d57-9f6e-0f5f6b0d7c11"
		composed, err := api.ComposeSending(body, &api.Request{APIKey: "sk-ant-api03-secret"}, id)
		if err == nil {
			_, err = api.DecodeSending(composed)
		}
		return err
	},
}

// bodyOf is what the document has of an operation's request body.
func bodyOf(doc *openapi3.T, path string) *openapi3.MediaType {
	return doc.Paths.Value(path).Post.RequestBody.Value.Content.Get("application/json")
}

func TestDocument_ItsExamplesAreAccepted(t *testing.T) {
	doc := described(t)
	for path, item := range doc.Paths.Map() {
		if item.Post == nil {
			continue
		}
		examples := bodyOf(doc, path).Examples
		require.NotEmpty(t, examples, path)
		for name, example := range examples {
			body, err := json.Marshal(example.Value.Value)
			require.NoError(t, err)
			require.NoError(t, decoders[path](body), "%s: %s", path, name)
			requireSchema(t, bodyOf(doc, path).Schema, string(body), true)
		}
	}
}

func requireSchema(t *testing.T, schema *openapi3.SchemaRef, body string, accepts bool) {
	t.Helper()
	var value any
	require.NoError(t, json.Unmarshal([]byte(body), &value))
	err := schema.Value.VisitJSON(value, openapi3.EnableJSONSchema2020())
	if accepts {
		require.NoError(t, err, body[:min(len(body), 500)])
		return
	}
	require.Error(t, err, body[:min(len(body), 500)])
}

// What the document says of a field's values is what the service does.
func TestDocument_ItsBoundsAreThoseOfTheService(t *testing.T) {
	doc := described(t)
	for path, base := range map[string]string{
		api.PathMessages:    `{"api_key":"sk-ant-api03-secret","messages":[{"role":"user","content":"hi"}]%s}`,
		api.PathMessagesAPI: `{"model":"m","max_tokens":1,"messages":[{"role":"user","content":"hi"}]%s}`,
		api.PathChat:        `{"model":"m","messages":[{"role":"user","content":"hi"}]%s}`,
	} {
		for _, c := range bounds[path] {
			body := fmt.Sprintf(base, `,"`+c.field+`":`+c.value)
			err := decoders[path]([]byte(body))
			require.Equal(t, c.good, err == nil, "%s %s %.100s: %v", path, c.field, c.value, err)
			requireSchema(t, bodyOf(doc, path).Schema, lastWins(body), c.good)
		}
	}
}

// lastWins is the object with each name once.
func lastWins(body string) string {
	var fields map[string]json.RawMessage
	_ = json.Unmarshal([]byte(body), &fields)
	text, _ := json.Marshal(fields)
	return string(text)
}

type bound struct {
	field, value string
	good         bool
}

func quoted(text string, n int) string { return `"` + strings.Repeat(text, n) + `"` }

func listed(value string, n int) string { return "[" + strings.Repeat(value+",", n-1) + value + "]" }

// servers are n MCP servers by their names.
func servers(n int) string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf(`"s%d":{"type":"http","url":"http://a.example"}`, i))
	}
	return "{" + strings.Join(all, ",") + "}"
}

const (
	someID  = `"0d3b2a4e-6f0a-4d57-9f6e-0f5f6b0d7c11"`
	said    = `{"role":"user","content":"hi"}`
	ourTool = `{"type":"url","name":"a","url":"https://a.example"}`
)

var bounds = map[string][]bound{
	api.PathMessages: {
		{"model", quoted("m", 128), true}, {"model", quoted("m", 129), false}, {"model", `"-m"`, false},
		{"fallback_model", `"opus[1m]"`, true}, {"fallback_model", `"a b"`, false},
		{"session_id", someID, true}, {"session_id", `"mine"`, false},
		{"system", quoted("s", 256<<10), true}, {"system", quoted("s", 256<<10+1), false}, {"system", `7`, false},
		{"system", `[{"type":"text","text":"a"}]`, true}, {"system", `[{"type":"image"}]`, false},
		{"thinking", `false`, true}, {"thinking", `{"type":"adaptive"}`, true}, {"thinking", `{"type":"deep"}`, false},
		{"permission_mode", `"default"`, true}, {"permission_mode", `"acceptEdits"`, true},
		{"permission_mode", `"plan"`, true}, {"permission_mode", `"bypassPermissions"`, true},
		{"permission_mode", `"dontAsk"`, true}, {"permission_mode", `"yolo"`, false},
		{"on_disconnect", `"finish"`, true}, {"on_disconnect", `"interrupt"`, true}, {"on_disconnect", `"wait"`, false},
		{"background", `"none"`, true}, {"background", `"wait"`, true}, {"background", `"yes"`, false},
		{"stateless", `true`, true}, {"stateless", `"true"`, false},
		{"mcp_servers", servers(32), true}, {"mcp_servers", servers(33), false},
		{"mcp_servers", `{"a b":{"type":"http","url":"http://a.example"}}`, false},
		{"mcp_servers", `{"a":{"command":"npx"}}`, true}, {"mcp_servers", `{"a":{"type":"ws"}}`, false},
		{"mcp_servers", `{"a":{"type":"http","url":"file:///a"}}`, false},
		{"api_key", quoted("k", 4096), true}, {"api_key", quoted("k", 4097), false}, {"api_key", quoted("k", 7), false},
		{"api_key", `"with a space"`, false}, {"oauth_credentials", `{"access_token":"sk-ant-oat01-a"}`, false},
		{"messages", listed(said, 10_000), true}, {"messages", listed(said, 10_001), false}, {"messages", `[]`, false},
		{"messages", `[{"role":"system","content":"hi"}]`, false}, {"messages", `[{"role":"user","content":" "}]`, false},
		{"messages", `[{"role":"user","content":[{"type":"tool_use"}]}]`, false},
		{"unknown", `1`, true},
	},
	api.PathMessagesAPI: {
		{"max_tokens", `0`, false}, {"max_tokens", `1.5`, false}, {"stream", `"yes"`, false}, {"stream", `null`, true},
		{"thinking", `true`, false}, {"thinking", `{"type":"enabled","budget_tokens":1024}`, true},
		{"tools", `[]`, true}, {"tools", `[{"name":"a"}]`, false},
		{"mcp_servers", listed(ourTool, 1), true}, {"mcp_servers", `[{"type":"stdio","name":"a"}]`, false},
		{"mcp_servers", `{}`, false}, {"temperature", `1`, true},
		{"tool_choice", `{"type":"auto"}`, true}, {"tool_choice", `{"type":"any"}`, false},
		{"container", `"c"`, false}, {"thread", `"t"`, false},
		{"output_format", `{}`, false}, {"output_config", `{"format":{}}`, false},
		{"output_config", `{"effort":"low"}`, true},
	},
	api.PathChat: {
		{"n", `1`, true}, {"n", `2`, false}, {"tools", `[]`, true}, {"tools", `[{}]`, false},
		{"response_format", `{"type":"text"}`, true}, {"response_format", `{"type":"json_object"}`, false},
		{"modalities", `["text"]`, true}, {"modalities", `["audio"]`, false}, {"logprobs", `true`, false},
		{"stream_options", `{"include_usage":true}`, true}, {"stream_options", `{"include_usage":1}`, false},
		{"reasoning_effort", `"low"`, true}, {"reasoning_effort", `3`, false}, {"audio", `{}`, false},
		{"messages", `[{"role":"tool","content":"a"}]`, false}, {"seed", `1`, true},
	},
}

func TestRoot_IsAPageForWhoPrefersOne(t *testing.T) {
	_, url, _ := newFront(t)
	for accept, want := range map[string]string{
		"": "application/json", "*/*": "application/json", "application/json": "application/json",
		"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8": "text/html; charset=utf-8",
		"text/html;q=0.5,application/json":                                "application/json",
		"application/json;q=0.5,text/html":                                "text/html; charset=utf-8",
		"image/png":                                                       "application/json",
	} {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			answer, _ := do(t, method, url+"/", "", "Accept", accept)
			require.Equal(t, 200, answer.StatusCode)
			require.Equal(t, want, answer.Header.Get("Content-Type"), accept)
			require.Equal(t, "Accept", answer.Header.Get("Vary"))
			require.Equal(t, want != "application/json", answer.Header.Get("Content-Security-Policy") != "")
		}
	}
	answer, _ := do(t, http.MethodGet, url+"/talk/talk.js", "")
	require.Equal(t, "text/javascript; charset=utf-8", answer.Header.Get("Content-Type"))
	require.Contains(t, answer.Header.Get("Content-Security-Policy"), "default-src 'none'")
	answer, _ = do(t, http.MethodGet, url+"/talk/none.js", "")
	require.Equal(t, 404, answer.StatusCode)
}
