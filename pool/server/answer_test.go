package server_test

import (
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/pool/api"
	"claudepool/pool/server"
)

// answer is one to what a turn of ada's has asked.
func answer(response string) ask {
	return ask{path: api.PathAnswer, body: fmt.Sprintf(`{"oauth_credentials":{"access_token":%q},`+
		`"session_id":"0d3b2a4e-6f0a-4d57-9f6e-0f5f6b0d7c11","request_id":"r1","response":%s}`, token("ada"), response)}
}

func TestAnswer_IsPassedOn(t *testing.T) {
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		var got []*api.Answer
		var refused error
		h.answers = func(a *api.Answer) error {
			got = append(got, a)
			return refused
		}
		r := h.send(answer(`{"behavior":"allow"}`)).whole()
		require.Equal(t, http.StatusOK, r.status)
		require.Equal(t, "{}\n", r.body)
		require.Equal(t, "r1", got[0].ID)
		require.Equal(t, userID("ada"), got[0].UserID())

		refused = api.NotFound("not asked")
		require.Equal(t, http.StatusNotFound, h.send(answer(`{"behavior":"allow"}`)).whole().status)
		refused = errNotOwner
		require.Equal(t, http.StatusMisdirectedRequest, h.send(answer(`{"behavior":"allow"}`)).whole().status)
		require.Equal(t, http.StatusBadRequest, h.send(answer(`7`)).whole().status)
		require.Len(t, got, 3)
	})
}

// Nobody answers who isn't there, and a turn must not wait for ever. Who comes back is asked again.
func TestAway_ATurnIsToldWhenItsReaderHasBeenGoneForAMinute(t *testing.T) {
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		turn, c, id := h.begin(says(numbers(600)...))
		c.leave()
		time.Sleep(50 * time.Second)
		c = h.resume(id, 0)
		synctest.Wait()
		time.Sleep(2 * time.Minute)
		c.leave()
		time.Sleep(time.Minute - time.Second)
		synctest.Wait()
		require.Empty(t, turn.toldAway(), "it was never gone for a minute")
		time.Sleep(2 * time.Second)
		synctest.Wait()
		require.Equal(t, []bool{true}, turn.toldAway())
		c = h.resume(id, 0)
		synctest.Wait()
		require.Equal(t, []bool{true, false}, turn.toldAway())
		require.True(t, c.whole().done)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		require.Equal(t, []bool{true, false}, turn.toldAway(), "it has ended")
	})
}

// A front sends what was refused for now again under the same id.
func TestAnswer_IsTakenWhenAFrontSendsItAgain(t *testing.T) {
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		refused := errMoved
		h.answers = func(*api.Answer) error { return refused }
		a := answer(`{"behavior":"allow"}`)
		a.hop = h.sign(a)
		r := h.send(a).whole()
		require.Equal(t, http.StatusServiceUnavailable, r.status)
		require.NotEmpty(t, r.header.Get(api.HeaderNotStarted))
		refused = nil
		require.Equal(t, http.StatusOK, h.send(a).whole().status)
	})
}

func TestAway_OneReaderOfSeveralMayLeave(t *testing.T) {
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		turn := h.next(says(numbers(300)...))
		first := h.send(ask{key: "k"})
		synctest.Wait()
		second := h.send(ask{key: "k"})
		synctest.Wait()
		second.leave()
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		require.Empty(t, turn.toldAway())
		require.True(t, first.whole().done)
	})
}
