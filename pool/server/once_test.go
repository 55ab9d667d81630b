package server

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// size is how many ids are remembered.
func (o *dedup) size() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.young) + len(o.old)
}

func TestOnce_IsRememberedForLongEnoughAndNotForEver(t *testing.T) {
	now := time.Now()
	o := newDedup()
	o.now, o.since = func() time.Time { return now }, now
	pass := func(id string) error {
		err := o.claim(id)
		if err == nil {
			o.begin(id)
		}
		return err
	}
	for i := range 1000 {
		require.NoError(t, pass(fmt.Sprint("early ", i)))
	}
	now = now.Add(seenFor + time.Second)
	require.NoError(t, pass("later"))
	for i := range 1000 {
		require.Error(t, pass(fmt.Sprint("early ", i)), "so long at least")
	}
	now = now.Add(seenFor + time.Second)
	require.NoError(t, pass("even later"))
	now = now.Add(seenFor + time.Second)
	require.NoError(t, pass("at last"))
	require.LessOrEqual(t, o.size(), 3)
}

func TestOnce_HasABound(t *testing.T) {
	o := newDedup()
	o.max = 1000
	require.NoError(t, o.claim("waits"))
	for i := range 10_000 {
		id := fmt.Sprint(i)
		require.NoError(t, o.claim(id))
		o.begin(id)
		require.Error(t, o.claim(id))
		require.LessOrEqual(t, o.size(), 1000)
		if i >= 400 {
			require.Error(t, o.claim(fmt.Sprint(i-400)), "the last of them are all there")
		}
	}
	o.release("waits")
	require.NoError(t, o.claim("waits"))
	require.Error(t, o.claim("waits"))
	o.release("waits")
	require.NoError(t, o.claim("waits"))
}
