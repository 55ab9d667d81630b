package confine

import (
	"bytes"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// newConfined is a bench whose children are confined, under uids if the tests run as root.
func newConfined(t testing.TB, connect ...uint16) *bench {
	logger := slog.New(slog.NewTextHandler(io.Discard, nil))
	c := &Confinement{Connect: connect}
	if os.Geteuid() == 0 {
		var err error
		c.UIDs, err = LockUIDs(2_000_000_000, 100, logger)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, c.UIDs.Close()) })
	}
	return newBenchWith(t, c)
}

func (b *bench) confined(text string) string {
	w, err := b.NewWorkspace("work")
	require.NoError(b.t, err)
	c := b.start(Spec{Path: "/bin/sh", Args: []string{"-c", text}, Env: []string{"PATH=/usr/bin:/bin"}, Workspace: w, Dir: filepath.Join(w, "work")})
	out, err := io.ReadAll(c.Stdout)
	require.NoError(b.t, err)
	requireDone(b.t, c)
	return strings.TrimSpace(string(out) + c.StderrTail())
}

func TestX(t *testing.T) {
	b := newConfined(t)
	t.Log(b.confined("id; pwd; grep -E 'Cap|Seccomp|NoNew|Groups' /proc/$$/status; ulimit -a; ls /tmp; cat /proc/1/cmdline; ls /proc; echo hi > f; ls -lan .; cat /dev/null; env"))
	start := time.Now()
	for range 20 {
		b.confined("true")
	}
	t.Log(time.Since(start) / 20)
	_ = bytes.NewBuffer
}

func TestP(t *testing.T) {
	b := newConfined(t)
	start := time.Now()
	r, err := b.Probe(t.Context(), "/bin/sh")
	t.Log(time.Since(start), r, err, r.Missing())
}
