package api

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"
)

const session = "0d3b2a4e-6f0a-4d57-9f6e-0f5f6b0d7c11"

func TestDecodeAnswer_TellsWhatIsWrong(t *testing.T) {
	good := `{"api_key":"sk-ant-api03-secret","session_id":"` + session +
		`","request_id":"r1","response":{"behavior":"allow"}}`
	a, err := DecodeAnswer([]byte(good))
	require.NoError(t, err)
	require.Equal(t, "r1", a.ID)
	require.Equal(t, session, a.SessionID)
	require.Equal(t, "allow", a.Response.Get("behavior").Str)
	for change, says := range map[string][2]string{
		"no session":          {`"session_id":"` + session + `",`, "session_id"},
		"no request id":       {`"request_id":"r1",`, "request_id"},
		"no response":         {`,"response":{"behavior":"allow"}`, "response"},
		"no credential":       {`"api_key":"sk-ant-api03-secret",`, "required"},
		"not a JSON document": {`}}`, "JSON"},
	} {
		_, err := DecodeAnswer([]byte(strings.Replace(good, says[0], "", 1)))
		require.ErrorContains(t, err, says[1], change)
	}
	for _, of := range []string{`"r1"`, `{"behavior":"allow"}`} {
		for _, other := range []string{"null", "7", "[]", `""`} {
			_, err := DecodeAnswer([]byte(strings.Replace(good, of, other, 1)))
			require.Equal(t, 400, Known(err).Status, "%s for %s", other, of)
		}
	}
	_, err = DecodeAnswer([]byte(strings.Replace(good, `"r1"`, `"`+strings.Repeat("r", 257)+`"`, 1)))
	require.ErrorContains(t, err, "request_id")
	_, err = DecodeAnswer([]byte(strings.Replace(good, `"allow"`, `"`+strings.Repeat("r", maxAnswer)+`"`, 1)))
	require.Equal(t, 413, Known(err).Status)
}

// What may be answered is a list of fields, in every place.
func TestAnswers_TakeWhatIsListedAndNothingElse(t *testing.T) {
	update := func(more string) string {
		return `{"behavior":"allow","updatedPermissions":[{` + more + `}]}`
	}
	const rules = `"type":"addRules","behavior":"allow","rules":[{"toolName":"Bash"}]`
	tool := gjson.Parse(`{"subtype":"can_use_tool","tool_use_id":"toolu_1"}`)
	elicitation := gjson.Parse(`{"subtype":"elicitation"}`)
	for _, c := range []struct {
		asked gjson.Result
		given string
		fault string // empty: it is taken
		sets  bool
	}{
		{asked: tool, given: `{"behavior":"allow"}`},
		{asked: tool, given: `{"behavior":"allow","updatedInput":{"any":{"thing":[1]}},"toolUseID":"toolu_1"}`},
		{asked: tool, given: `{"behavior":"deny","message":"no","interrupt":true,"toolUseID":"toolu_1"}`},
		{asked: tool, given: update(rules + `,"destination":"session"`)},
		{asked: tool, given: update(`"type":"removeRules","behavior":"ask","destination":"session","rules":[]`)},
		{asked: tool, given: update(`"type":"setMode","mode":"acceptEdits","destination":"session"`), sets: true},
		{asked: elicitation, given: `{"action":"accept","content":{"name":"x"}}`},
		{asked: elicitation, given: `{"action":"cancel"}`},

		{asked: tool, given: `{}`, fault: "behavior"},
		{asked: tool, given: `{"behavior":"ask"}`, fault: "behavior"},
		{asked: tool, given: `{"behavior":"allow","behavior":"deny"}`, fault: "twice"},
		{asked: tool, given: `{"behavior":"allow","message":"x"}`, fault: "message"},
		{asked: tool, given: `{"behavior":"allow","interrupt":true}`, fault: "interrupt"},
		{asked: tool, given: `{"behavior":"allow","env":{}}`, fault: "env"},
		{asked: tool, given: `{"behavior":"allow","sk-ant-oat01-secret":1}`, fault: "has a field"},
		{asked: tool, given: `{"behavior":"allow","updatedInput":"rm"}`, fault: "updatedInput"},
		{asked: tool, given: `{"behavior":"allow","updatedInput":null}`, fault: "updatedInput"},
		{asked: tool, given: `{"behavior":"allow","toolUseID":"toolu_2"}`, fault: "toolUseID"},
		{asked: tool, given: `{"behavior":"deny"}`, fault: "message"},
		{asked: tool, given: `{"behavior":"deny","message":" "}`, fault: "message"},
		{asked: tool, given: `{"behavior":"deny","message":7}`, fault: "message"},
		{asked: tool, given: `{"behavior":"deny","message":"x","interrupt":"yes"}`, fault: "interrupt"},
		{asked: tool, given: `{"behavior":"deny","message":"x","updatedInput":{}}`, fault: "updatedInput"},
		{asked: tool, given: `{"action":"accept"}`, fault: "behavior"},
		{asked: tool, given: `{"behavior":"allow","updatedPermissions":{}}`, fault: "updatedPermissions"},
		{asked: tool, given: `{"behavior":"allow","updatedPermissions":["x"]}`, fault: "type"},
		{asked: tool, given: update(rules), fault: "destination"},
		{asked: tool, given: update(rules + `,"destination":"userSettings"`), fault: "destination"},
		{asked: tool, given: update(rules + `,"destination":"localSettings"`), fault: "destination"},
		{asked: tool, given: update(rules + `,"destination":"session","directories":["/"]`), fault: "directories"},
		{asked: tool, given: update(`"type":"addDirectories","directories":["/"],"destination":"session"`), fault: "type"},
		{asked: tool, given: update(`"type":"setMode","mode":"bypassPermissions","destination":"session"`), fault: "mode"},
		{asked: tool, given: update(`"type":"setMode","mode":"auto","destination":"session"`), fault: "mode"},
		{asked: tool, given: update(`"type":"setMode","destination":"session"`), fault: "mode"},
		{asked: tool, given: update(`"type":"addRules","behavior":"maybe","rules":[],"destination":"session"`),
			fault: "behavior"},
		{asked: tool, given: update(
			`"type":"addRules","behavior":"allow","rules":[{"ruleContent":"x"}],"destination":"session"`), fault: "toolName"},
		{asked: tool, given: update(
			`"type":"addRules","behavior":"allow","rules":[{"toolName":"x","also":1}],"destination":"session"`), fault: "also"},
		{asked: tool, given: update(`"type":"addRules","behavior":"allow","destination":"session","rules":[` +
			strings.Repeat(`{"toolName":"x"},`, maxRules) + `{"toolName":"x"}]`), fault: "at most"},
		{asked: elicitation, given: `{"action":"maybe"}`, fault: "action"},
		{asked: elicitation, given: `{"action":"accept","content":"x"}`, fault: "content"},
		{asked: elicitation, given: `{"behavior":"allow"}`, fault: "behavior"},
		{asked: gjson.Parse(`{"subtype":"hook_callback"}`), given: `{}`, fault: "can't answer"},
	} {
		sets, err := Answers(c.asked, gjson.Parse(c.given), func(mode string) bool { return mode != "bypassPermissions" })
		require.Equal(t, c.sets, sets, c.given)
		if c.fault == "" {
			require.NoError(t, err, c.given)
			continue
		}
		require.ErrorContains(t, err, c.fault, c.given)
		require.Equal(t, 400, Known(err).Status, c.given)
		require.NotContains(t, fmt.Sprint(err), "secret")
	}
}
