package api

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

const megabyte = 1 << 20

func read(t *testing.T, i *Intake, size int64) *Body {
	t.Helper()
	body, err := i.Read(strings.NewReader(strings.Repeat("x", int(size))), -1, nil)
	require.NoError(t, err)
	require.Len(t, body.Bytes, int(size))
	return body
}

func TestIntake_OneByteTooManyIs413(t *testing.T) {
	i := NewIntake(1000, 0)
	read(t, i, 1000).Release()
	for _, length := range []int64{-1, 1000, 1001} { // whatever was said of it
		_, err := i.Read(strings.NewReader(strings.Repeat("x", 1001)), length, nil)
		e := requireClientError(t, err)
		require.Equal(t, http.StatusRequestEntityTooLarge, e.Status)
		require.Equal(t, "request_too_large", e.Type)
	}
}

func TestIntake_ALengthThatIsWrongDoesNoHarm(t *testing.T) {
	i := NewIntake(megabyte, 0)
	for _, length := range []int64{-1, 0, 3, 5, 100, megabyte} {
		body, err := i.Read(strings.NewReader("hello"), length, nil)
		require.NoError(t, err)
		require.Equal(t, "hello", string(body.Bytes))
		body.Release()
	}
}

type broken struct{ err error }

func (b broken) Read([]byte) (int, error) { return 0, b.err }

func TestIntake_ABodyThatBreaksOffIsInvalid(t *testing.T) {
	_, err := NewIntake(100, 0).Read(broken{errors.New("cut: " + token)}, -1, nil)
	require.NotContains(t, requireClientError(t, err).Message, token)
}

func TestIntake_ALargeBodyThatFindsNoRoomIsTurnedAwayAtOnceAndSmallOnesAreNot(t *testing.T) {
	const largest = 8 * megabyte
	i := NewIntake(largest, 0)
	first := read(t, i, largest)
	_, err := i.Read(strings.NewReader(strings.Repeat("x", megabyte)), -1, nil)
	e := requireClientError(t, err)
	require.Equal(t, http.StatusTooManyRequests, e.Status)
	require.NotZero(t, e.RetryAfter)
	for range 16 {
		read(t, i, smallBody-1)
	}
	first.Release()
	first.Release() // which gives no more back
	second := read(t, i, largest)
	_, err = i.Read(strings.NewReader(strings.Repeat("x", megabyte)), -1, nil)
	require.Error(t, err)
	second.Release()
}

func TestIntake_SmallBodiesHaveABoundToo(t *testing.T) {
	i := NewIntake(8*megabyte, 0)
	var held []*Body
	for range 16 + 32 { // and then what large ones leave
		held = append(held, read(t, i, smallBody-1))
	}
	_, err := i.Read(strings.NewReader(strings.Repeat("x", smallBody-1)), -1, nil)
	require.Equal(t, http.StatusTooManyRequests, requireClientError(t, err).Status)
	for _, body := range held {
		body.Release()
	}
	read(t, i, smallBody-1).Release()
}

// What was turned away or broke off has given back what it held.
func TestIntake_NothingStaysHeldOfWhatFailed(t *testing.T) {
	i := NewIntake(megabyte, 0)
	for range 10 {
		_, err := i.Read(io.MultiReader(strings.NewReader(strings.Repeat("x", megabyte/2)), broken{io.ErrUnexpectedEOF}), -1,
			nil)
		require.Error(t, err)
		_, err = i.Read(strings.NewReader(strings.Repeat("x", 2*megabyte)), -1, nil)
		require.Error(t, err)
	}
	read(t, i, megabyte).Release()
	require.True(t, i.large.TryAcquire(megabyte+1))
	require.True(t, i.small.TryAcquire(16*smallBody))
}

// slow is a connection that gives one byte at a time, each an hour after the other.
type slow struct{ now, due time.Time }

func (s *slow) Read(p []byte) (int, error) {
	s.now = s.now.Add(time.Hour)
	if s.now.After(s.due) {
		return 0, os.ErrDeadlineExceeded
	}
	return copy(p, "x"), nil
}

func TestIntake_ABodyThatComesTooSlowlyIs408(t *testing.T) {
	s := &slow{now: time.Now()}
	_, err := NewIntake(megabyte, 0).Read(s, -1, func(due time.Time) { s.due = due })
	require.Equal(t, http.StatusRequestTimeout, requireClientError(t, err).Status)
	require.WithinDuration(t, time.Now().Add(bodyGrace), s.due, time.Second)
}

func TestIntake_AFastBodyGetsMoreTimeAsItComes(t *testing.T) {
	var due time.Time
	began := time.Now()
	_, err := NewIntake(megabyte, 0).Read(bytes.NewReader(make([]byte, megabyte)), -1, func(d time.Time) { due = d })
	require.NoError(t, err)
	require.Greater(t, due.Sub(began), bodyGrace+30*time.Second)
}

// What is small as text must not be large in memory: each of these is refused, or built of no more than its text.
func TestDecode_ABodyCostsHardlyMoreThanItsText(t *testing.T) {
	const size = megabyte
	fill := func(head, one, tail string) []byte {
		n := (size - len(head) - len(tail)) / len(one)
		return []byte(head + strings.TrimSuffix(strings.Repeat(one, n), ",") + tail)
	}
	credential := `{"api_key":"sk-ant-api03-abcdefgh",`
	for name, body := range map[string][]byte{
		"empty messages": fill(credential+`"messages":[`, `{},`, `]}`),
		"null messages":  fill(credential+`"messages":[`, `null,`, `]}`),
		"empty blocks":   fill(credential+`"messages":[{"role":"user","content":[`, `{},`, `]}]}`),
		"small blocks":   fill(credential+`"messages":[{"role":"user","content":[`, `{"type":"text","text":"a"},`, `]}]}`),
		"system blocks":  fill(credential+`"system":[`, `{},`, `],"messages":[{"role":"user","content":"a"}]}`),
		"arguments": fill(credential+`"mcp_servers":{"a":{"command":"a","args":[`, `"",`,
			`]}},"messages":[{"role":"user","content":"a"}]}`),
		"unknown fields": fill(credential, `"x":0,`, `,"messages":[{"role":"user","content":"a"}]}`),
		"one text":       fill(credential+`"messages":[{"role":"user","content":"`, `aaaaaaaa`, `"}]}`),
		"deep input": fill(credential+`"messages":[{"role":"user","content":"a"},{"role":"assistant",`+
			`"content":[{"type":"tool_use","input":[`,
			`0,`, `]}]},{"role":"user","content":"a"}]}`),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, _ = Decode(body)
		runtime.ReadMemStats(&after)
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(size/8), name)
	}
}

// What the CLI gets is made of a body as a whole, however many values stand in it.
func TestReading_AMessageCostsAFewTimesItsText(t *testing.T) {
	const head = `{"api_key":"sk-ant-api03-abcdefgh","messages":[{"role":"user","content":[{"type":"text","text":"a"},` +
		`{"type":"search_result","content":["\u0061"`
	body := head + strings.Repeat(",0", (megabyte-len(head))/2-3) + `]}]}]}`
	req, err := Decode([]byte(body))
	require.NoError(t, err)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	message := req.Readings()[0].Message()
	runtime.ReadMemStats(&after)
	require.Greater(t, len(message), megabyte/2)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(12*megabyte))
}

func TestIntake_LargeBodiesAreDecodedOneAfterTheOtherAndSmallOnesMeanwhile(t *testing.T) {
	i := NewIntake(4*megabyte, 0)
	large, another, small := read(t, i, smallBody+1), read(t, i, smallBody+1), read(t, i, smallBody)
	_, err := large.Decode(t.Context(), func([]byte) (*Request, error) {
		_, err := small.Decode(t.Context(), func([]byte) (*Request, error) { return nil, nil })
		require.NoError(t, err)
		gone, cancel := context.WithCancelCause(t.Context())
		cancel(io.ErrClosedPipe)
		_, err = another.Decode(gone, func([]byte) (*Request, error) { panic("two at a time") })
		return nil, err
	})
	require.ErrorIs(t, err, io.ErrClosedPipe)
	_, err = another.Decode(t.Context(), func([]byte) (*Request, error) { return nil, nil })
	require.NoError(t, err)
}

// Large bodies wait for each other, as each costs a processor time that the small ones of others need; a single one,
// and small ones, don't wait.
func TestIntake_LargeBodiesHaveAPaceTogetherAndSmallOnesNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const largest = 8 * megabyte
		i := NewIntake(largest, 1<<40)
		began := time.Now()
		read(t, i, largest).Release()
		require.Zero(t, time.Since(began), "the only one")
		for range 4 {
			read(t, i, largest).Release()
		}
		require.InDelta(t, 4*largest/float64(largeRate), time.Since(began).Seconds(), 0.05)
		began = time.Now()
		for range 100 {
			read(t, i, smallBody).Release()
		}
		require.Zero(t, time.Since(began))
	})
}
