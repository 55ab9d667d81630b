package chat

import (
	"net/http"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"claudepool/function/messages"
	"claudepool/pool/api"
)

const hi = `"model":"haiku","messages":[{"role":"user","content":"hi"}]`

func headers(more ...string) http.Header {
	h := http.Header{"Authorization": {"Bearer sk-ant-api03-secret"}}
	for i := 0; i < len(more); i += 2 {
		h.Set(more[i], more[i+1])
	}
	return h
}

// imageAt is a message of an image there.
func imageAt(url string) string {
	return `{"role":"user","content":[{"type":"image_url","image_url":{"url":"` + url + `"}}]}`
}

// pooled is what a request with such messages becomes.
func pooled(list string) string {
	return `{"api_key":"sk-ant-api03-secret","model":"haiku","stateless":true,"system":"","mcp_servers":{},"messages":` +
		list + `}`
}

func TestDecode_Conversations(t *testing.T) {
	const user = `{"role":"user","content":[{"type":"text","text":"hi"}]}`
	for name, c := range map[string]struct{ sent, want string }{
		"a text": {`[{"role":"user","content":"hi"}]`, pooled(`[` + user + `]`)},
		"escapes": {`[{"role":"user","content":"\u00e9\n\"<"}]`,
			pooled(`[{"role":"user","content":[{"type":"text","text":"é\n\"<"}]}]`)},
		"parts": {`[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}]`,
			pooled(`[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}]`)},
		"an answer of its own shape": {`[{"role":"user","content":"hi"},
			{"role":"assistant","content":"ho","refusal":null,"tool_calls":[]},{"role":"user","content":"hi"}]`,
			pooled(`[` + user + `,{"role":"assistant","content":[{"type":"text","text":"ho"}]},` + user + `]`)},
		"answers without a word": {`[{"role":"user","content":"hi"},{"role":"assistant","content":null},
			{"role":"assistant","content":""},{"role":"assistant"},{"role":"user","content":"hi"}]`,
			pooled(`[` + user + `,{"role":"assistant","content":[]},
			{"role":"assistant","content":[{"type":"text","text":""}]},{"role":"assistant","content":[]},` + user + `]`)},
		"the system's": {`[{"role":"system","content":"one"},{"role":"user","content":"hi"},
			{"role":"developer","content":[{"type":"text","text":"two"}]}]`,
			`{"api_key":"sk-ant-api03-secret","model":"haiku","stateless":true,"mcp_servers":{},
			"system":[{"type":"text","text":"one"},{"type":"text","text":"two"}],"messages":[` + user + `]}`},
		"an image in it": {`[` + imageAt("data:image/png;base64,aGk+/w==") + `]`,
			pooled(`[{"role":"user","content":[{"type":"image",
			"source":{"type":"base64","media_type":"image/png","data":"aGk+/w=="}}]}]`)},
		"an image elsewhere": {`[{"role":"user","content":[{"type":"image_url",
			"image_url":{"url":"https://example.com/a?b=\"c\"","detail":"auto"}}]}]`,
			pooled(`[{"role":"user","content":[{"type":"image",
			"source":{"type":"url","url":"https://example.com/a?b=\"c\""}}]}]`)},
	} {
		_, got, asked, err := Decode([]byte(`{"model":"haiku","messages":`+c.sent+`}`), headers())
		require.NoError(t, err, name)
		require.JSONEq(t, c.want, string(got), name)
		require.Equal(t, &Asked{Asked: messages.Asked{Model: "haiku", HideTools: true, Paragraphs: true}}, asked, name)
	}
}

func TestDecode_WhatHasNoEffectIsNamed(t *testing.T) {
	_, _, asked, err := Decode([]byte(`{"model":"haiku","stream":true,"temperature":0,"max_completion_tokens":5,
		"stream_options":{"include_usage":true,"include_obfuscation":false},"user":"u","reasoning_effort":"high","seed":null,
		"messages":[{"role":"user","name":"n","content":[{"type":"text","text":"a"},
		{"type":"image_url","image_url":{"url":"https://a","detail":"low"}}]}]}`), headers())
	require.NoError(t, err)
	require.True(t, asked.Stream)
	require.True(t, asked.Usage)
	require.Equal(t, messages.Ignored{"image_url.detail", "max_completion_tokens", "messages.name", "reasoning_effort",
		"stream_options.include_obfuscation", "temperature", "user"}, asked.Ignored)
}

func TestDecode_WhatAsksForNothingIsTaken(t *testing.T) {
	_, _, asked, err := Decode([]byte(`{`+hi+`,"tools":[],"functions":[ ],"n":1,"logprobs":false,"top_logprobs":0,
		"modalities":[ "text" ],"response_format":{ "type": "text" },"audio":null,"tool_choice":null}`), headers())
	require.NoError(t, err)
	require.Empty(t, asked.Ignored)
}

func TestDecode_EffortIsThinkingOrNot(t *testing.T) {
	for effort, want := range map[string]bool{"none": false, "minimal": true, "low": true, "max": true} {
		req, _, _, err := Decode([]byte(`{`+hi+`,"reasoning_effort":"`+effort+`"}`), headers())
		require.NoError(t, err)
		require.Equal(t, want, *req.Thinking, effort)
	}
	req, _, _, err := Decode([]byte(`{`+hi+`}`), headers())
	require.NoError(t, err)
	require.Nil(t, req.Thinking)
}

func TestDecode_CredentialsAndOptionsTravelInHeaders(t *testing.T) {
	req, _, _, err := Decode([]byte(`{`+hi+`}`), headers("Authorization", "Bearer sk-ant-oat01-secret",
		messages.HeaderSession, "6f1ed002-ab5d-4c7c-9f0a-3f4a6c2d1e0b", messages.HeaderTools, "hide"))
	require.NoError(t, err)
	require.Equal(t, "sk-ant-oat01-secret", req.OAuth.AccessToken)
	require.Equal(t, "6f1ed002-ab5d-4c7c-9f0a-3f4a6c2d1e0b", req.SessionID)
	_, _, _, err = Decode([]byte(`{`+hi+`}`), http.Header{})
	require.Equal(t, 401, api.Known(err).Status)
	_, _, _, err = Decode([]byte(`{`+hi+`}`), headers(messages.HeaderTools, "show"))
	require.Equal(t, 400, api.Known(err).Status)
}

func TestDecode_WhatCannotBeHonouredIsRefusedByName(t *testing.T) {
	for body, says := range map[string]string{
		``:   "empty",
		`[]`: "object",
		`{"messages":[{"role":"user","content":"hi"}]}`:         "model",
		`{"model":"haiku"}`:                                     "messages",
		`{"model":"haiku","messages":{}}`:                       "messages",
		`{` + hi + `,"tools":[{}]}`:                             "tools",
		`{` + hi + `,"functions":[{}]}`:                         "functions",
		`{` + hi + `,"tool_choice":"auto"}`:                     "tool_choice",
		`{` + hi + `,"function_call":"none"}`:                   "function_call",
		`{` + hi + `,"n":2}`:                                    "n:",
		`{` + hi + `,"logprobs":true}`:                          "logprobs",
		`{` + hi + `,"top_logprobs":3}`:                         "top_logprobs",
		`{` + hi + `,"audio":{}}`:                               "audio",
		`{` + hi + `,"modalities":["audio"]}`:                   "modalities",
		`{` + hi + `,"response_format":{"type":"json_object"}}`: "response_format",
		`{` + hi + `,"stream":1}`:                               "stream",
		`{` + hi + `,"stream_options":1}`:                       "stream_options",
		`{` + hi + `,"stream_options":{"include_usage":1}}`:     "include_usage",
		`{` + hi + `,"reasoning_effort":1}`:                     "reasoning_effort",
	} {
		_, _, _, err := Decode([]byte(body), headers())
		require.Equal(t, 400, api.Known(err).Status, body)
		require.Contains(t, err.Error(), says, body)
	}
}

func TestDecode_AMessageThatCannotBeIsNamed(t *testing.T) {
	for message, says := range map[string]string{
		`1`:               "messages.2: must",
		`{"content":"a"}`: "messages.2.role",
		`{"role":"tool","content":"a","tool_call_id":"x"}`:      "tool_call_id",
		`{"role":"function","content":"a"}`:                     "messages.2.role",
		`{"role":"user"}`:                                       "messages.2.content",
		`{"role":"user","content":1}`:                           "messages.2.content",
		`{"role":"user","content":" "}`:                         "messages.2.content",
		`{"role":"user","content":[]}`:                          "messages.2.content",
		`{"role":"system","content":[]}`:                        "messages.2.content",
		`{"role":"system"}`:                                     "messages.2.content",
		`{"role":"user","content":[1]}`:                         "content.0",
		`{"role":"user","content":[{"type":"text","text":""}]}`: "content.0.text",
		`{"role":"user","content":[{"type":"text"}]}`:           "content.0.text",
		`{"role":"user","content":[{"type":"input_audio"}]}`:    "content.0.type",
		`{"role":"user","content":[{"type":"file"}]}`:           "content.0.type",
		`{"role":"assistant","content":[{"type":"refusal"}]}`:   "content.0.type",
		`{"role":"assistant","content":"a","tool_calls":[{}]}`:  "tool_calls",
		`{"role":"assistant","content":"a","audio":{}}`:         "messages.2.audio",
		`{"role":"user","content":[{"type":"image_url"}]}`:      "image_url.url",
		imageAt(`http://a`):                                     "image_url.url",
		imageAt(`data:image/png,aGk=`):                          "base64",
		imageAt(`data:image/svg+xml;base64,aGk=`):               "image/jpeg",
		imageAt(`data:image/png;base64,a\"}]`):                  "base64",
		imageAt(`data:image/png;base64,`):                       "base64",
		`{"role":"assistant","content":"a"}`:                    "last must be from the user",
	} {
		body := `{"model":"haiku","messages":[{"role":"system","content":"s"},{"role":"user","content":"hi"},` +
			message + `]}`
		_, _, _, err := Decode([]byte(body), headers())
		require.Equal(t, 400, api.Known(err).Status, message)
		require.Contains(t, err.Error(), says, message)
	}
}

func TestDecode_NamesOfStrangersAreFewAndPlain(t *testing.T) {
	var many strings.Builder
	for i := range 100 {
		many.WriteString(`"p` + strings.Repeat("x", i) + `":1,`)
	}
	_, _, asked, err := Decode([]byte(`{`+many.String()+`"a\r\nb: c":1,`+hi+`}`), headers())
	require.NoError(t, err)
	require.LessOrEqual(t, len(asked.Ignored), 33)
	require.NotContains(t, strings.Join(asked.Ignored, ","), "\n")
	require.Equal(t, "*", asked.Ignored[0])
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{` + hi + `}`))
	f.Add([]byte(`{"model":"haiku","messages":[{"role":"system","content":"s"},` +
		imageAt("data:image/png;base64,aGk=") + `]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		_, pooled, _, err := Decode(body, headers())
		if err != nil {
			require.Less(t, api.Known(err).Status, 500)
			return
		}
		_, err = api.Decode(pooled)
		require.NoError(t, err)
	})
}

func TestDecode_ARequestGrowsByLittleAndWhatIsBesideTheMessagesIsNotCopied(t *testing.T) {
	link := "https://example.com/?" + strings.Repeat("&", 1<<20)
	body := []byte(`{"model":"haiku","messages":[` + imageAt(link) + `]}`)
	_, pooled, _, err := Decode(body, headers())
	require.NoError(t, err)
	require.Less(t, len(pooled), len(body)+usualGrowth)

	body = []byte(`{` + hi[:len(hi)-1] + `,{"role":"system","content":"` + strings.Repeat("<", 8<<20) + `"}]}`)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, _, _, err = Decode(body, headers())
	runtime.ReadMemStats(&after)
	require.Equal(t, 400, api.Known(err).Status)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(5*len(body)))
}
