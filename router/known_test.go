package router

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// placing is a Redis that places every user on one of twenty instances.
type placing struct{ Redis }

func (placing) EvalSha(ctx context.Context, _ string, keys []string, _ ...any) *redis.Cmd {
	var answers []any
	for _, key := range keys[3:] {
		if strings.Contains(key, "owner:") {
			n := int(key[len(key)-1]) % 20
			answers = append(answers, []any{"owner", fmt.Sprintf("%016x", n), fmt.Sprintf("10.128.0.%d:8080", n),
				fmt.Sprintf("%064x", n), "1"})
		}
	}
	cmd := redis.NewCmd(ctx)
	cmd.SetVal(answers)
	return cmd
}

// heapOf is how many bytes of heap stay in use for what does makes.
func heapOf(does func()) int64 {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&before)
	does()
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&after)
	return int64(after.HeapAlloc) - int64(before.HeapAlloc)
}

// anID looks as a user's does.
func anID(i int) string { return fmt.Sprintf("%016x", uint64(i)*0x9e3779b97f4a7c15) }

func TestRouter_AHundredThousandKnownUsersTakeLittleMemory(t *testing.T) {
	const users = 100_000
	front, failed := newRouter(placing{}), 0
	took := heapOf(func() {
		for i := range users {
			if _, err := front.claim(t.Context(), anID(i)); err != nil {
				failed++
			}
		}
	})
	require.Zero(t, failed)
	require.Equal(t, users, front.known.users.Len())
	owner, known := front.known.owner(anID(1))
	require.True(t, known)
	require.Equal(t, fmt.Sprintf("10.128.0.%d:8080", int(anID(1)[15])%20), owner.Addr)
	t.Logf("%d bytes a user", took/users)
	require.Less(t, took, int64(users*160))
	require.Less(t, maxKnown*took/users, int64(48<<20), "as many as are remembered")
}

func TestKnown_TheLongestUnusedIsForgotten(t *testing.T) {
	k := newKnown(100)
	for i := range 200 {
		k.keep(anID(i), Owner{Instance: "i"})
		k.owner(anID(0))
	}
	require.Equal(t, 100, k.users.Len())
	for user, want := range map[int]bool{0: true, 1: false, 100: false, 101: true, 199: true} {
		_, known := k.owner(anID(user))
		require.Equal(t, want, known, user)
	}
}

func TestKnown_TheFormerOwnerIsTheBestGuess(t *testing.T) {
	k, here := newKnown(8), Owner{Instance: "i", Addr: "a:1"}
	k.keep("ada", here)
	k.markStale("ada", "another")
	owner, known := k.owner("ada")
	require.True(t, known && owner == here, "that another isn't the owner is no news")
	k.markStale("ada", "i")
	_, known = k.owner("ada")
	require.False(t, known)
	owner, known = k.guess("ada")
	require.True(t, known && owner == here)
	k.keep("ada", Owner{Instance: "j", Outage: true})
	owner, known = k.owner("ada")
	require.True(t, known && owner == Owner{Instance: "j"})
	k.forget("ada")
	_, known = k.guess("ada")
	require.False(t, known)
}

func TestKnown_UsersWithLongNamesAreNotTakenForEachOther(t *testing.T) {
	k := newKnown(8)
	for i := range 3 {
		k.keep(fmt.Sprint("a user with a long name ", i), Owner{Instance: fmt.Sprint(i)})
	}
	for i := range 3 {
		owner, known := k.owner(fmt.Sprint("a user with a long name ", i))
		require.True(t, known)
		require.Equal(t, fmt.Sprint(i), owner.Instance)
	}
}
