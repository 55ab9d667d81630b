package api

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/tidwall/gjson"
)

const (
	// maxInitialize is how long what a client asks of its processes may be, in bytes of JSON: it is kept with the channel.
	maxInitialize = 256 << 10
	maxHooks      = 64
	maxAgents     = 32
)

// hookEvents are those that a client can have hooks of: the ones that are about a turn. The others are about the
// machine, or answer for the user in a way that is checked elsewhere.
var hookEvents = []string{"PreToolUse", "PostToolUse", "PostToolUseFailure", "PostToolBatch", "Notification",
	"UserPromptSubmit", "Stop", "StopFailure", "SubagentStart", "SubagentStop", "PreCompact", "PostCompact"}

// Initialize is what a client asks of the processes that serve its channel, all of it checked.
type Initialize struct {
	// Live is of a control request, without what stands in First and System: what a running process takes. Empty: nothing.
	Live json.RawMessage
	// First is the same of what only a process takes that has had no turn yet.
	First json.RawMessage
	// System is appended to the system prompt; nil: nothing is said of it.
	System *string
}

// DecodeInitialize reads the request of a control request of that subtype. What isn't known is refused, however deep it
// stands: a client is to ask for nothing that reaches beyond its conversation.
func DecodeInitialize(request json.RawMessage) (*Initialize, error) {
	if len(request) > maxInitialize {
		return nil, Invalid("initialize: must not be longer than %d bytes", maxInitialize)
	}
	r := gjson.ParseBytes(request)
	err := onlyFields(r, "initialize", "subtype", "hooks", "sdkMcpServers", "jsonSchema", "appendSystemPrompt", "agents",
		"promptSuggestions", "supportedDialogKinds")
	if err != nil {
		return nil, err
	}
	if r.Get("promptSuggestions").Bool() || len(r.Get("supportedDialogKinds").Array()) > 0 {
		return nil, Invalid("initialize: promptSuggestions and dialogs are not supported")
	}
	live, first := map[string]json.RawMessage{}, map[string]json.RawMessage{}
	for name, check := range map[string]func(gjson.Result) error{"hooks": checkHooks, "sdkMcpServers": checkServers,
		"jsonSchema": checkSchema, "agents": checkAgents} {
		value := r.Get(name)
		if value.Type == gjson.Null {
			continue
		}
		if err := check(value); err != nil {
			return nil, err
		}
		to := live
		if name == "jsonSchema" || name == "agents" {
			to = first
		}
		to[name] = json.RawMessage(value.Raw)
	}
	init := &Initialize{Live: joined(live), First: joined(first)}
	if system := r.Get("appendSystemPrompt"); system.Type != gjson.Null {
		if system.Type != gjson.String || len(system.Str) > maxSystem || strings.ContainsRune(system.Str, 0) {
			return nil, Invalid("initialize.appendSystemPrompt: must be a string of at most %d bytes without NUL", maxSystem)
		}
		text := strings.Clone(system.Str)
		init.System = &text
	}
	return init, nil
}

// joined is the fields as one object, sorted by name; nil without any.
func joined(fields map[string]json.RawMessage) json.RawMessage {
	if len(fields) == 0 {
		return nil
	}
	text, _ := json.Marshal(fields) // of valid JSON: can't fail
	return text
}

func checkHooks(hooks gjson.Result) (err error) {
	if err := onlyFields(hooks, "initialize.hooks", hookEvents...); err != nil {
		return err
	}
	n := 0
	hooks.ForEach(func(event, matchers gjson.Result) bool {
		if !matchers.IsArray() {
			err = Invalid("initialize.hooks.%s: must be an array", event.Str)
		}
		matchers.ForEach(func(_, m gjson.Result) bool {
			n++
			err = checkMatcher(m)
			return err == nil
		})
		if n > maxHooks {
			err = Invalid("initialize.hooks: at most %d are accepted", maxHooks)
		}
		return err == nil
	})
	return err
}

func checkMatcher(m gjson.Result) error {
	const path = "initialize.hooks"
	if err := onlyFields(m, path, "matcher", "hookCallbackIds", "timeout"); err != nil {
		return err
	}
	matcher, timeout := m.Get("matcher"), m.Get("timeout")
	if matcher.Type != gjson.Null && (matcher.Type != gjson.String || len(matcher.Str) > 1<<10) {
		return Invalid("%s: a matcher must be a string", path)
	}
	if timeout.Type != gjson.Null && !(timeout.Num > 0 && timeout.Num <= 3600) {
		return Invalid("%s: a timeout must be a number of seconds up to 3600", path)
	}
	ids := m.Get("hookCallbackIds")
	if !ids.IsArray() || !allStrings(ids, requestForm.MatchString) || len(ids.Array()) > maxHooks {
		return Invalid("%s: hookCallbackIds must be an array of ids", path)
	}
	return nil
}

// checkServers checks the names of MCP servers that live in the client.
func checkServers(names gjson.Result) error {
	if !names.IsArray() || !allStrings(names, serverForm.MatchString) || len(names.Array()) > maxServers {
		return Invalid("initialize.sdkMcpServers: must be an array of at most %d names that match %s", maxServers, serverForm)
	}
	if !allStrings(names, func(name string) bool { return name != ToolServer }) {
		return Invalid("initialize.sdkMcpServers: %s is the service's own, choose another name", ToolServer)
	}
	return nil
}

func checkSchema(schema gjson.Result) error {
	if !schema.IsObject() {
		return Invalid("initialize.jsonSchema: must be an object")
	}
	return nil
}

// checkAgents checks agents, which may have no permission mode, servers, memory, hooks or skills of their own.
func checkAgents(agents gjson.Result) (err error) {
	if !agents.IsObject() {
		return Invalid("initialize.agents: must be an object")
	}
	n := 0
	agents.ForEach(func(name, agent gjson.Result) bool {
		if n++; n > maxAgents || !serverForm.MatchString(name.Str) {
			err = Invalid("initialize.agents: at most %d are accepted, with names that match %s", maxAgents, serverForm)
			return false
		}
		err = checkAgent("initialize.agents", agent)
		return err == nil
	})
	return err
}

func checkAgent(path string, agent gjson.Result) error {
	if err := onlyFields(agent, path, "description", "prompt", "tools", "model"); err != nil {
		return err
	}
	tools, model := agent.Get("tools"), agent.Get("model")
	switch {
	case agent.Get("description").Type != gjson.String, agent.Get("prompt").Type != gjson.String:
		return Invalid("%s: must have a description and a prompt", path)
	case tools.Type != gjson.Null && (!tools.IsArray() || !allStrings(tools, func(s string) bool { return s != "" })):
		return Invalid("%s.tools: must be an array of names", path)
	case model.Type != gjson.Null && (len(model.Str) > maxModel || !modelForm.MatchString(model.Str)):
		return Invalid("%s.model: must be a model's name", path)
	}
	return nil
}

func allStrings(array gjson.Result, such func(string) bool) bool {
	return !slices.ContainsFunc(array.Array(), func(v gjson.Result) bool {
		return v.Type != gjson.String || !such(v.Str)
	})
}

// DecodeModel reads the model of a control request set_model.
func DecodeModel(request json.RawMessage) (string, error) {
	r := gjson.ParseBytes(request)
	if err := onlyFields(r, "set_model", "subtype", "model"); err != nil {
		return "", err
	}
	model := r.Get("model").Str
	if len(model) > maxModel || !modelForm.MatchString(model) {
		return "", Invalid("set_model.model: must be a model's name")
	}
	return strings.Clone(model), nil
}

// DecodePermissionMode reads the mode of a control request set_permission_mode.
func DecodePermissionMode(request json.RawMessage) (string, error) {
	r := gjson.ParseBytes(request)
	if err := onlyFields(r, "set_permission_mode", "subtype", "mode"); err != nil {
		return "", err
	}
	mode := r.Get("mode").Str
	if !slices.Contains([]string{"default", "acceptEdits", "plan", "bypassPermissions", "dontAsk"}, mode) {
		return "", Invalid("set_permission_mode.mode: must be one of default, acceptEdits, plan, bypassPermissions, dontAsk")
	}
	return strings.Clone(mode), nil
}
