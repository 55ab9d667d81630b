package pool_test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A tenant holds as many connections to its port of the broker as there are ports to connect from: the others' next
// processes need one to listen at, and some to connect from.
func TestHostile_ATenantThatUsesUpAllPortsCostsNobodyElseAny(t *testing.T) {
	t.Parallel()
	if os.Getenv(inNamespace) == "" {
		runInNamespace(t)
		return
	}
	upLoopback(t)
	s := newScene(t, confinement(t), nil, nil)
	const ports = 1000 // fewer than one process may have files
	require.NoError(t, os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("40000 40999"), 0o600))
	ctx, hangUp := context.WithCancel(t.Context())
	defer hangUp()
	over := make(chan struct{})
	go func() {
		defer close(over)
		if response, err := s.start(ctx, "bob", `[[tool=Bash {"command":"./tool ports ${ANTHROPIC_BASE_URL#http://}"}]]`,
			nil); err == nil {
			read(response)
		}
	}()
	held := 0
	require.Eventually(t, func() bool {
		text, _ := os.ReadFile(filepath.Join(s.attacker.workspace, "work", "held"))
		held, _ = strconv.Atoi(string(text))
		return held > 0
	}, time.Minute, 10*time.Millisecond)
	require.Greater(t, held, ports*9/10, "the control: it has them")

	for _, user := range []string{"eve", "fay"} {
		require.Equal(t, "reply to: hello", s.ask(user, "hello", nil).text(t))
	}
	require.Equal(t, s.victim.pid, s.ask("ada", "still here", nil).pid)
	hangUp()
	<-over
}
