package server_test

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/pool/api"
	"claudepool/pool/server"
)

// between is a Handover of one user after the other.
type between struct {
	claim string
	left  map[string][]byte
	err   error
	asked int
}

func (b *between) Claim(string) string { return b.claim }

func (b *between) Left(_ context.Context, user string) ([]byte, error) {
	b.asked++
	return b.left[user], b.err
}

func (b *between) DropLeft(_ context.Context, user string) error {
	delete(b.left, user)
	return b.err
}

// owners are two instances that own users in turn.
func owners(t *testing.T, tuning server.Tuning) (*between, *house, *house) {
	b := &between{claim: "1", left: make(map[string][]byte)}
	return b, newHouseWith(t, tuning, b), newHouseWith(t, tuning, b)
}

// moves has another instance be the users' owner from here on.
func (b *between) moves(t *testing.T, from *house, users ...string) {
	t.Helper()
	for _, user := range users {
		left, ttl := from.server.HandOver(userID(user), b.claim)
		require.NotContains(t, string(left), "line")
		require.LessOrEqual(t, ttl, 10*time.Minute)
		if left != nil { // else what was left stays
			b.left[userID(user)] = left
		}
		require.NotNil(t, b.left[userID(user)])
	}
	b.claim += "+"
}

func TestKey_IsHandedOverToTheNextOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, first, second := owners(t, server.Tuning{})
		first.next(says(numbers(9)...))
		first.next(func(ctx context.Context, t *turn) error {
			return errors.Join(says("one")(ctx, t), api.BadGateway("too bad"))
		})
		first.next(fails(api.CredentialRefused()))
		failing, silent := ask{key: "failing"}, ask{key: "silent"}
		answered := first.send(again).whole()
		first.send(failing).whole().failed(t, "one")
		first.send(silent).whole().refused(t, http.StatusUnauthorized)
		require.Equal(t, 1, b.asked, "once for each time that a user comes")

		b.moves(t, first, "ada")
		for range 2 {
			time.Sleep(time.Minute)
			r := second.send(again).whole()
			r.answered(t, numbers(9)...)
			require.Equal(t, answered.ids, r.ids)
			require.Equal(t, "reused", r.receipt.Get("process").Str)
			require.Equal(t, "too bad", second.send(failing).whole().failed(t, "one"))
			r = second.send(silent).whole()
			r.refused(t, http.StatusUnauthorized)
			require.Equal(t, "refused", r.header.Get(api.HeaderCredential))
			second.send(ask{key: again.key, more: finish}).whole().refused(t, http.StatusBadRequest)
		}
		require.Equal(t, 2, b.asked)
		require.Zero(t, second.asked())
		second.send(ask{key: "new"}).whole().answered(t, "hello")

		b.moves(t, second, "ada") // and back
		first.send(again).whole().answered(t, numbers(9)...)
		first.send(ask{key: "new"}).whole().answered(t, "hello")
		require.Equal(t, 3, first.asked())
		time.Sleep(10 * time.Minute)
		left, _ := first.server.HandOver(userID("ada"), b.claim)
		require.Nil(t, left)
	})
}

func TestKey_OfAnAnswerThatIsTooLargeToBeHandedOverItIsKnownThatItWasUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, first, second := owners(t, server.Tuning{})
		noise := make([]string, 0, 9)
		for i := range cap(noise) {
			noise = append(noise, random(t, server.LeftOfUser/4+i))
		}
		first.next(says(noise...))
		first.send(again).whole().answered(t, noise...)
		first.send(ask{key: "small"}).whole().answered(t, "hello")
		b.moves(t, first, "ada")
		require.Less(t, len(b.left[userID("ada")]), server.LeftOfUser)
		r := second.send(again).whole()
		r.refused(t, http.StatusConflict)
		require.True(t, r.isBegun())
		second.send(ask{key: "small"}).whole().answered(t, "hello")
		require.Zero(t, second.asked())
	})
}

func TestKey_AnOwnerThatHasNotTakenKeysOverLeavesNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, first, second := owners(t, server.Tuning{})
		first.send(again).whole().answered(t, "hello")
		b.moves(t, first, "ada")
		newer := ask{key: "newer"}
		second.send(newer).whole().answered(t, "hello")
		b.moves(t, second, "ada")
		b.err = errSecret
		first.send(newer).whole().refused(t, http.StatusServiceUnavailable)
		b.err = nil
		first.send(ask{}).whole().answered(t, "hello")
		b.moves(t, first, "ada")
		third := newHouseWith(t, server.Tuning{}, b)
		third.send(newer).whole().answered(t, "hello")
		third.send(again).whole().answered(t, "hello")
		require.Zero(t, third.asked())
	})
}

func TestKey_AnAnswerTooLargeToBeLeftStaysWhereItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, first, second := owners(t, server.Tuning{})
		noise := []string{random(t, server.LeftOfUser), random(t, server.LeftOfUser), random(t, server.LeftOfUser)}
		first.next(says(noise...))
		first.send(again).whole().answered(t, noise...)
		b.moves(t, first, "ada")
		first.send(again).whole().answered(t, noise...)
		require.Equal(t, 1, first.asked())
		b.moves(t, first, "ada")
		second.send(again).whole().refused(t, http.StatusConflict)
	})
}

func TestKey_WhoOnlyReadsLeavesNothingAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, first, second := owners(t, server.Tuning{})
		first.send(again).whole().answered(t, "hello")
		b.moves(t, first, "ada")
		second.send(again).whole().answered(t, "hello")
		left, _ := second.server.HandOver(userID("ada"), b.claim)
		require.Nil(t, left)
	})
}

func TestKey_WhileItIsNotKnownWhetherItWasUsedNothingIsRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, first, second := owners(t, server.Tuning{})
		first.send(again).whole().answered(t, "hello")
		b.moves(t, first, "ada")
		left := b.left[userID("ada")]
		unclear := func(why string) {
			t.Helper()
			r := second.send(again).whole()
			require.Contains(t, r.refused(t, http.StatusServiceUnavailable), "can't be told now", why)
			require.NotEmpty(t, r.header.Get(api.HeaderNotStarted))
		}
		b.err = errSecret
		unclear("Redis is away")
		second.send(ask{}).whole().answered(t, "hello")
		b.err = nil
		b.left[userID("ada")] = left[1:]
		unclear("it was changed")
		b.left[userID("ada")] = left
		second.send(again).whole().answered(t, "hello")
		require.Equal(t, 1, second.asked())
		b.claim = ""
		require.Equal(t, http.StatusMisdirectedRequest, second.send(again).whole().status, "it was lost meanwhile")
	})
}

func TestKey_AnswersAreDeletedWithTheConversations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, first, second := owners(t, server.Tuning{})
		first.send(again).whole().answered(t, "hello")
		b.moves(t, first, "ada")
		second.send(ask{key: "new"}).whole().answered(t, "hello")
		second.deletes = func(context.Context, *api.Request) (int, error) { return 1, nil }
		forget := ask{path: api.PathDelete}
		b.err = errSecret
		require.Contains(t, second.send(forget).whole().refused(t, http.StatusServiceUnavailable), "not all could be deleted")
		b.err = nil
		require.Equal(t, http.StatusOK, second.send(forget).whole().status)
		require.Empty(t, b.left)
		for range 2 {
			for _, key := range []string{again.key, "new"} {
				second.send(ask{key: key}).whole().refused(t, http.StatusConflict)
			}
			b.moves(t, second, "ada")
			second = newHouseWith(t, server.Tuning{}, b)
		}
	})
}

// lapses has another instance be the users' owner from here on, without a word of the one before.
func (b *between) lapses() { b.claim += "+" }

func TestKey_WhatWasDeletedElsewhereIsNotAnsweredByAnOwnerOfBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, first, second := owners(t, server.Tuning{})
		first.send(again).whole().answered(t, "hello")
		b.lapses()
		second.deletes = func(context.Context, *api.Request) (int, error) { return 1, nil }
		require.Equal(t, http.StatusOK, second.send(ask{path: api.PathDelete}).whole().status)
		b.lapses()
		first.send(again).whole().refused(t, http.StatusConflict)
	})
}

func TestKey_WhatNoOwnerOfBeforeKnewOfIsHandedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, first, second := owners(t, server.Tuning{})
		second.send(ask{key: "soon expired"}).whole().answered(t, "hello")
		time.Sleep(4 * time.Minute)
		b.lapses()
		first.send(again).whole().answered(t, "hello")
		b.lapses()
		time.Sleep(time.Minute)
		second.send(ask{key: "other"}).whole().answered(t, "hello")
		b.moves(t, second, "ada")
		time.Sleep(5*time.Minute + 30*time.Second)
		first.send(again).whole().refused(t, http.StatusConflict)
		b.moves(t, first, "ada")
		second = newHouseWith(t, server.Tuning{}, b)
		second.send(again).whole().refused(t, http.StatusConflict)
	})
}

func TestDelete_WhatStillRunsIsNotKeptEither(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, h, _ := owners(t, server.Tuning{})
		h.deletes = func(context.Context, *api.Request) (int, error) { return 1, nil }
		ended := h.send(ask{more: finish}).whole().header.Get(api.HeaderTurn)
		h.resume(ended, 0).whole().answered(t, "hello")
		keyed, other := h.next(hangs), h.next(hangs)
		c, d := h.send(again), h.send(ask{more: finish})
		synctest.Wait()
		require.Equal(t, http.StatusOK, h.send(ask{path: api.PathDelete}).whole().status)
		keyed.stop()
		other.stop()
		for _, running := range []*client{c, d} {
			r := running.whole()
			require.Equal(t, http.StatusOK, r.status, "its own client has it to its end")
			h.resume(r.header.Get(api.HeaderTurn), 0).whole().refused(t, http.StatusNotFound)
		}
		h.resume(ended, 0).whole().refused(t, http.StatusNotFound)
		h.send(again).whole().refused(t, http.StatusConflict)
	})
}

// random returns n letters that can't be compressed much.
func random(t *testing.T, n int) string {
	t.Helper()
	bytes := make([]byte, n/2+1)
	_, _ = rand.Read(bytes)
	return hex.EncodeToString(bytes)[:n]
}
