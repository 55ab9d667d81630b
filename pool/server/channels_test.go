package server_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"claudepool/pool/api"
	"claudepool/pool/server"
)

// deleted has a conversation of ada's deleted while its turn runs, which the backend waits for.
func (h *house) deleted(running *turn, answer error) *client {
	h.deletes = func(context.Context, *api.Request) (int, error) {
		<-running.released
		return 1, answer
	}
	c := h.send(ask{path: api.PathDelete, more: `,"session_id":"` + session + `"`})
	synctest.Wait()
	return c
}

func TestChannel_WhatWaitsIsDeletedWithItsConversation(t *testing.T) {
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		c := h.follow("")
		one := h.next(hangs)
		one.noSteering = true
		accepted(t, h.tell(message("one"), message("two")), 2)
		synctest.Wait()
		deletion := h.deleted(one, nil)
		c.whole()
		h.tell(message("three")).refused(t, http.StatusNotFound)
		one.stop()
		require.Equal(t, http.StatusOK, deletion.whole().status)
		time.Sleep(time.Minute)
		require.Equal(t, 2, h.asked(), "one and its deletion")
		require.Zero(t, h.held)
	})
}

func TestChannel_WhatIsBeingMadeReadyIsDeletedWithItsConversation(t *testing.T) {
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		two := h.next(hangs)
		ready := make(chan bool)
		h.meanwhile(func(context.Context) error { <-ready; return nil }) // it is too late to give it up
		accepted(t, h.tell(message("two")), 1)
		synctest.Wait()
		deletion := h.deleted(two, nil)
		close(ready)
		require.Equal(t, http.StatusOK, deletion.whole().status)
		require.True(t, two.isReleased(), "it hasn't begun, as it would hang")
	})
}

func TestChannel_ADeletionThatFailedLeavesTheConversation(t *testing.T) {
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		one := h.next(says(goodResult))
		accepted(t, h.tell(message("one")), 1)
		synctest.Wait()
		deletion := h.deleted(one, api.Unavailable(time.Second, "not all could be deleted now, try again"))
		deletion.whole().refused(t, http.StatusServiceUnavailable)
		accepted(t, h.tell(message("two")), 1)
		time.Sleep(time.Minute)
	})
}

// initializes asks for a system prompt of a length in a new conversation of the user's.
func (h *house) initializes(user string, length int) reply {
	return h.send(ask{path: api.PathChannelSend, user: user, body: fmt.Sprintf(
		`{"oauth_credentials":{"access_token":%q},"session_id":%q,"events":[%s]}`, token(user), uuid.NewString(),
		control("a", `{"subtype":"initialize","appendSystemPrompt":"`+strings.Repeat("x", length)+`"}`))}).whole()
}

func TestChannel_AUserHasSoManyThatTheOldestGivesWay(t *testing.T) {
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		oldest := h.follow("")
		synctest.Wait()
		for range server.TalksOfUser + 10 {
			accepted(t, h.initializes("ada", 500), 1)
			time.Sleep(time.Second)
		}
		require.Equal(t, server.TalksOfUser, server.Talks(h.server))
		require.False(t, oldest.isOver(), "somebody reads it")
		accepted(t, h.initializes("bob", 500), 1)
		oldest.leave()
		time.Sleep(10 * time.Minute)
		require.Zero(t, server.Talks(h.server), "nobody has said anything")
		require.Zero(t, server.LogBytes(h.server))
	})
}

func TestChannel_WhatClientsAskForIsCounted(t *testing.T) {
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		accepted(t, h.initializes("ada", 500), 1)
		one := server.LogBytes(h.server)
		accepted(t, h.initializes("ada", 0), 1)
		require.Equal(t, int64(500), 2*one-server.LogBytes(h.server))
		for i := range 600 { // more than there is room for
			accepted(t, h.initializes(fmt.Sprint(i/50), 500), 1)
			require.LessOrEqual(t, server.LogBytes(h.server), int64(1<<20))
		}
		require.Less(t, server.Talks(h.server), 1<<20/2500, "the oldest have given way")
	})
}

func TestChannel_WhoHasHadATurnGivesWayLast(t *testing.T) {
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		accepted(t, h.tell(control("mode", `{"subtype":"set_permission_mode","mode":"plan"}`), message("hi")), 2)
		time.Sleep(time.Minute)
		for i := range 600 {
			accepted(t, h.initializes(fmt.Sprint(i/50), 500), 1)
		}
		accepted(t, h.tell(message("hi")), 1)
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Equal(t, "plan", h.acquired[1].PermissionMode)
	})
}

func TestChannel_WhatWasAskedForIsKeptLongerThanWhatWasSaid(t *testing.T) {
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		accepted(t, h.tell(control("mode", `{"subtype":"set_permission_mode","mode":"plan"}`), message("hi")), 2)
		time.Sleep(20 * time.Hour)
		accepted(t, h.tell(message("hi")), 1)
		synctest.Wait()
		require.Equal(t, "plan", h.acquired[1].PermissionMode)
		time.Sleep(26 * time.Hour)
		require.Zero(t, server.Talks(h.server))
		require.Zero(t, server.LogBytes(h.server))
	})
}

// claims are those of a user who has been away.
type claims struct {
	server.Handover
	claim string
}

func (c *claims) Claim(string) string { return c.claim }

func TestChannel_WhatWasAskedForEndsWhereAnotherInstanceHadTheUser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := &claims{claim: "1"}
		h := newHouseWith(t, server.Tuning{}, all)
		accepted(t, h.tell(control("mode", `{"subtype":"set_permission_mode","mode":"plan"}`), message("hi")), 2)
		time.Sleep(time.Minute)
		all.claim = "2"
		accepted(t, h.tell(message("hi")), 1)
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Empty(t, h.acquired[1].PermissionMode)
		c := h.follow("")
		require.Contains(t, c.payloads(), "success: mode", "what was said is kept")
		c.leave()
		h.server.Close()
	})
}

// Whoever sends again what may have been lost is told what has become of it.
func TestChannel_WhatIsSentAgainMeanwhileIsWaitedFor(t *testing.T) {
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		given, refuse := make(chan bool), make(chan bool)
		asked := h.next(func(_ context.Context, turn *turn) error {
			turn.sent()
			a := api.Ask{ID: "ask", Subtype: api.AskTool, Line: []byte(`{}`)}
			a.Answer = func(json.RawMessage) error {
				given <- true
				<-refuse
				return api.Invalid("not like this")
			}
			h.acquired[0].Host.Asked(a)
			<-turn.stopped
			return nil
		})
		accepted(t, h.tell(message("hi")), 1)
		synctest.Wait()
		answer := respond("ask", `{}`)
		body := fmt.Sprintf(`{"oauth_credentials":{"access_token":%q},"session_id":%q,"events":[%s]}`, token("ada"),
			session, answer)
		first := h.send(ask{path: api.PathChannelSend, body: body})
		<-given
		second := h.send(ask{path: api.PathChannelSend, body: body})
		synctest.Wait()
		require.False(t, second.isOver())
		refuse <- true
		first.whole().refused(t, http.StatusBadRequest)
		<-given
		refuse <- true
		second.whole().refused(t, http.StatusBadRequest)
		asked.stop()
	})
}
