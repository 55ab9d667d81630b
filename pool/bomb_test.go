package pool_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/infra/testkit/need"
	"claudepool/pool"
)

// ofUID returns the processes that run under a tenant's uid, by what they say they are.
func (s *scene) ofUID(uid int) map[int]string {
	found := make(map[int]string)
	folders, err := filepath.Glob("/proc/[0-9]*")
	require.NoError(s.t, err)
	for _, folder := range folders {
		status, err := os.ReadFile(filepath.Join(folder, "status"))
		if err != nil || !bytes.Contains(status, fmt.Appendf(nil, "\nUid:\t%d\t", uid)) ||
			bytes.Contains(status, []byte("State:\tZ")) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(folder))
		require.NoError(s.t, err)
		command, _ := os.ReadFile(filepath.Join(folder, "cmdline"))
		found[pid] = strings.ReplaceAll(string(command), "\x00", " ")
	}
	return found
}

func (s *scene) uidOf(of tenant) int {
	status, err := os.ReadFile(filepath.Join("/proc", of.pid, "status"))
	require.NoError(s.t, err)
	_, ids, _ := strings.Cut(string(status), "Uid:")
	uid, err := strconv.Atoi(strings.Fields(ids)[0])
	require.NoError(s.t, err)
	return uid
}

// outliving are ways to leave something running, each as a sleep of its own length.
var outliving = map[string]string{
	"7001": `setsid sleep 7001 >/dev/null 2>&1 &`,
	"7002": `nohup sleep 7002 >/dev/null 2>&1 &`,
	"7003": `(setsid bash -c "(setsid sleep 7003 &) &" >/dev/null 2>&1 &)`,
	"7004": `env -i setsid -f /bin/sleep 7004 >/dev/null 2>&1`,
	"7005": `setsid -f bash -c "trap \"\" TERM HUP INT; sleep 7005" >/dev/null 2>&1`,
	"7006": `sleep 7006 >/dev/null 2>&1 & disown`,
}

func TestAttacks_NothingOutlivesItsProcess(t *testing.T) {
	t.Parallel()
	need.Root(t)
	s := newScene(t, confinement(t), nil, nil)
	uid := s.uidOf(s.attacker)
	var script strings.Builder
	for _, command := range outliving {
		script.WriteString(command + "\n")
	}
	s.place(s.attacker, "outlive.sh", []byte(script.String()), 0o644)
	s.bash("bob", "bash outlive.sh")
	sleeping := func(seconds string) bool {
		for _, command := range s.ofUID(uid) {
			if strings.Contains(command, "sleep "+seconds) {
				return true
			}
		}
		return false
	}
	for seconds := range outliving {
		require.Eventually(t, func() bool { return sleeping(seconds) }, time.Minute, 10*time.Millisecond,
			"the control: %s runs", seconds)
	}
	s.pool.Evict(userID("bob"))
	require.Eventually(t, func() bool { return len(s.owner.releasedUsers()) == 1 }, time.Minute, 10*time.Millisecond)
	require.Empty(t, s.ofUID(uid))
	require.Equal(t, s.victim.pid, s.ask("ada", "still here", nil).pid)
}

func TestAttacks_AForkBombHurtsNobodyElse(t *testing.T) {
	need.Root(t)
	s := newScene(t, confinement(t), nil, nil)
	uid := s.uidOf(s.attacker)
	s.latencies("before")
	done := make(chan reply)
	go func() {
		done <- s.ask("bob", `[[tool=Bash {"command":"bomb() { bomb | bomb & }; bomb >/dev/null 2>&1; true"}]]`, nil)
	}()
	most := 0
	require.Eventually(t, func() bool {
		most = max(most, len(s.ofUID(uid)))
		return most > 100
	}, 2*time.Minute, 50*time.Millisecond, "the control: it goes off")
	s.latencies("meanwhile")
	<-done
	require.LessOrEqual(t, max(most, len(s.ofUID(uid))), 512)
	s.pool.Evict(userID("bob"))
	require.Eventually(t, func() bool { return len(s.owner.releasedUsers()) == 1 }, time.Minute, 10*time.Millisecond)
	require.Empty(t, s.ofUID(uid))
	require.Equal(t, s.victim.pid, s.ask("ada", "still here", nil).pid)
}

func TestAttacks_AMemoryBombHurtsNobodyElse(t *testing.T) {
	need.Root(t)
	s := newScene(t, confinement(t), nil, func(o *pool.Options) { o.MaxProcessRSS = 512 << 20 })
	s.latencies("before")
	done := make(chan reply)
	go func() { done <- s.ask("bob", `[[tool=Bash {"command":"./tool eat"}]]`, nil) }()
	s.latencies("meanwhile")
	r := <-done
	require.Empty(t, r.of("result"))
	require.Contains(t, r.body, "more memory than a process may", "%s", s.logs)
	require.Equal(t, s.victim.pid, s.ask("ada", "still here", nil).pid)
}

func TestAttacks_AFileBombHurtsNobodyElse(t *testing.T) {
	t.Parallel()
	need.Root(t)
	s := newScene(t, confinement(t), nil, func(o *pool.Options) { o.Quota.Files = 20_000 })
	uid := s.uidOf(s.attacker)
	s.latencies("before")
	done := make(chan reply)
	go func() { done <- s.ask("bob", `[[tool=Bash {"command":"./tool litter"}]]`, nil) }()
	over, looked := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(looked)
		for {
			select {
			case <-over:
				return
			case <-time.After(100 * time.Millisecond):
				s.pool.CheckSpace()
			}
		}
	}()
	s.latencies("meanwhile")
	r := <-done
	close(over)
	<-looked
	require.Empty(t, r.of("result"))
	require.Len(t, r.of("error"), 1, r.body)
	require.Contains(t, r.of("error")[0].Get("error.message").Str, "beyond 1073741824 bytes or 20000 files")
	require.Eventually(t, func() bool { return len(s.ofUID(uid)) == 0 }, time.Minute, 10*time.Millisecond)
	left, err := os.ReadDir(filepath.Join(s.attacker.workspace, "work", "litter"))
	require.NoError(t, err)
	require.Less(t, len(left), 1_000_000)
	t.Logf("%d files were made", len(left))
	require.Equal(t, s.victim.pid, s.ask("ada", "still here", nil).pid)
}

// latencies has A take some turns and reports how long they took.
func (s *scene) latencies(when string) {
	var took []time.Duration
	for range 10 {
		began := time.Now()
		r := s.ask("ada", "one more", nil)
		took = append(took, time.Since(began))
		require.Equal(s.t, "reply to: one more", r.text(s.t))
		require.Equal(s.t, s.victim.pid, r.pid)
	}
	slices.Sort(took)
	s.t.Logf("A's turns %s: median %s, longest %s", when, took[len(took)/2].Round(time.Millisecond),
		took[len(took)-1].Round(time.Millisecond))
}
