package router

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// agreeing is a Redis that says yes to every script, and keeps when instances asserted whom they hold.
type agreeing struct {
	Redis
	mu       sync.Mutex // guards the following
	away     bool       // for assertions alone
	asserted []time.Time
}

func (r *agreeing) EvalSha(ctx context.Context, sha string, _ []string, _ ...any) *redis.Cmd {
	cmd := redis.NewCmd(ctx)
	cmd.SetVal([]any{"ok", "epoch"})
	if sha == assertScript.Hash() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.away {
			cmd.SetErr(errors.New("away"))
			return cmd
		}
		r.asserted = append(r.asserted, time.Now())
		cmd.SetVal([]any{})
	}
	return cmd
}

func TestLease_InstancesThatStartTogetherRefreshTheirEntriesAtDifferentTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &agreeing{}
		ctx, stop := context.WithCancel(t.Context())
		var loops sync.WaitGroup
		for range 50 {
			l := NewLease(r, LeaseOptions{Logger: quiet, Load: func() (int, int) { return 1, 1 }})
			l.claims["ada"] = holding{claim: "claim"}
			loops.Go(func() { l.Run(ctx) })
		}
		time.Sleep(time.Second)
		synctest.Wait()
		r.mu.Lock()
		require.Len(t, r.asserted, 50, "each has registered")
		r.mu.Unlock()
		began := time.Now()
		time.Sleep(refreshEvery + renewTime)
		stop()
		loops.Wait()
		quarters := make([]int, 4)
		for _, at := range r.asserted[50:] {
			quarters[min(3, 4*at.Sub(began)/refreshEvery)]++
		}
		for _, n := range quarters {
			require.Positive(t, n, quarters)
		}
	})
}

// What could not be refreshed is tried again with the next beat, not a third of its life later.
func TestLease_ARefreshThatFailedIsNotDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &agreeing{}
		l := NewLease(r, LeaseOptions{Logger: quiet, Load: func() (int, int) { return 1, 1 }})
		l.claims["ada"] = holding{claim: "claim"}
		ctx, stop := context.WithCancel(t.Context())
		var loop sync.WaitGroup
		loop.Go(func() { l.Run(ctx) })
		time.Sleep(time.Second)
		say := func(away bool) (asserted int) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.away = away
			return len(r.asserted)
		}
		before := say(true)
		time.Sleep(refreshEvery + 2*renewTime)
		require.Equal(t, before, say(false))
		time.Sleep(2 * renewTime)
		require.Equal(t, before+1, say(false))
		stop()
		loop.Wait()
	})
}
