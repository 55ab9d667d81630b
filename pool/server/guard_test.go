package server_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"claudepool/pool/api"
	"claudepool/pool/server"
)

// registers asks for a hook of an event, and something else.
func (h *house) registers(hook, event string) reply {
	return h.tell(control("init", fmt.Sprintf(`{"subtype":"initialize","sdkMcpServers":[%q],`+
		`"hooks":{%q:[{"matcher":"Bash","hookCallbackIds":[%q]}]}}`, "of_"+hook, event, hook)))
}

// hooks are the ids of hooks that the next turn has.
func (h *house) hooks(t *testing.T, event string) (ids []string) {
	accepted(t, h.tell(message("hi")), 1)
	time.Sleep(2 * time.Second)
	synctest.Wait()
	live := h.acquired[len(h.acquired)-1].Client.Live
	for _, id := range gjson.GetBytes(live, "hooks."+event+".#.hookCallbackIds.0").Array() {
		ids = append(ids, id.Str)
	}
	return ids
}

func TestChannel_NoOtherClientTakesAGuardAway(t *testing.T) {
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		c := h.follow("")
		synctest.Wait()
		accepted(t, h.registers("mine", "PreToolUse"), 1)
		accepted(t, h.registers("other", "PostToolUse"), 1)
		require.Equal(t, []string{"mine"}, h.hooks(t, "PreToolUse"))
		require.Equal(t, []string{"other"}, h.hooks(t, "PostToolUse"))
		require.Contains(t, string(h.acquired[0].Client.Live), "of_other")
		accepted(t, h.registers("another", "PreToolUse"), 1)
		accepted(t, h.registers("mine", "PreToolUse"), 1)
		require.Equal(t, []string{"mine", "another"}, h.hooks(t, "PreToolUse"))
		for i := range 62 {
			accepted(t, h.registers(fmt.Sprint(i), "PreToolUse"), 1)
		}
		accepted(t, h.registers("one_more", "PreToolUse"), 1)
		require.Contains(t, c.payloads(), "error: init", "there are too many")
		require.Len(t, h.hooks(t, "PreToolUse"), 64)

		c.leave()
		time.Sleep(time.Minute - 10*time.Second)
		c = h.follow("")
		synctest.Wait()
		accepted(t, h.registers("new", "PreToolUse"), 1)
		require.Len(t, h.hooks(t, "PreToolUse"), 64, "somebody has come back in time")
		c.leave()
		time.Sleep(time.Minute)
		c = h.follow("")
		synctest.Wait()
		accepted(t, h.registers("new", "PreToolUse"), 1)
		require.Equal(t, []string{"new"}, h.hooks(t, "PreToolUse"))
		c.leave()
	})
}

// unable is the answer of a client that has no such hook.
func unable(id string) string {
	return fmt.Sprintf(`{"type":"control_response","uuid":%q,"response":{"subtype":"error","request_id":%q,`+
		`"error":"no such hook"}}`, uuid.NewString(), id)
}

func TestChannel_AClientWithoutTheHookDoesntAnswerForTheOneThatHasIt(t *testing.T) {
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		one, other := h.follow(""), h.follow("")
		synctest.Wait()
		asked := asks(h, api.Ask{ID: "ask", Subtype: "hook_callback"})
		accepted(t, h.tell(message("hi")), 1)
		synctest.Wait()
		accepted(t, h.tell(unable("ask")), 1)
		synctest.Wait()
		require.Empty(t, asked)
		accepted(t, h.tell(respond("ask", `{}`)), 1)
		require.JSONEq(t, `{}`, <-asked)
		time.Sleep(time.Second)

		asked = asks(h, api.Ask{ID: "again", Subtype: "hook_callback"})
		accepted(t, h.tell(message("hi")), 1)
		synctest.Wait()
		accepted(t, h.tell(unable("again"), unable("again")), 2)
		require.Contains(t, <-asked, `"permissionDecision":"deny"`, "nobody has it")
		time.Sleep(time.Second)
		one.leave()
		other.leave()
	})
}
