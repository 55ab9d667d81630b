package pool_test

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"claudepool/infra/archive"
)

// scripted is an archive that saves as it is told to, until it is told otherwise.
type scripted struct {
	archive.Store
	save    atomic.Pointer[saver] // nil: as usual
	delete  atomic.Pointer[error] // nil: as usual
	asked   chan struct{}         // told of every save
	saves   atomic.Int64
	deletes atomic.Int64
}

type saver func(ctx context.Context, store func() error) error

func newScripted(store archive.Store, save saver) *scripted {
	s := &scripted{Store: store, asked: make(chan struct{}, 100)}
	s.save.Store(&save)
	return s
}

func (s *scripted) Save(ctx context.Context, owner string, r archive.Record, body []byte) error {
	s.saves.Add(1)
	s.asked <- struct{}{}
	store := func() error { return s.Store.Save(context.WithoutCancel(ctx), owner, r, body) }
	if save := s.save.Load(); save != nil {
		return (*save)(ctx, store)
	}
	return store()
}

func (s *scripted) Delete(ctx context.Context, owner, name string) error {
	s.deletes.Add(1)
	if err := s.delete.Load(); err != nil {
		return *err
	}
	return s.Store.Delete(ctx, owner, name)
}

var errAway = errors.New("away")

// savers are the ways in which a save can be under way when its conversation is deleted.
var savers = map[string]saver{
	"never begins":                func(ctx context.Context, _ func() error) error { <-ctx.Done(); return ctx.Err() },
	"is stored as it is given up": func(ctx context.Context, store func() error) error { <-ctx.Done(); return store() },
	"is stored and nobody is told": func(ctx context.Context, store func() error) error {
		<-ctx.Done()
		return errors.Join(store(), errAway)
	},
	"was stored and nobody is told": func(ctx context.Context, store func() error) error {
		err := store()
		<-ctx.Done()
		return errors.Join(err, ctx.Err())
	},
	"was stored": func(ctx context.Context, store func() error) error {
		err := store()
		<-ctx.Done()
		return err
	},
	"is to be tried again": func(context.Context, func() error) error { return errAway },
	"is to be tried again, though it was stored": func(_ context.Context, store func() error) error {
		return errors.Join(store(), errAway)
	},
	"is refused for good": func(context.Context, func() error) error { return archive.ErrPermanent },
}

func TestForget_WinsOverWhatIsBeingSaved(t *testing.T) {
	t.Parallel()
	for name, save := range savers {
		for _, turns := range []int{1, 2} { // one to be saved, or one more that waits behind it
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				store, dir := kept(t)
				way := newScripted(store, save)
				s := newScriptedService(t, keepingIn(way))
				session := fields{"session_id": uuid.NewString()}
				s.ask("ada", "one", session).text(t)
				<-way.asked
				if turns == 2 {
					s.ask("ada", "two", session).text(t)
				}
				require.Equal(t, `{"deleted":1}`, s.forget("ada", ""))
				require.Empty(t, records(t, dir))
				saves := way.saves.Load()
				way.save.Store(nil)
				s.ask("ada", "three", session).text(t)
				require.Equal(t, []string{"user: three"}, s.lastCall().Messages())
				s.ask("ada", "four", session).text(t)
				s.pool.Close()
				require.Len(t, records(t, dir), 1)
				require.Greater(t, way.saves.Load(), saves)
				next := newScriptedService(t, keepingIn(store))
				next.ask("ada", "five", session).text(t)
				require.Len(t, next.lastCall().Messages(), 5, "what is begun anew under the same id is kept")
			})
		}
	}
}

func TestForget_ADeletionThatFailsLeavesTheConversationAndGoesOnSavingIt(t *testing.T) {
	store, dir := kept(t)
	way := newScripted(store, savers["is to be tried again"])
	s := newScriptedService(t, keepingIn(way))
	s.ask("ada", "one", nil).text(t)
	<-way.asked
	way.delete.Store(&errAway)
	require.Contains(t, s.forget("ada", ""), "try again")
	way.save.Store(nil)
	saved(t, dir, 1)
	refused := archive.ErrPermanent
	way.delete.Store(&refused)
	require.NotContains(t, s.forget("ada", ""), "try again", "it is of no use")
	s.ask("ada", "two", nil).text(t)
	require.Len(t, s.lastCall().Messages(), 3)
	way.delete.Store(nil)
	require.Equal(t, `{"deleted":1}`, s.forget("ada", ""))
	require.Empty(t, records(t, dir))
}

// Of what only the archive has there is nothing here to go on saving.
func TestForget_ADeletionThatFailsOfWhatOnlyTheArchiveHasHurtsNobody(t *testing.T) {
	store, dir := kept(t)
	first := newScriptedService(t, keepingIn(store))
	first.ask("ada", "one", nil).text(t)
	saved(t, dir, 1)
	first.pool.Close()
	way := newScripted(store, nil)
	way.save.Store(nil)
	s := newScriptedService(t, keepingIn(way))
	way.delete.Store(&errAway)
	require.Contains(t, s.forget("ada", ""), "try again")
	require.Equal(t, "reply to: two", s.ask("ada", "two", nil).text(t))
	require.Len(t, s.lastCall().Messages(), 3)
	way.delete.Store(nil)
	require.Equal(t, `{"deleted":1}`, s.forget("ada", ""))
	require.Empty(t, records(t, dir))
}

func TestSave_WhatIsRefusedForGoodIsNotTriedAgainAndKeepsNobodyFromRotating(t *testing.T) {
	store, dir := kept(t)
	way := newScripted(store, savers["is refused for good"])
	s := newScriptedService(t, keepingIn(way))
	began := s.ask("ada", "one", nil)
	began.text(t)
	<-way.asked
	moved := s.ask("new", "two", replacing("ada", "new", nil))
	require.Equal(t, http.StatusOK, moved.status, moved.body)
	require.Equal(t, began.pid, moved.pid)
	require.Len(t, s.lastCall().Messages(), 3)
	way.save.Store(nil)
	s.ask("new", "three", nil).text(t)
	saved(t, dir, 1) // the next turn is tried
	s.pool.Close()
	require.LessOrEqual(t, way.saves.Load(), int64(4), "once for each turn, and once when it moved")
}

func TestInherit_ADamagedConversationStaysAndTheOthersMove(t *testing.T) {
	store, dir := kept(t)
	first := newScriptedService(t, keepingIn(store))
	damaged, whole := fields{"session_id": uuid.NewString()}, fields{"session_id": uuid.NewString()}
	first.ask("ada", "one", damaged).text(t)
	saved(t, dir, 1)
	damage(t, records(t, dir)[0])
	first.ask("ada", "two", whole).text(t)
	first.pool.Close()

	s := newScriptedService(t, keepingIn(store))
	r := s.ask("new", "three", replacing("ada", "new", whole))
	require.Equal(t, http.StatusOK, r.status, r.body)
	require.Len(t, s.lastCall().Messages(), 3)
	require.Equal(t, `{"deleted":1}`, s.forget("ada", ""), "the damaged one")
	require.Eventually(t, func() bool { return len(records(t, dir)) == 1 }, time.Minute, 10*time.Millisecond)
}
