package snapshot

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// Where a look costs nothing, what has just happened is told: a fifth of a second is what a person takes for at once.
func TestPublish_InMemoryAChangeIsSeenAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, changed := NewMemory(), make(chan struct{}, 1)
		log := slog.New(slog.DiscardHandler)
		now := 0
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			Publish(ctx, store, changed, func() Instance { return Instance{ID: "i", Capacity: now} }, log)
		}()
		view := NewView(store, log)
		for n := range 20 {
			synctest.Wait()
			now = n
			select {
			case changed <- struct{}{}:
			default:
			}
			time.Sleep(200 * time.Millisecond)
			list, _, _ := view.List()
			require.Len(t, list, 1)
			require.Equal(t, n, list[0].Capacity)
			time.Sleep(time.Duration(n) * 7 * time.Millisecond)
		}
		cancel()
		<-done
	})
}
