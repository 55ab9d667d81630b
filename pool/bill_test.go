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
	"claudepool/pool/api"
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

// A turn that waits for its client's tools goes on in another request, which may have come by another key.
func TestBill_EachPartOfATurnIsChargedToItsRequest(t *testing.T) {
	client := redis.NewClient(&redis.Options{})
	t.Cleanup(func() { _ = client.Close() })
	ledger := usage.NewLedger(client, slog.New(slog.DiscardHandler)) // which keeps what it gets
	b := &bill{pool: &Pool{opts: Options{Ledger: ledger}}, user: "ada", key: "one"}
	call := func() error {
		err := b.Begin(t.Context(), true)
		if err == nil {
			b.End(true, &broker.Usage{Model: "claude-haiku-5-5", Input: 1})
		}
		return err
	}
	b.begin()
	require.NoError(t, call())
	b.settle()
	require.Empty(t, b.sums, "the ledger has them, as it may wait for long")
	b.goOn(&api.Request{ServiceKey: "two", MaxTurns: new(1)})
	require.Equal(t, "two", b.key)
	require.NoError(t, call())
	require.Error(t, call(), "the part's own limit")
	why, hasBegun := b.refused()
	require.NotNil(t, why)
	require.True(t, hasBegun)
	require.NotEmpty(t, b.sums)
	b.close()
	require.Empty(t, b.sums)
}
