package api

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"
)

const aTalk = "7d9c1f0e-52a1-4f0c-9d3e-3c1a2b4d5e6f"

func sending(t *testing.T, payload string) (*Sending, error) {
	t.Helper()
	composed, err := ComposeSending([]byte(`{"events":[{"payload":`+payload+`}]}`),
		&Request{APIKey: "sk-ant-api03-secret"}, aTalk)
	if err != nil {
		return nil, err
	}
	return DecodeSending(composed)
}

func TestSending_IsAsTheSDKSendsIt(t *testing.T) {
	s, err := sending(t, `{"type":"user","session_id":"","parent_tool_use_id":null,"priority":"next",
		"message":{"role":"user","content":[{"type":"text","text":"a\nb"}]},"uuid":"8D9C1F0E-52a1-4f0c-9d3e-3c1a2b4d5e6f"}`)
	require.NoError(t, err)
	p := s.Payloads[0]
	require.Equal(t, []string{"8d9c1f0e-52a1-4f0c-9d3e-3c1a2b4d5e6f", "next", aTalk, aTalk},
		[]string{p.UUID, p.Priority, p.Turn.SessionID, s.Request.SessionID})
	require.NotContains(t, string(p.Raw), "\n", "it stands in a line of a stream")
	require.Equal(t, aTalk, gjson.GetBytes(p.Raw, "session_id").Str)
	require.Equal(t, s.Request.UserID(), p.Turn.UserID())

	s, err = sending(t, `{"type":"control_response","response":{"subtype":"error","request_id":"r.1","error":"no"}}`)
	require.NoError(t, err)
	p = s.Payloads[0]
	require.Equal(t, []string{"r.1", "error", "no"}, []string{p.RequestID, p.Subtype, p.Error})
	require.Regexp(t, uuidForm, p.UUID, "what has none gets one")
}

func TestSending_HasNothingThatIsntKnown(t *testing.T) {
	const message = `"type":"user","message":{"role":"user","content":"x"}`
	for _, payload := range []string{`{}`, `[]`, `"x"`, `{"type":"keep_alive"}`, `{"type":"assistant"}`,
		`{` + message + `,"isSynthetic":true}`, `{` + message + `,"shouldQuery":false}`, `{` + message + `,"origin":{}}`,
		`{` + message + `,"parent_tool_use_id":"toolu_1"}`, `{` + message + `,"priority":"first"}`,
		`{` + message + `,"uuid":"1"}`,
		`{` + message + `,"type":"user"}`, `{"type":"user","message":{"role":"user","content":"x","id":"m"}}`,
		`{"type":"user","message":{"role":"user","content":[{"type":"tool_use"}]}}`, `{"type":"user","message":"x"}`,
		`{"type":"control_request","request_id":"r"}`, `{"type":"control_request","request":{}}`,
		`{"type":"control_request","request_id":"a\nb","request":{}}`,
		`{"type":"control_response","response":{"subtype":"success","request_id":"r","pending_permission_requests":[]}}`,
		`{"type":"control_response","response":{"subtype":"other","request_id":"r"}}`,
		`{"type":"control_cancel_request","request_id":"r","more":1}`,
	} {
		_, err := sending(t, payload)
		var refused *Error
		require.ErrorAs(t, err, &refused, payload)
		require.Equal(t, 400, refused.Status, payload)
	}
	for _, body := range []string{`{"events":[]}`, `{"events":{}}`, `{"events":[{"payload":{}}],"credential":1}`,
		`{"events":[` + strings.Repeat(`{"payload":{`+message+`}},`, maxSent) + `{"payload":{` + message + `}}]}`,
		`{"session_id":"x","events":[]}`, `{"session_id":7,"events":[]}`, `[]`} {
		composed, err := ComposeSending([]byte(body), &Request{APIKey: "sk-ant-api03-secret"}, aTalk)
		if err == nil {
			_, err = DecodeSending(composed)
		}
		require.Error(t, err, body)
	}
}

func TestInitialize_TakesWhatIsListedAndNothingElse(t *testing.T) {
	init, err := DecodeInitialize(json.RawMessage(`{"subtype":"initialize","hooks":{"PreToolUse":[{"matcher":"Bash",
		"hookCallbackIds":["hook_0"],"timeout":5}],"Stop":[{"hookCallbackIds":["hook_1"]}]},"sdkMcpServers":["mine"],
		"jsonSchema":{"type":"object"},"appendSystemPrompt":"be brief","promptSuggestions":false,"supportedDialogKinds":[],
		"agents":{"poet":{"description":"d","prompt":"p","tools":["Read"],"model":"haiku"}}}`))
	require.NoError(t, err)
	require.Equal(t, "be brief", *init.System)
	keys := func(text json.RawMessage) (names []string) {
		gjson.ParseBytes(text).ForEach(func(key, _ gjson.Result) bool { names = append(names, key.Str); return true })
		return names
	}
	require.Equal(t, []string{"hooks", "sdkMcpServers"}, keys(init.Live))
	require.Equal(t, []string{"agents", "jsonSchema"}, keys(init.First))
	init, err = DecodeInitialize(json.RawMessage(`{"subtype":"initialize"}`))
	require.NoError(t, err)
	require.Equal(t, &Initialize{}, init)

	agent := func(more string) string { return `"agents":{"a":{"description":"d","prompt":"p",` + more + `}}` }
	hook := func(text string) string { return `"hooks":{"PreToolUse":[` + text + `]}` }
	for _, field := range []string{`"systemPrompt":"x"`, `"settings":{}`, `"plugins":[]`, `"mcpServers":{}`,
		`"managedSettings":{}`, `"disallowedTools":[]`, `"workspaceTrust":true`, `"skills":[]`, `"toolAliases":{}`,
		`"sdkMcpServerConfigs":{}`, `"promptSuggestions":true`, `"supportedDialogKinds":["x"]`, `"title":"x"`,
		agent(`"permissionMode":"bypassPermissions"`), agent(`"mcpServers":[]`), agent(`"memory":"user"`),
		agent(`"hooks":{}`), agent(`"skills":[]`), agent(`"model":"--x"`), agent(`"tools":[1]`), `"agents":{"a":{}}`,
		`"agents":{"a b":{"description":"d","prompt":"p"}}`, `"agents":[]`, hook(`{"hookCallbackIds":["a"],"command":"id"}`),
		hook(`{"command":"id","type":"command"}`), hook(`{"hookCallbackIds":[1]}`), hook(`{"hookCallbackIds":"a"}`),
		hook(`{"hookCallbackIds":["a"],"timeout":-1}`), hook(`{"hookCallbackIds":["a"],"matcher":1}`), `"hooks":[]`,
		`"hooks":{"PreToolUse":{}}`, `"hooks":{"SessionStart":[]}`, `"hooks":{"PermissionRequest":[]}`,
		`"sdkMcpServers":{"a":{"command":"id"}}`, `"sdkMcpServers":[{"command":"id"}]`, `"sdkMcpServers":["a b"]`,
		`"sdkMcpServers":["client"]`,
		`"jsonSchema":"x"`, `"appendSystemPrompt":7`, `"appendSystemPrompt":"a\u0000"`, `"hooks":{},"hooks":{}`,
		hook(strings.TrimSuffix(strings.Repeat(`{"hookCallbackIds":["a"]},`, maxHooks+1), ",")),
		fmt.Sprintf(`"jsonSchema":{"x":%q}`, strings.Repeat("x", maxInitialize)),
	} {
		_, err := DecodeInitialize(json.RawMessage(`{"subtype":"initialize",` + field + `}`))
		var refused *Error
		require.ErrorAs(t, err, &refused, field)
		require.Equal(t, 400, refused.Status)
	}
}

// What can't be seen to be no token isn't repeated.
func TestInitialize_ItsErrorsRepeatNothingSecret(t *testing.T) {
	for _, field := range []string{`"sk-ant-api03-secret":1`, `"agents":{"sk-ant-api03-secret":{}}`,
		`"hooks":{"sk-ant-api03-secret":[]}`} {
		_, err := DecodeInitialize(json.RawMessage(`{` + field + `}`))
		require.Error(t, err)
		require.NotContains(t, err.Error(), "secret")
	}
}

func TestAnswersAll_HooksSayNoMoreThanTheirKind(t *testing.T) {
	asked := func(subtype string) gjson.Result { return gjson.Parse(`{"subtype":"` + subtype + `"}`) }
	may := Permissions{MayMode: func(string) bool { return false }, MayApprove: true}
	for answer, isGood := range map[string]bool{`{}`: true, `{"continue":true,"decision":"block","reason":"x"}`: true,
		`{"hookSpecificOutput":{"hookEventName":"PreToolUse","permissionDecision":"deny"}}`: true,
		`{"hookSpecificOutput":{"hookEventName":"PreToolUse","updatedPermissions":[]}}`:     false,
		`{"hookSpecificOutput":{"decision":{"behavior":"allow"}}}`:                          false,
		`{"async":true}`: false, `[]`: false, `7`: false} {
		_, err := AnswersAll(asked("hook_callback"), gjson.Parse(answer), may)
		require.Equal(t, isGood, err == nil, answer)
	}
	_, err := AnswersAll(asked("mcp_message"), gjson.Parse(`{"mcp_response":{}}`), may)
	require.NoError(t, err)
	_, err = AnswersAll(asked("mcp_message"), gjson.Parse(`{"mcp_response":{},"more":1}`), may)
	require.Error(t, err)
	_, err = AnswersAll(asked("request_user_dialog"), gjson.Parse(`{}`), may)
	require.Error(t, err, "what isn't known can only be refused")
}

// A hook's word counts as an approval does.
func TestAnswersAll_HooksOnlyRefuseWhereNothingIsApproved(t *testing.T) {
	asked := gjson.Parse(`{"subtype":"hook_callback"}`)
	specific := func(more string) string { return `{"hookSpecificOutput":{"hookEventName":"PreToolUse",` + more + `}}` }
	for answer, refuses := range map[string]bool{
		`{}`: true, `{"decision":"block"}`: true, specific(`"permissionDecision":"deny"`): true,
		specific(`"permissionDecision":"ask"`): true, specific(`"additionalContext":"x"`): true,
		`{"decision":"approve"}`: false, specific(`"permissionDecision":"allow"`): false,
		specific(`"permissionDecision":["allow"]`): false, specific(`"permissionDecision":"defer"`): false,
		specific(`"updatedInput":{}`): false, specific(`"permissionDecision":"deny","updatedInput":{}`): false,
	} {
		_, err := AnswersAll(asked, gjson.Parse(answer), Permissions{})
		require.Equal(t, refuses, err == nil, answer)
		_, err = AnswersAll(asked, gjson.Parse(answer), Permissions{MayApprove: true})
		require.NoError(t, err, answer)
	}
}
