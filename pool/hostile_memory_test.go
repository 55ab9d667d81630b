package pool_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"claudepool/infra/testkit/need"
	"claudepool/pool"
)

// Whoever holds far more memory than a process may loses its turn, whatever the way it is held, or is denied that way;
// and nobody else loses anything.
func TestHostile_MemoryHeldInAnyWayEndsItsHolderAlone(t *testing.T) {
	t.Parallel()
	need.Root(t)
	const limit = 256 << 20
	s := newScene(t, confinement(t), nil, func(o *pool.Options) { o.MaxProcessRSS = limit })
	for _, attack := range []struct {
		way, refusal string
	}{
		{"private", ""}, {"spread", ""}, {"unmapped", ""}, {"sockets", ""}, {"memfd", "function not implemented"},
	} {
		done := make(chan reply, 1)
		go func() {
			done <- s.ask("bob", fmt.Sprintf(`[[tool=Bash {"command":"./tool hold %s 600 2>&1"}]]`, attack.way), nil)
		}()
		var r reply
		for ended := false; !ended; {
			select {
			case r = <-done:
				ended = true
			case <-time.After(200 * time.Millisecond):
				s.pool.CheckMemory(limit)
			}
		}
		if attack.refusal != "" {
			require.Contains(t, r.text(t), attack.refusal, attack.way)
		} else {
			require.Empty(t, r.of("result"), attack.way)
			require.Contains(t, r.body, "more memory than a process may", attack.way)
		}
		require.Equal(t, s.victim.pid, s.ask("ada", "still here", nil).pid, attack.way)
	}
}

// Whoever keeps the processors busy with more threads than they can serve is put behind all others until that ends.
func TestHostile_BusyThreadsGiveWayToOthers(t *testing.T) {
	need.Root(t)
	const many = 40 // a crowd, and no more: what else runs on the machine suffers from them, too
	s := newScene(t, confinement(t), nil, func(o *pool.Options) { o.SetHorde(1000) })
	s.latencies("before")
	uid := s.uidOf(s.attacker)
	done := make(chan reply, 1)
	go func() { done <- s.ask("bob", fmt.Sprintf(`[[tool=Bash {"command":"./tool spin %d"}]]`, many), nil) }()
	// all of the attacker's threads have the policy
	all := func(policy, least int) bool {
		n := 0
		for pid := range s.ofUID(uid) {
			tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
			for _, task := range tasks {
				tid, err := strconv.Atoi(filepath.Base(task))
				require.NoError(t, err)
				if attr, err := unix.SchedGetAttr(tid, 0); err == nil && int(attr.Policy) != policy {
					return false
				}
				n++
			}
		}
		return n > least
	}
	for began := time.Now(); !all(unix.SCHED_IDLE, many); {
		require.Less(t, time.Since(began), 3*time.Minute, "%s", s.logs)
		s.ask("ada", "hello", nil) // somebody else has a share, whatever else the machine is doing
	}
	require.Equal(t, 1, strings.Count(s.logs.String(), "give way to others"), "bob's alone")
	s.latencies("meanwhile")
	require.NotContains(t, s.logs.String(), "give way no more")
	s.pool.Doom()
	<-done
	s.pool.Evict(userID("bob"))
	require.Eventually(t, func() bool { return len(s.ofUID(uid)) == 0 }, time.Minute, 50*time.Millisecond,
		"and it ends as soon as any")
}

// Whoever has busy processes in very many sessions has them stand still, but for moments, until they are few.
func TestHostile_AHordeStandsStillButForMoments(t *testing.T) {
	need.Root(t)
	const many, few = 25, 10
	s := newScene(t, confinement(t), nil, nil)
	s.latencies("before")
	uid := s.uidOf(s.attacker)
	done := make(chan reply, 1)
	go func() { done <- s.ask("bob", fmt.Sprintf(`[[tool=Bash {"command":"./tool spin %d"}]]`, many), nil) }()
	busy := func() (pids []int, stopped, ticks int) {
		for pid, command := range s.ofUID(uid) {
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			_, rest, _ := strings.Cut(string(stat), ") ")
			if err != nil || !strings.Contains(command, "while :") {
				continue
			}
			spent, err := strconv.Atoi(strings.Fields(rest)[14-3])
			require.NoError(t, err)
			pids, ticks = append(pids, pid), ticks+spent
			if rest[0] == 'T' {
				stopped++
			}
		}
		return pids, stopped, ticks
	}
	ticks := 0
	require.Eventually(t, func() bool {
		var stopped int
		_, stopped, ticks = busy()
		return stopped == many
	}, time.Minute, 10*time.Millisecond, "%s", s.logs)
	s.latencies("meanwhile")
	require.Eventually(t, func() bool { _, _, now := busy(); return now > ticks }, time.Minute, 10*time.Millisecond,
		"some go on")

	pids, _, _ := busy()
	for _, pid := range pids[few:] {
		require.NoError(t, unix.Kill(pid, unix.SIGKILL))
	}
	require.Eventually(t, func() bool { _, stopped, _ := busy(); return stopped == 0 }, time.Minute, 10*time.Millisecond)
	require.Never(t, func() bool { _, stopped, _ := busy(); return stopped > 0 }, 3*time.Second, 10*time.Millisecond)
	require.Equal(t, 1, strings.Count(s.logs.String(), "stand still no more"))
	s.pool.Doom()
	<-done
}
