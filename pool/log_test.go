package pool_test

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPool_WhatIsSaidIsNotLogged(t *testing.T) {
	s := newScriptedService(t, nil)
	require.Equal(t, "reply to: private words", s.ask("ada", "private words", fields{"system": "private rules"}).text(t))
	s.ask("ada", "private failure [[exit]]", nil)
	s.ask("ada", "private refusal", fields{"model": "--private"})
	require.NotEmpty(t, s.logs.String())
	require.NotContains(t, s.logs.String(), "private")
}
