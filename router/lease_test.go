package router

import (
	"context"
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
	mu       sync.Mutex // guards asserted
	asserted []time.Time
}

func (r *agreeing) EvalSha(ctx context.Context, sha string, _ []string, _ ...any) *redis.Cmd {
	cmd := redis.NewCmd(ctx)
	cmd.SetVal([]any{"ok", "era"})
	if sha == assertScript.Hash() {
		r.mu.Lock()
		defer r.mu.Unlock()
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
			l.claims["ada"] = "claim"
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
