package cli

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// long is a line of so many bytes.
func long(bytes int) string {
	const frame = `{"type":"stream_event","x":""}`
	return `{"type":"stream_event","x":"` + strings.Repeat("x", bytes-len(frame)) + `"}`
}

// flood has the CLI say a line again and again until it dies, and returns how often it could, which may be asked when
// nothing moves.
func (c *fakeCLI) flood(line string) (count func() int) {
	var n atomic.Int64
	go func() {
		for {
			if _, err := c.stdout.Write([]byte(line + "\n")); err != nil {
				return
			}
			n.Add(1)
		}
	}()
	return func() int {
		synctest.Wait()
		return int(n.Load())
	}
}

// unread is an Emit that doesn't return before goOn is closed or its context is done.
func unread(goOn <-chan struct{}) Emit {
	return func(ctx context.Context, _ [][]byte, _ *Outcome) error {
		select {
		case <-goOn:
		case <-ctx.Done():
		}
		return nil
	}
}

func TestRun_AClientThatDoesntReadMakesItsProcessWaitAndNoOther(t *testing.T) {
	bubble(t, func(t *testing.T, c *fakeCLI) {
		goOn := make(chan struct{})
		r := c.begin(t.Context(), unread(goOn))
		require.False(t, c.proc.Stalled())
		r.start()
		const size, lines = 100 << 10, 100
		said := make(chan struct{})
		go func() {
			defer close(said)
			for range lines {
				c.say(long(size))
			}
			r.result(success)
		}()
		synctest.Wait()
		require.True(t, c.proc.Stalled())
		require.Less(t, c.proc.turn.size, queueBytes+1)
		other := newCLI(t, c.grants)
		other.listen()
		other.answer()
		require.True(t, r.runs())
		close(goOn)
		require.NoError(t, r.end())
		<-said
		require.Len(t, r.lines, lines+2, "nothing is lost")
		require.False(t, c.proc.Stalled())
	})
}

func TestRun_AHangUpFreesAProcessThatWaits(t *testing.T) {
	bubble(t, func(t *testing.T, c *fakeCLI) {
		ctx, hangUp := context.WithCancelCause(t.Context())
		r := c.begin(ctx, unread(nil))
		r.start()
		said := make(chan struct{})
		go func() {
			defer close(said)
			for range 100 {
				c.say(long(100 << 10))
			}
		}()
		synctest.Wait()
		hangUp(errGone)
		began := time.Now()
		<-said
		for range 2 {
			c.grant(c.asked("interrupt"), "{}")
		}
		r.result(interrupted)
		require.Equal(t, errGone, r.end())
		require.Zero(t, time.Since(began))
		require.LessOrEqual(t, len(r.lines), 1+queueBytes/(100<<10), "what was there, at most")
	})
}

func TestRun_ALineLongerThanTheQueuePasses(t *testing.T) {
	bubble(t, func(t *testing.T, c *fakeCLI) {
		line := long(3 * queueBytes)
		r := c.begin(t.Context(), nil)
		r.start()
		c.say(line, event, line)
		r.result(success)
		require.NoError(t, r.end())
		require.Equal(t, []string{initLine, line, event, line, r.resultLine(success)}, r.lines)
	})
}

// A client that reads everything gets no more than a fair share of the machine either.
func TestRun_AFloodIsHeldBackByItsRate(t *testing.T) {
	const mb, burst, rate, seconds = 1 << 20, 4, 1, 10
	limits := func(l *Limits) { l.Burst, l.Rate = burst*mb, rate*mb }
	bubble(t, func(t *testing.T, c *fakeCLI) {
		ctx, hangUp := context.WithCancelCause(t.Context())
		defer hangUp(nil)
		r := c.begin(ctx, nil)
		r.start()
		count := c.flood(long(mb/16 - 1))
		time.Sleep(100 * time.Millisecond)
		require.InDelta(t, burst*16, count(), 40, "all but at once, with the queue and a last batch")
		time.Sleep(seconds * time.Second)
		require.InDelta(t, (burst+seconds*rate)*16, count(), 40)
		began := time.Now()
		hangUp(errGone)
		for range 2 {
			id := c.asked("interrupt")
			go c.grant(id, "{}")
		}
		go r.result(interrupted)
		require.Equal(t, errGone, r.end())
		require.Zero(t, time.Since(began), "an interrupt doesn't wait")
		c.die()
	}, limits)
}

// Only an API that says nothing is silent, or a CLI that doesn't begin.
func TestRun_IsEndedBySilence(t *testing.T) {
	const silence = 10 * time.Second
	limits := func(l *Limits) { l.Silence = silence }
	for name, want := range map[string]struct {
		begins func(*run)
		ends   bool
	}{
		"not taken up":           {func(*run) {}, true},
		"not begun":              {func(r *run) { r.lifecycle("started") }, true},
		"a call under way":       {func(r *run) { r.start(); r.c.call() }, true},
		"a call without an init": {func(r *run) { r.lifecycle("started"); r.c.call() }, true},
		"a quiet tool":           {func(r *run) { r.start() }, false},
		"a call that was":        {func(r *run) { r.start(); r.c.call()() }, false},
		"noise now and then": {func(r *run) {
			r.start()
			r.c.call()
			for range 20 {
				time.Sleep(silence - time.Second)
				r.c.say(noise[0])
			}
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, c *fakeCLI) {
				time.Sleep(time.Hour) // that it was idle doesn't count
				began := time.Now()
				r := c.begin(t.Context(), nil)
				want.begins(r)
				if !want.ends {
					c.idle()
					r.result(success)
					require.NoError(t, r.end())
					return
				}
				id := c.asked("interrupt")
				require.WithinDuration(t, began.Add(silence), time.Now(), 2*watchInterval)
				c.grant(id, "{}")
				r.start()
				c.grant(c.asked("interrupt"), "{}")
				r.result(interrupted)
				require.Equal(t, ErrSilence, r.end())
			}, limits)
		})
	}
}

func TestRun_AQuietToolAndAClientThatDoesntReadAreNoSilence(t *testing.T) {
	limits := func(l *Limits) { l.Silence = time.Second }
	for name, lines := range map[string][]string{
		"tool":          nil,
		"many lines":    {long(600 << 10), long(600 << 10), event},
		"one long line": {long(100 << 10), long(queueBytes), event},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, c *fakeCLI) {
				goOn := make(chan struct{})
				r := c.begin(t.Context(), unread(goOn))
				r.start()
				synctest.Wait()
				if lines != nil {
					c.call()
				}
				go func() {
					c.say(lines...)
					<-goOn
					r.result(success)
				}()
				time.Sleep(time.Minute)
				c.idle()
				require.Equal(t, lines != nil, c.proc.Stalled())
				close(goOn)
				require.NoError(t, r.end())
				require.Len(t, r.lines, len(lines)+2)
			}, limits)
		})
	}
}
