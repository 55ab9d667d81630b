package pool_test

import (
	"encoding/json"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/infra/testkit/need"
	"claudepool/pool"
	"claudepool/pool/workspace"
)

// Each of these fills the disk in a way of its own. Whoever does it is ended, and nobody else; afterwards nothing is
// left.
func TestHostile_WhoFillsTheDiskIsEndedAlone(t *testing.T) {
	t.Parallel()
	need.Root(t)
	s := newScene(t, confinement(t), nil, func(o *pool.Options) {
		o.Quota = workspace.Space{Bytes: 32 << 20, Files: 5000}
	})
	for user, command := range map[string]string{
		"nests-6000-folders":       `perl -e "for (1..6000) { mkdir q(d); chdir q(d) }"; sleep 60`,
		"makes-20000-files":        `perl -e "for (1..20000) { open F, qq(>f\$_) }"; sleep 60`,
		"writes-on-after-its-turn": `(while :; do head -c 1000000 /dev/zero >> fill; sleep 0.02; done) >/dev/null 2>&1 &`,
		"writes-to-what-has-no-name": `exec 3>f; rm f; (while :; do head -c 1000000 /dev/zero >&3; sleep 0.02; done) ` +
			`>/dev/null 2>&1 &`,
	} {
		t.Run(user, func(t *testing.T) {
			of := s.newTenant(user)
			uid := s.uidOf(of)
			input, err := json.Marshal(map[string]string{"command": command})
			require.NoError(t, err)
			done := make(chan reply)
			go func() { done <- s.ask(user, "[[tool=Bash "+string(input)+"]]", nil) }()
			ended := func() bool { s.pool.CheckSpace(); return !exists(of.pid) }
			require.Eventually(t, ended, time.Minute, 100*time.Millisecond, "%s", s.logs)
			<-done
			require.Contains(t, s.logs.String(), "over their quota")
			require.Eventually(t, func() bool { return len(s.ofUID(uid)) == 0 }, time.Minute, 10*time.Millisecond)
			answered := s.ask("ada", "still here", nil)
			require.Equal(t, "reply to: still here", answered.text(t))
			require.Equal(t, s.victim.pid, answered.pid)
			require.True(t, exists(s.attacker.pid), "who did nothing")

			require.Equal(t, `{"deleted":1}`, s.forget(user, ""))
			require.NoDirExists(t, of.workspace)
			require.NoDirExists(t, filepath.Dir(of.index))
		})
	}
}
