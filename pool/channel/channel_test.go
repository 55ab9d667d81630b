package channel

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

var ada, bob = User{1}, User{2}

func said(text string) Event {
	return Event{Source: "worker", Payload: []byte(`{"type":"assistant","text":"` + text + `"}`)}
}

func partial(text string) Event {
	e := said(text)
	e.Partial = true
	return e
}

// got is what a reader is given within a second: texts, and the names of other events.
func got(t *testing.T, r *Reader) (all []string, numbers []int64) {
	t.Helper()
	for {
		frames, err := r.Next(t.Context(), time.Second)
		require.NoError(t, err)
		if len(frames) == 0 {
			return all, numbers
		}
		for _, f := range frames {
			name, number := shown(t, string(f))
			all = append(all, name)
			if number != 0 {
				numbers = append(numbers, number)
			}
		}
	}
}

func shown(t *testing.T, frame string) (name string, number int64) {
	t.Helper()
	require.True(t, strings.HasSuffix(frame, "\n\n"), frame)
	if id, isLong := strings.CutPrefix(frame, "id: "); isLong && len(frame) > 1<<16 {
		digits, _, _ := strings.Cut(id, "\n")
		number, err := strconv.ParseInt(digits, 10, 64)
		require.NoError(t, err)
		return "long", number
	}
	if len(frame) > 1<<16 {
		return "(long)", 0
	}
	_, data, _ := strings.Cut(strings.TrimSpace(frame), "data: ")
	var event struct {
		Sequence int64             `json:"sequence_num"`
		Payload  map[string]string `json:"payload"`
	}
	require.NoError(t, json.Unmarshal([]byte(data), &event), frame)
	switch {
	case strings.Contains(frame, "event: client_event\n"):
		require.Contains(t, frame, fmt.Sprintf("id: %d\n", event.Sequence))
		return event.Payload["text"], event.Sequence
	case strings.Contains(frame, "event: ephemeral_event\n"):
		return "(" + event.Payload["text"] + ")", 0
	}
	_, after, _ := strings.Cut(frame, "event: ")
	name, _, _ = strings.Cut(after, "\n")
	return name, 0
}

func begin(t *testing.T, s *Logs, user User) *Log {
	t.Helper()
	l, err := s.Begin(user)
	require.NoError(t, err)
	return l
}

func read(t *testing.T, l *Log, after int64) *Reader {
	t.Helper()
	r, err := l.Read(after)
	require.NoError(t, err)
	t.Cleanup(r.Close)
	return r
}

func TestLog_EveryReaderGetsEveryEventOnceAndInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(1 << 30)
		l := begin(t, s, ada)
		first := read(t, l, 0)
		l.Append(said("a"), partial("b"), said("c"))
		second := read(t, l, 0)
		l.Append(partial("d"))
		l.Tell("delivery_update", json.RawMessage(`{}`))
		l.Append(said("e"))
		texts, numbers := got(t, first)
		require.Equal(t, []string{"a", "(b)", "c", "(d)", "delivery_update", "e"}, texts)
		require.Equal(t, []int64{l.first, l.first + 1, l.first + 2}, numbers)
		texts, _ = got(t, second)
		require.Equal(t, []string{"a", "c", "(d)", "delivery_update", "e"}, texts, "what needn't be kept isn't told again")
		third := read(t, l, numbers[1])
		texts, _ = got(t, third)
		require.Equal(t, []string{"e"}, texts)
		texts, _ = got(t, third)
		require.Empty(t, texts)
	})
}

func TestLog_AReaderIsWokenByWhatComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := begin(t, New(1<<30), ada)
		r := read(t, l, 0)
		time.AfterFunc(time.Minute, func() { l.Append(said("late")) })
		began := time.Now()
		frames, err := r.Next(t.Context(), time.Hour)
		require.NoError(t, err)
		require.Len(t, frames, 1)
		require.Equal(t, time.Minute, time.Since(began))

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = r.Next(ctx, time.Hour)
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

// A client that has what isn't known here comes from another owner, or from before a log was dropped.
func TestLog_WhatIsMissingIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(1 << 30)
		old := begin(t, s, ada)
		old.Append(said("a"))
		time.Sleep(time.Second)
		l := begin(t, s, ada)
		require.Greater(t, l.first, old.next, "the numbers of a later log are higher")
		require.Less(t, l.first, int64(1)<<53)
		l.Append(said("b"))
		for _, after := range []int64{7, old.first, l.next + 5} {
			texts, _ := got(t, read(t, l, after))
			require.Equal(t, []string{"catch_up_truncated", "b"}, texts, after)
		}
		texts, _ := got(t, read(t, l, l.first-1))
		require.Equal(t, []string{"b"}, texts)
	})
}

func TestLog_ASlowReaderLosesItsPlaceAndNobodyElseAnything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(1 << 30)
		l := begin(t, s, ada)
		slow, fast := read(t, l, 0), read(t, l, 0)
		long := strings.Repeat("x", 1<<20)
		count := 0
		for range 20 {
			l.Append(said(long), partial(long))
			_, numbers := got(t, fast)
			count += len(numbers)
		}
		require.Equal(t, 20, count)
		require.LessOrEqual(t, s.Size(), int64(logBytes+partialBytes+logCost))
		texts, numbers := got(t, slow)
		require.Equal(t, "catch_up_truncated", texts[0])
		require.Equal(t, l.next-1, numbers[len(numbers)-1])
		require.Len(t, texts, 1+len(numbers), "told once")
	})
}

// One line that is longer than a log can't be kept, and isn't passed over in silence.
func TestLog_AnEventThatIsTooLongIsMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := begin(t, New(1<<30), ada)
		r := read(t, l, 0)
		l.Append(said("a"), said(strings.Repeat("x", logBytes)), said("b"))
		texts, _ := got(t, r)
		require.Equal(t, []string{"catch_up_truncated", "b"}, texts)
	})
}

func TestLogs_TheOldestOfAllGivesWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(8 << 20)
		first, second := begin(t, s, ada), begin(t, s, bob)
		long := strings.Repeat("x", 1<<20)
		for range 5 {
			first.Append(said(long))
		}
		for range 6 {
			second.Append(said(long))
			require.LessOrEqual(t, s.Size(), int64(8<<20))
		}
		texts, _ := got(t, read(t, second, 0))
		require.Len(t, texts, 6)
		texts, _ = got(t, read(t, first, 0))
		require.Equal(t, "catch_up_truncated", texts[0])
		require.Len(t, texts, 2)
		first.End()
		second.End()
		require.Zero(t, s.Size())
	})
}

func TestLogs_ThereIsABoundOnHowManyThereAre(t *testing.T) {
	s := New(10 * logCost)
	for range 10 {
		begin(t, s, ada)
	}
	_, err := s.Begin(bob)
	require.ErrorIs(t, err, ErrFull)
}

func TestLogs_EventsAreKeptForAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(1 << 30)
		l := begin(t, s, ada)
		l.Append(said("a"), partial("b"))
		time.Sleep(keepPartial + time.Second)
		s.Expire()
		require.Equal(t, l.kept.size+logCost, s.Size())
		require.False(t, l.Empty())
		time.Sleep(keepFor)
		s.Expire()
		require.True(t, l.Empty())
		require.Equal(t, int64(logCost), s.Size())
	})
}

func TestLogs_AUserHasSoManyReaders(t *testing.T) {
	s := New(1 << 30)
	one, other := begin(t, s, ada), begin(t, s, ada)
	var last *Reader
	for i := range readersOfUser {
		last = read(t, []*Log{one, other}[i%2], 0)
	}
	_, err := one.Read(0)
	require.ErrorIs(t, err, ErrManyReaders)
	read(t, begin(t, s, bob), 0)
	last.Close()
	again, err := one.Read(0)
	require.NoError(t, err)
	again.Close()
	last.log.readers++ // which the test closes again
	s.readers[ada]++
}

func TestReader_DismissedItIsGivenWhatThereIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := begin(t, New(1<<30), ada)
		r := read(t, l, 0)
		l.Append(said("a"))
		r.Dismiss()
		l.Append(said("b"))
		frames, err := r.Next(t.Context(), time.Hour)
		require.NoError(t, err)
		require.Len(t, frames, 1)
		_, err = r.Next(t.Context(), time.Hour)
		require.ErrorIs(t, err, ErrDismissed)

		waiting := read(t, l, l.next-1)
		time.AfterFunc(time.Second, waiting.Dismiss)
		_, err = waiting.Next(t.Context(), time.Hour)
		require.ErrorIs(t, err, ErrDismissed)
	})
}

func TestLog_ItsEndIsItsReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := begin(t, New(1<<30), ada)
		r := read(t, l, 0)
		time.AfterFunc(time.Second, l.End)
		_, err := r.Next(t.Context(), time.Hour)
		require.ErrorIs(t, err, ErrEnded)
		l.Append(said("a"))
		require.Zero(t, l.of.Size())
		_, err = l.Read(0)
		require.ErrorIs(t, err, ErrEnded)
		l.End()
	})
}

func TestLog_TellsForHowLongItHasBeenWatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := begin(t, New(1<<30), ada)
		time.Sleep(40 * time.Second)
		require.Equal(t, 20*time.Second, l.Watched(time.Minute))
		r := read(t, l, 0)
		time.Sleep(time.Hour)
		require.Equal(t, time.Minute, l.Watched(time.Minute))
		r.Close()
		time.Sleep(time.Hour)
		require.Zero(t, l.Watched(time.Minute))
		l.readers++ // which the test closes again
		l.of.readers[ada]++
	})
}
