package messages

import (
	"net/http"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"claudepool/pool/api"
)

const (
	key   = "sk-ant-api03-abcdefgh"
	oauth = "sk-ant-oat01-abcdefgh"
	hello = `"max_tokens":9,"model":"haiku","messages":[{"role":"user","content":"hi"}]`
)

func headers(pairs ...string) http.Header {
	h := make(http.Header)
	for i := 0; i < len(pairs); i += 2 {
		h.Set(pairs[i], pairs[i+1])
	}
	return h
}

func TestDecode_IsARequestOfThePooledContract(t *testing.T) {
	req, pooled, asked, err := Decode([]byte(` {`+hello+`,"stream":true,"temperature":0.5,
		"stop_sequences":["x"],"top_p":null,
		"system":[{"type":"text","text":"a","cache_control":{"type":"ephemeral"}}],
		"thinking":{"type":"enabled","budget_tokens":2000},
		"metadata":{"user_id":"u"},"tools":[],
		"mcp_servers":[{"type":"url","name":"one","url":"https://h/mcp","authorization_token":"t"},
		{"type":"url","name":"two","url":"https://h/sse"},
		{"type":"url","name":"off","url":"https://h/","tool_configuration":{"enabled":false}}]}`),
		headers("Authorization", "Bearer "+oauth, HeaderSession, "AAAAAAAA-0000-4000-8000-000000000000", HeaderPermissionMode,
			"plan",
			HeaderOnDisconnect, "finish", HeaderTools, "hide"))
	require.NoError(t, err)
	require.Equal(t, oauth, req.OAuth.AccessToken)
	require.True(t, *req.Thinking)
	require.Equal(t, "a", *req.System)
	require.Equal(t, &Asked{Model: "haiku", Stream: true, HideTools: true, Ignored: Ignored{"max_tokens", "metadata",
		"stop_sequences", "temperature", "thinking.budget_tokens"}}, asked)

	again, err := api.Decode(pooled)
	require.NoError(t, err, string(pooled))
	for _, r := range []*api.Request{req, again} {
		require.Equal(t, "aaaaaaaa-0000-4000-8000-000000000000", r.SessionID)
		require.Equal(t, "plan", r.PermissionMode)
		require.Equal(t, api.Finish, r.OnDisconnect)
		require.Equal(t, map[string]api.MCPServer{"one": {Type: "http", URL: "https://h/mcp",
			Headers: map[string]string{"Authorization": "Bearer t"}},
			"two": {Type: "sse", URL: "https://h/sse"}}, r.MCPServers)
		require.Equal(t, `"hi"`, string(r.Messages[0].Content))
	}
	require.Equal(t, req.UserID(), again.UserID())
	require.Equal(t, req.Digest(), again.Digest())
}

func TestDecode_TheCredentialIsInTheHeaders(t *testing.T) {
	for name, c := range map[string]struct {
		header http.Header
		token  string
		status int
	}{
		"bearer key":    {headers("Authorization", "Bearer "+key), key, 0},
		"x-api-key":     {headers("X-Api-Key", key), key, 0},
		"both the same": {headers("X-Api-Key", key, "Authorization", "bearer "+key), key, 0},
		"oauth by key":  {headers("X-Api-Key", oauth), oauth, 0},
		"any key":       {headers("X-Api-Key", "my-own-key"), "my-own-key", 0},
		"two":           {headers("X-Api-Key", key, "Authorization", "Bearer "+oauth), "", 400},
		"none":          {headers(), "", 401},
		"basic":         {headers("Authorization", "Basic "+key), "", 401},
		"too short":     {headers("X-Api-Key", "k"), "", 400},
	} {
		req, _, _, err := Decode([]byte("{"+hello+"}"), c.header)
		if c.status == 0 {
			require.NoError(t, err, name)
			require.Equal(t, c.token, req.Token(), name)
			require.Equal(t, strings.HasPrefix(c.token, "sk-ant-oat"), req.OAuth != nil, name)
			continue
		}
		require.Equal(t, c.status, api.Known(err).Status, name)
		require.NotContains(t, err.Error(), key)
	}
}

func TestDecode_NamesWhatItCannotDo(t *testing.T) {
	for name, field := range map[string]string{
		"tools": `"tools":[{"name":"t","input_schema":{}}]`, "tool_choice": `"tool_choice":{"type":"any"}`,
		"container":            `"container":"c"`,
		"output_format":        `"output_format":{"type":"json_schema"}`,
		"output_config.format": `"output_config":{"format":{"type":"json_schema"}}`,
		"thread":               `"thread":{"type":"create"}`,
		"allowed_tools": `"mcp_servers":[{"type":"url","name":"a","url":"https://h/",` +
			`"tool_configuration":{"allowed_tools":["x"]}}]`,
		"the same name": `"mcp_servers":[{"type":"url","name":"a","url":"https://h/"},{"type":"url","name":"a",` +
			`"url":"https://h/"}]`,
		"mcp_servers":         `"mcp_servers":{"a":{"url":"https://h/"}}`,
		"an http or sse":      `"mcp_servers":[{"type":"url","name":"a","url":"ftp://h/"}]`,
		"stream":              `"stream":"yes"`,
		"thinking":            `"thinking":true`,
		"max_tokens":          `"max_tokens":0`,
		"not valid JSON":      `"a":{]`,
		"must not be longer ": `"system":"` + strings.Repeat("x", 3<<20) + `"`,
	} {
		_, _, _, err := Decode([]byte("{"+hello+","+field+"}"), headers("X-Api-Key", key))
		known := api.Known(err)
		require.Error(t, err, name)
		require.Equal(t, 400, known.Status, name)
		require.Contains(t, known.Message, name)
		require.Equal(t, name == "thread", known.Code == "thread_unsupported_request", name)
	}
	for name, body := range map[string]string{
		"max_tokens": `{"model":"haiku","messages":[{"role":"user","content":"hi"}]}`,
		"model":      `{"max_tokens":1,"messages":[{"role":"user","content":"hi"}]}`,
		"messages":   `{"max_tokens":1,"model":"haiku"}`,
		"from the user": `{"max_tokens":1,"model":"haiku","messages":[{"role":"user","content":"hi"},{"role":"assistant",` +
			`"content":"{"}]}`,
	} {
		_, _, _, err := Decode([]byte(body), headers("X-Api-Key", key))
		require.Equal(t, 400, api.Known(err).Status, name)
		require.Contains(t, err.Error(), name)
	}
	_, _, _, err := Decode([]byte("{"+hello+"}"), headers("X-Api-Key", key, HeaderTools, "some"))
	require.Equal(t, 400, api.Known(err).Status)
}

// By the digest of what is passed on an instance knows a request with an idempotency key again.
func TestDecode_TheSameRequestIsPassedOnInTheSameBytes(t *testing.T) {
	decode := func() string {
		_, pooled, _, err := Decode([]byte("{"+hello+`,"system":"s","thinking":{"type":"enabled"}}`),
			headers("X-Api-Key", key, HeaderSession, "aaaaaaaa-0000-4000-8000-000000000000", HeaderPermissionMode, "plan",
				HeaderOnDisconnect, "finish"))
		require.NoError(t, err)
		return string(pooled)
	}
	first := decode()
	for range 100 {
		require.Equal(t, first, decode())
	}
	require.Equal(t, `{"api_key":"`+key+`","mcp_servers":{},"model":"haiku","on_disconnect":"finish",`+
		`"permission_mode":"plan","session_id":"aaaaaaaa-0000-4000-8000-000000000000","stateless":true,"system":"s",`+
		`"thinking":{"type":"enabled"},"messages":[{"role":"user","content":"hi"}]}`, first, "as releases before have it")
}

func TestDecode_WhatIsNotSentDoesNotHold(t *testing.T) {
	for _, more := range []string{"", `,"system":null,"mcp_servers":null`, `,"mcp_servers":[]`} {
		req, _, _, err := Decode([]byte("{"+hello+more+"}"), headers("X-Api-Key", key))
		require.NoError(t, err)
		require.NotNil(t, req.System)
		require.Empty(t, *req.System)
		require.NotNil(t, req.MCPServers)
		require.Empty(t, req.MCPServers)
		require.True(t, req.Stateless)
	}
}

func TestDecode_AllToolsOfServersMayBeAskedFor(t *testing.T) {
	const servers = `,"mcp_servers":[{"type":"url","name":"a","url":"https://h/"}]`
	for tools, isFine := range map[string]bool{
		`[{"type":"mcp_toolset","mcp_server_name":"a","configs":null}]`:                     true,
		`[{"type":"mcp_toolset","mcp_server_name":"b"}]`:                                    false,
		`[{"type":"mcp_toolset","mcp_server_name":"a"},{"name":"t","input_schema":{}}]`:     false,
		`[{"type":"mcp_toolset","mcp_server_name":"a","default_config":{"enabled":false}}]`: false,
		`[{"name":"t","input_schema":{}},{"type":"mcp_toolset","mcp_server_name":"a"}]`:     false,
		`{"type":"mcp_toolset","mcp_server_name":"a"}`:                                      false,
	} {
		req, _, _, err := Decode([]byte("{"+hello+servers+`,"tools":`+tools+"}"), headers("X-Api-Key", key))
		require.Equal(t, isFine, err == nil, tools)
		if isFine {
			require.Contains(t, req.MCPServers, "a")
		}
	}
}

func TestDecode_NamesOfStrangersAreFewAndPlain(t *testing.T) {
	var many strings.Builder
	for i := range 100 {
		many.WriteString(`"p` + strings.Repeat("x", i) + `":1,`)
	}
	_, _, asked, err := Decode([]byte("{"+many.String()+`"a\r\nb: c":1,`+hello+"}"), headers("X-Api-Key", key))
	require.NoError(t, err)
	require.LessOrEqual(t, len(asked.Ignored), maxIgnored+1)
	require.NotContains(t, strings.Join(asked.Ignored, ","), "\n")
	require.Contains(t, asked.Ignored, "*")
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte("{"+hello+"}"), "hide")
	f.Fuzz(func(t *testing.T, body []byte, tools string) {
		_, pooled, _, err := Decode(body, headers("X-Api-Key", key, HeaderTools, tools))
		if err != nil {
			require.Less(t, api.Known(err).Status, 500)
			return
		}
		_, err = api.Decode(pooled)
		require.NoError(t, err)
	})
}

func TestDecode_NothingIsMadeOfWhatIsTooLongBesideTheMessages(t *testing.T) {
	body := []byte(`{` + hello + `,"system":"` + strings.Repeat("<", 8<<20) + `"}`)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, _, _, err := Decode(body, headers("X-Api-Key", key))
	runtime.ReadMemStats(&after)
	require.Equal(t, 400, api.Known(err).Status)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(len(body)/8))
}
