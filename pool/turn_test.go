package pool_test

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPool_ASecondRequestFindsTheProcessAndTheConversation(t *testing.T) {
	s := newService(t, nil)
	first := s.ask("ada", "one", nil)
	require.Equal(t, "reply to: one", first.text(t))
	require.Equal(t, "new", first.process)
	second := s.ask("ada", "two", nil)
	require.Equal(t, "reply to: two", second.text(t))
	require.Equal(t, "reused", second.process)
	require.Equal(t, first.pid, second.pid)
	require.Equal(t, []string{"user: one", "assistant: reply to: one", "user: two"}, s.lastCall().Messages())
	require.Equal(t, "Bearer "+token("ada"), s.lastCall().Header.Get("Authorization"))
}
