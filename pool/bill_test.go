package pool

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"claudepool/infra/testkit"
	"claudepool/infra/usage"
	"claudepool/pool/broker"
)

// An instance that ends waits for calls only so long.
func TestBill_WhatIsKnownAtTheEndDoesNotWaitForCallsThatGoOn(t *testing.T) {
	t.Parallel()
	client := redis.NewClient(&redis.Options{Addr: testkit.Redis(t)})
	t.Cleanup(func() { _ = client.Close() })
	ledger, reader := usage.NewLedger(client, slog.New(slog.DiscardHandler)), usage.NewReader(client)
	ctx, stop := context.WithCancel(context.Background())
	go ledger.Run(ctx)
	t.Cleanup(stop)
	calls := func() (n int64) {
		ledger.Close(t.Context())
		rows, err := reader.Of(t.Context(), "ada", []string{usage.Day(time.Now())})
		require.NoError(t, err)
		for _, r := range rows {
			n += r.Calls
		}
		return n
	}
	go usage.NewKeeper(client, nil, slog.New(slog.DiscardHandler)).Run(ctx)
	require.Eventually(t, func() bool { _, err := reader.Spent(t.Context(), "ada", 1); return err == nil }, time.Minute,
		time.Millisecond)
	b := &bill{pool: &Pool{opts: Options{Ledger: ledger}}, user: "ada"}
	for range 2 {
		require.NoError(t, b.Begin(t.Context(), true))
	}
	b.End(true, &broker.Usage{Model: "claude-haiku-5-5", Input: 1})
	require.Zero(t, calls(), "a turn is told of at its end")
	b.close()
	require.EqualValues(t, 1, calls())
	b.End(true, &broker.Usage{Model: "claude-haiku-5-5", Input: 1})
	require.EqualValues(t, 2, calls())
}
