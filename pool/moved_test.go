package pool_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"claudepool/infra/testkit/need"
	"claudepool/pool"
	"claudepool/pool/cli"
	"claudepool/pool/workspace"
)

// shell is a turn in which the model runs a command.
func shell(command string) string {
	input, err := json.Marshal(map[string]string{"command": command})
	if err != nil {
		panic(err)
	}
	return "[[tool=Bash " + string(input) + "]]"
}

// endIdle waits for the process that answered to be reaped, and returns the pid of the one that is parked.
func (s *service) endIdle(r reply) (parked string) {
	s.t.Helper()
	r.text(s.t)
	require.Eventually(s.t, func() bool { return s.pool.Snapshot().Processes == 0 }, time.Minute, 10*time.Millisecond)
	return s.parked("")
}

// reapedSoon has processes be idle for too long at once.
func reapedSoon(o *pool.Options) {
	o.IdleTimeout, o.CleanupInterval = 100*time.Millisecond, time.Second
}

// newReaping starts a service that keeps a process parked and reaps idle ones soon.
func newReaping(t *testing.T) *service {
	return newParking(t, replacedSoon, reapedSoon)
}

// earlier is what the API sees of the messages before the last one, but for where its cache is to be kept.
func earlier(t *testing.T, s *service) string {
	t.Helper()
	var messages []any
	require.NoError(t, json.Unmarshal([]byte(gjson.GetBytes(s.lastCall().Body, "messages").Raw), &messages))
	text, err := json.Marshal(plain(messages))
	require.NoError(t, err)
	return strings.TrimSuffix(string(text), "]")
}

// plain takes out of messages what doesn't belong to what was said: where they are cached, and how a single text is
// written.
func plain(v any) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = plain(v[i])
		}
	case map[string]any:
		delete(v, "cache_control")
		for key := range v {
			v[key] = plain(v[key])
		}
		if content, ok := v["content"].(string); ok && v["role"] != nil {
			v["content"] = []any{map[string]any{"type": "text", "text": content}}
		}
	}
	return v
}

// uncut is the whole prompt, with the paths in it.
func uncut(s *service) string {
	body := s.lastCall().Body
	var lines []string
	for _, line := range strings.Split(gjson.GetBytes(body, "system").Raw+gjson.GetBytes(body, "tools").Raw, `\n`) {
		if !strings.Contains(line, "cch=") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n")
}

// A conversation whose process was reaped goes on in a parked one, which has its files at the paths the model knows.
// The API's cache of the prompt still fits.
func TestMoved_FilesGoWithTheConversation(t *testing.T) {
	t.Parallel()
	s := newReaping(t)
	at := filepath.Join(filepath.Dir(s.root), "current", "work")
	command := "pwd; mkdir -p deep/er; echo kept | tee file deep/er/file; ln -s file link; echo $HOME > ~/at"
	first := s.ask("ada", shell(command), fields{"model": nil, "session_id": session})
	require.Equal(t, "tool said: "+at+"\nkept", first.text(t))
	pid, prompt, said := s.endIdle(first), uncut(s), earlier(t, s)

	command = "pwd; cat file " + at + "/deep/er/file link; cat ~/at; echo more >> file; stat -c %U:%u . file ~/at"
	r := s.ask("ada", shell(command),
		fields{"model": nil, "session_id": session})
	require.Equal(t, pid, r.pid)
	require.Equal(t, pool.ProcessResumed, r.process)
	require.Equal(t, "resumed", r.receipt().Get("context").Str)
	lines := strings.Split(r.text(t), "\n")
	home := filepath.Join(filepath.Dir(s.root), "current", "home")
	require.Equal(t, []string{"tool said: " + at, "kept", "kept", "kept", home}, lines[:5])
	require.Equal(t, lines[5], lines[6], "all of it is its own")
	require.Equal(t, lines[5], lines[7])
	require.Equal(t, prompt, uncut(s))
	require.True(t, strings.HasPrefix(earlier(t, s), said), "%s\n%s", said, earlier(t, s))

	pid = s.endIdle(r)
	r = s.ask("ada", shell("cat file"), fields{"model": nil, "session_id": session})
	require.Equal(t, pid, r.pid)
	require.Equal(t, "tool said: kept\nmore", r.text(t))
	require.Eventually(t, func() bool { return len(workspaces(s)) == 1+s.pool.Snapshot().Parked }, time.Minute,
		10*time.Millisecond, "its own, and those of what is parked")
}

// workspaces are the folders of processes.
func workspaces(s *service) []string {
	found, err := filepath.Glob(filepath.Join(s.root, "*", "work"))
	require.NoError(s.t, err)
	return found
}

// What the CLI reads anew at its first turn it finds as an ordinary resume does.
func TestMoved_TheAPISeesWhatAnOrdinaryResumeSends(t *testing.T) {
	t.Parallel()
	for name, command := range map[string]string{
		"instructions": "echo 'Say moo.' > CLAUDE.md",
		"a memory": "d=~/.claude/projects/$(pwd | tr -c 'a-zA-Z0-9\\n' -)/memory; mkdir -p $d && " +
			"echo '- [it](it.md) moo' > $d/MEMORY.md",
		"a skill": "mkdir -p .claude/skills/moo && " +
			"printf -- '---\\nname: moo\\ndescription: moos\\n---\\nMoo.' > .claude/skills/moo/SKILL.md",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, ordinary := newReaping(t), newConfined(t)
			pid := s.endIdle(s.ask("ada", shell(command), fields{"model": nil}))
			r := s.ask("ada", "hello", fields{"model": nil})
			require.Equal(t, "reply to: hello", r.text(t))
			require.Equal(t, pid, r.pid)
			r = ordinary.ask("ada", shell(command), fields{"model": nil})
			r.text(t)
			kill(t, r.pid)
			require.Equal(t, "reply to: hello", ordinary.ask("ada", "hello", fields{"model": nil}).text(t))
			require.Equal(t, prompt(ordinary), prompt(s))
			here, there := filepath.Dir(s.root), filepath.Dir(ordinary.root)
			slug := strings.NewReplacer("/", "-", "_", "-")
			same := strings.NewReplacer(here, there, slug.Replace(here), slug.Replace(there))
			require.Equal(t, lastMessages(ordinary), same.Replace(lastMessages(s)))
			require.Contains(t, lastMessages(s), "oo")
		})
	}
}

// lastMessages are the messages after the tool's result.
func lastMessages(s *service) string {
	all := gjson.GetBytes(s.lastCall().Body, "messages").Raw
	return all[strings.LastIndex(all, "tool said:"):]
}

// A CLI finds out at its start whether it works in a git repository, and tells the model when that changes.
func TestMoved_ARepositoryIsTakenForOne(t *testing.T) {
	t.Parallel()
	s := newReaping(t)
	begin := "git init -q . && git -c user.name=a -c user.email=a@b commit -qm first --allow-empty"
	unfit := s.endIdle(s.ask("ada", shell(begin), fields{"model": nil}))
	r := s.ask("ada", "two", fields{"model": nil}) // by a start: what is parked was not made for it
	require.NotEqual(t, unfit, r.pid)
	r.text(t)
	pid := ""
	require.Eventually(t, func() bool {
		now, found := s.pool.Snapshot(), parkedIn(s.root, "", ".git")
		if len(found) == 0 || now.Processes > 0 || now.Parked < len(parkedIn(s.root, "", "")) {
			return false
		}
		pid = found[0]
		return true
	}, standbyPatience, 100*time.Millisecond)
	r = s.ask("ada", shell("git log --format=%s; git status --short"), fields{"model": nil})
	require.Equal(t, pid, r.pid)
	require.Equal(t, "tool said: first", r.text(t))
	require.NotContains(t, string(s.lastCall().Body), "git repository: false (was true)")
}

// What depends on files that are read at the start gets a start.
func TestMoved_SettingsNeedAStart(t *testing.T) {
	t.Parallel()
	s := newReaping(t)
	style := `echo '{"outputStyle":"Explanatory"}' > ~/.claude/settings.json`
	pid := s.endIdle(s.ask("ada", shell(style), fields{"model": nil}))
	r := s.ask("ada", "hello", fields{"model": nil})
	require.Equal(t, "reply to: hello", r.text(t))
	require.NotEqual(t, pid, r.pid)
	require.Contains(t, string(s.lastCall().Body), `according to your \"Output Style\"`)
}

func TestMoved_TooManyFilesAreLeftWhereTheyAre(t *testing.T) {
	t.Parallel()
	s := newReaping(t)
	many := strconv.Itoa(workspace.MaxMoved)
	first := s.ask("ada", shell("seq "+many+" | xargs touch; id -u"), fields{"model": nil})
	pid := s.endIdle(first)
	r := s.ask("ada", shell("ls | wc -l; id -u"), fields{"model": nil})
	require.NotEqual(t, pid, r.pid)
	require.Equal(t, "tool said: "+many+"\n"+strings.TrimPrefix(first.text(t), "tool said: "), r.text(t))
	require.Equal(t, pid, s.parked(""), "it wasn't spent")
	require.EqualValues(t, 1, s.pool.Snapshot().MovedTooLarge)
}

// The user's files have to be whole, whatever becomes of the process that was to take them over.
func TestMoved_FilesOutliveAProcessThatDiesAtItsGate(t *testing.T) {
	t.Parallel()
	need.Root(t)
	s := newReaping(t)
	pid := s.endIdle(s.ask("ada", shell("echo kept > file"), fields{"model": nil}))
	signalProcess(t, pid, syscall.SIGSTOP) // it never reads its transcript
	r := s.ask("ada", shell("cat file"), fields{"model": nil})
	require.Equal(t, "tool said: kept", r.text(t))
	require.NotEqual(t, pid, r.pid)
	require.NoFileExists(t, "/proc/"+pid+"/stat")
}

// When the instance is nearly full those idle for longest give way before anybody needs their room, and come back in
// what is parked: nobody waits for the end of another's process, or for a start.
func TestMoved_TheLongestIdleGiveWayAheadOfNeed(t *testing.T) {
	t.Parallel()
	s := newParking(t, replacedSoon, func(o *pool.Options) { o.MaxProcesses = 12 })
	users := []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k"}
	for _, user := range users {
		s.parked("")
		s.ask(user, "one", fields{"model": nil, "session_id": session}).text(t)
	}
	require.Eventually(t, func() bool { return s.pool.Snapshot().Processes == 9 }, time.Minute, 10*time.Millisecond)
	for _, user := range users[:2] {
		pid := s.parked("")
		r := s.ask(user, "two", fields{"model": nil, "session_id": session})
		require.Equal(t, "reply to: two", r.text(t))
		require.Equal(t, pid, r.pid, user)
	}
	require.Equal(t, pool.ProcessReused, s.ask(users[10], "two", fields{"model": nil, "session_id": session}).process)
}

// One that was stopped while it waited opens its gate once more, by its name: the files come after that.
func TestMoved_OneThatComesLateToItsGateFindsIt(t *testing.T) {
	t.Parallel()
	s := newParking(t, replacedSoon, reapedSoon, func(o *pool.Options) {
		o.OnClaim(func(p *cli.Process) {
			pid := strconv.Itoa(p.PID())
			signalProcess(t, pid, syscall.SIGSTOP)
			time.AfterFunc(300*time.Millisecond, func() { signalProcess(t, pid, syscall.SIGCONT) })
		})
	})
	pid := s.endIdle(s.ask("ada", shell("echo kept > file"), fields{"model": nil}))
	r := s.ask("ada", shell("cat file"), fields{"model": nil})
	require.Equal(t, "tool said: kept", r.text(t))
	require.Equal(t, pid, r.pid)
}

// What a process may do to its own folder gets it nothing of anybody else's, and costs it a start.
func TestMoved_NoLinkLeadsElsewhere(t *testing.T) {
	t.Parallel()
	outside := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(outside, "file"), []byte("outside"), 0o600))
	s := newReaping(t)
	pid := s.endIdle(s.ask("ada", shell("mv ../work ../w && ln -s "+outside+" ../work"), fields{"model": nil}))
	r := s.ask("ada", "hello", fields{"model": nil})
	require.NotEqual(t, pid, r.pid)
	text, err := os.ReadFile(filepath.Join(outside, "file"))
	require.NoError(t, err)
	require.Equal(t, "outside", string(text))
	require.Equal(t, pid, s.parked(""), "it wasn't spent")
}
