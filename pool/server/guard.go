package server

import (
	"encoding/json"

	"github.com/tidwall/gjson"

	"claudepool/pool/api"
)

// hookBefore is the event of hooks that guard tools.
const hookBefore = "PreToolUse"

// guards are the hooks that guard tools.
func guards(init *api.Initialize) []gjson.Result {
	if init == nil {
		return nil
	}
	return gjson.GetBytes(init.Live, "hooks."+hookBefore).Array()
}

// guardedBy is what a client asks with the hooks of before that guard tools, which it can't take away from others.
func guardedBy(before, asked *api.Initialize) (*api.Initialize, error) {
	all, isThere := []json.RawMessage{}, map[string]bool{}
	for _, hook := range append(guards(before), guards(asked)...) {
		if !isThere[hook.Raw] {
			isThere[hook.Raw] = true
			all = append(all, json.RawMessage(hook.Raw))
		}
	}
	if len(all) == len(guards(asked)) {
		return asked, nil
	}
	live, hooks := map[string]json.RawMessage{}, map[string]json.RawMessage{}
	gjson.ParseBytes(asked.Live).ForEach(func(name, value gjson.Result) bool {
		live[name.Str] = json.RawMessage(value.Raw)
		return true
	})
	gjson.ParseBytes(live["hooks"]).ForEach(func(event, value gjson.Result) bool {
		hooks[event.Str] = json.RawMessage(value.Raw)
		return true
	})
	hooks[hookBefore], _ = json.Marshal(all) // these are of valid JSON: can't fail
	live["hooks"], _ = json.Marshal(hooks)
	whole, _ := json.Marshal(live)
	both, err := api.DecodeInitialize(whole) // there may be too many of them together
	if err != nil {
		return nil, err
	}
	return &api.Initialize{Live: both.Live, First: asked.First, System: asked.System}, nil
}
