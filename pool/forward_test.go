package pool

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"claudepool/pool/claude"
)

// While the client is behind, its turn is cut short and ends one way or another before the client has caught up.
func TestForward_ATurnThatWasCutShortEndsWithTheReason(t *testing.T) {
	ends := map[string]func(*turn){
		"killed": func(u *turn) { u.fail(errDied) },
		"answered all the same": func(u *turn) {
			u.result = &claude.Line{Subtype: "success"}
			close(u.ended)
			signal(u.more)
		},
		"interrupted": func(u *turn) {
			u.result = &claude.Line{IsError: true}
			close(u.ended)
			signal(u.more)
		},
	}
	for name, end := range ends {
		for range 50 { // whichever way select goes
			ctx, cut := context.WithCancelCause(t.Context())
			u := newTurn("u", nil)
			u.pushLocked([]byte("line"))
			behind := func(context.Context, [][]byte) error {
				cut(errTurnTimeout)
				u.drop()
				end(u)
				return nil
			}
			require.ErrorIs(t, new(Handle).forward(ctx, u, behind, cut), errTurnTimeout, name)
		}
	}
}
