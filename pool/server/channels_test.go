package server_test

import (
	"context"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

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
