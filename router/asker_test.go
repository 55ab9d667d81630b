package router

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// slowly answers a question after a second, and keeps how many users each was about.
type slowly struct {
	mu    sync.Mutex // guards sizes
	sizes []int
}

func (s *slowly) ask(ctx context.Context, users []string) ([]string, error) {
	s.mu.Lock()
	s.sizes = append(s.sizes, len(users))
	s.mu.Unlock()
	pause(ctx, time.Second)
	return users, ctx.Err()
}

func TestAsker_QuestionsThatComeMeanwhileGoTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &slowly{}
		k := asker[string]{parallel: 1, script: s.ask}
		for i := range 1 + maxAsked + 10 {
			user := fmt.Sprint("user", i)
			go func() {
				answer, err := k.ask(t.Context(), user)
				assert.NoError(t, err)
				assert.Equal(t, user, answer)
			}()
			synctest.Wait()
		}
		time.Sleep(3 * time.Second)
		synctest.Wait()
		require.Equal(t, []int{1, maxAsked, 10}, s.sizes)
		require.Zero(t, k.asking)
	})
}

func TestAsker_AHangUpCancelsNoOtherQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := asker[string]{parallel: 1, script: new(slowly).ask}
		gone, hangUp := context.WithCancel(t.Context())
		for _, user := range []string{"alone", "together"} {
			go func() {
				_, err := k.ask(gone, user)
				assert.ErrorIs(t, err, context.Canceled)
			}()
			synctest.Wait()
		}
		go func() {
			answer, err := k.ask(t.Context(), "ada")
			assert.NoError(t, err)
			assert.Equal(t, "ada", answer)
		}()
		synctest.Wait()
		hangUp()
		time.Sleep(2 * time.Second)
		synctest.Wait()
	})
}

func TestAsker_AllThatWaitFailAtOnceWhenRedisIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := asker[string]{parallel: 1, script: func(ctx context.Context, _ []string) ([]string, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}}
		began := time.Now()
		first, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var all sync.WaitGroup
		for i := range 3 * maxAsked {
			ctx := t.Context()
			if i == 0 {
				ctx = first
			}
			all.Go(func() {
				_, err := k.ask(ctx, fmt.Sprint("user", i))
				assert.ErrorIs(t, err, context.DeadlineExceeded)
			})
			synctest.Wait()
		}
		all.Wait()
		require.Equal(t, time.Second, time.Since(began))
		require.Zero(t, k.asking)
	})
}

func TestAsker_AnswersAreThoseOfTheUsers(t *testing.T) {
	both(t, func(t *testing.T, client *redis.Client) {
		nodes := map[string]*node{}
		for range 3 {
			n := newNode(t, client, 1000)
			nodes[n.ID()] = n
		}
		fronts := []*Router{newRouter(client), newRouter(client)}
		fronts[0].discover(t.Context())
		var all sync.WaitGroup
		for i := range 50 {
			user := fmt.Sprint("user", i)
			all.Go(func() {
				owner, err := fronts[0].Route(t.Context(), user)
				if !assert.NoError(t, err) {
					return
				}
				again, err := fronts[1].Route(t.Context(), user)
				assert.NoError(t, err)
				assert.Equal(t, owner, again)
				assert.NoError(t, nodes[owner.Instance].Admit(t.Context(), user, false))
				entry := client.Get(t.Context(), ownerKey(user)).Val()
				assert.Contains(t, entry, owner.Instance+" "+nodes[owner.Instance].claimOf(user)+" ")
			})
		}
		all.Wait()
		for _, n := range nodes {
			require.ErrorIs(t, n.Admit(t.Context(), "stranger", false), ErrNotOwner)
		}
	})
}

func (n *node) claimOf(user string) string {
	n.Lease.mu.Lock()
	defer n.Lease.mu.Unlock()
	return n.claims[user].claim
}
