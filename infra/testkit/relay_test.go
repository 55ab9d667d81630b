package testkit_test

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/infra/testkit"
)

// echo serves what sends everything back.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
	return l.Addr().String()
}

func dialled(t *testing.T, r *testkit.Relay) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", r.Addr())
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// says sends a text and reports whether it comes back soon.
func says(t *testing.T, conn net.Conn, text string) bool {
	t.Helper()
	_, err := io.WriteString(conn, text)
	if err != nil {
		return false
	}
	return hears(t, conn, text, 300*time.Millisecond)
}

func hears(t *testing.T, conn net.Conn, text string, patience time.Duration) bool {
	t.Helper()
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(patience)))
	got := make([]byte, len(text))
	_, err := io.ReadFull(conn, got)
	return err == nil && string(got) == text
}

func TestRelay_HeldItKeepsEverythingForLater(t *testing.T) {
	r, err := testkit.NewRelay(echo(t))
	require.NoError(t, err)
	defer r.Close()
	before := dialled(t, r)
	_, err = io.WriteString(before, "one")
	require.NoError(t, err)
	require.True(t, hears(t, before, "one", 10*time.Second))
	r.Hold()
	require.False(t, says(t, before, "two"))
	meanwhile := dialled(t, r)
	require.False(t, says(t, meanwhile, "three"))
	r.Mend()
	require.True(t, hears(t, before, "two", 10*time.Second))
	require.True(t, hears(t, meanwhile, "three", 10*time.Second))
}

func TestRelay_ResetBreaksConnectionsAndAimSendsNewOnesElsewhere(t *testing.T) {
	r, err := testkit.NewRelay("127.0.0.1:1")
	require.NoError(t, err)
	defer r.Close()
	r.Aim(echo(t))
	conn := dialled(t, r)
	_, err = io.WriteString(conn, "one")
	require.NoError(t, err)
	require.True(t, hears(t, conn, "one", 10*time.Second))
	r.Reset(true)
	_, err = conn.Read(make([]byte, 1))
	require.Error(t, err)
	_, err = dialled(t, r).Read(make([]byte, 1))
	require.Error(t, err)
	r.Mend()
	conn = dialled(t, r)
	_, err = io.WriteString(conn, "two")
	require.NoError(t, err)
	require.True(t, hears(t, conn, "two", 10*time.Second))
}
