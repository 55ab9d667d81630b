package server_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/infra/hop"
	"claudepool/pool/api"
	"claudepool/pool/server"
)

const conversationID = "0d3b2a4e-6f0a-4d57-9f6e-0f5f6b0d7c11"

func TestServer_TellsOfConversations(t *testing.T) {
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		h.listed = []api.Conversation{{ID: conversationID, Title: "hi", LastUsed: time.Unix(0, 0).UTC()}}
		one := `{"id":"` + conversationID + `","title":"hi","last_used":"1970-01-01T00:00:00Z","running":false,` +
			`"pending":null}`
		for path, want := range map[string]string{
			api.PathConversations: `{"conversations":[` + one + `]}`,
			api.PathOne:           one,
			api.PathSaid:          `{"messages":[],"before":7}`,
			api.PathForks:         `{"id":"f","forked_from":"` + conversationID + `","workspace":false}`,
		} {
			a := ask{path: path, more: `,"session_id":"` + conversationID + `","before":7,"limit":1,"fork_id":"f"`}
			got := h.send(a).whole()
			require.Equal(t, http.StatusOK, got.status, got.body)
			require.JSONEq(t, want, got.body)
			a.claims = func(c *hop.Claims) { c.User = userID("bob") }
			h.send(a).whole().refused(t, http.StatusUnauthorized)
		}
		h.listed = nil
		h.send(ask{path: api.PathOne, more: `,"session_id":"` + conversationID + `"`}).whole().refused(t, http.StatusNotFound)
	})
}
