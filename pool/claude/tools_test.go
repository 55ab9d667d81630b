package claude_test

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"claudepool/infra/testkit/need"
	"claudepool/pool/claude"
	"claudepool/pool/pooltest"
)

// patience is how long an answer may take on a machine that others use as well.
const patience = 2 * time.Minute

// firstUID is far from the blocks of other packages' instances, which kill whatever runs under theirs when they start.
const firstUID = 2_200_000_000

// session is a CLI on its own pipes, as this service starts it, under a uid that nobody else has.
type session struct {
	t     *testing.T
	api   *pooltest.API
	uid   int
	stdin *bufio.Writer

	mu    sync.Mutex // guards the following
	more  *sync.Cond
	lines []gjson.Result
	ended bool
}

func startSession(t *testing.T, change func(*claude.Options, *claude.Environment)) *session {
	need.Root(t) // for the uid
	cli, err := pooltest.RealCLI()
	bin := need.Part(t, cli, err)
	s := &session{t: t, uid: firstUID + os.Getpid()}
	s.more = sync.NewCond(&s.mu)
	s.api, err = pooltest.NewAPI(nil)
	require.NoError(t, err)
	t.Cleanup(s.api.Close)
	root := t.TempDir()
	require.NoError(t, os.Chmod(filepath.Dir(root), 0o711)) // made for this uid alone
	opts := claude.Options{SessionID: uuid.NewString(), Model: "haiku", PermissionMode: "bypassPermissions",
		AllowBypass: true}
	env := claude.Environment{Home: root, Temp: root, BaseURL: s.api.URL(), Secret: "secret", MCPTimeout: time.Second,
		CommandTimeout: time.Minute, LongestCommand: time.Minute}
	change(&opts, &env)
	require.NoError(t, os.Chown(root, s.uid, s.uid))
	cmd := exec.Command(bin, claude.Args(opts)...)
	cmd.Env, cmd.Dir = env.Vars(), root
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: &syscall.Credential{Uid: uint32(s.uid),
		Gid: uint32(s.uid)}}
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	var reading sync.WaitGroup
	reading.Go(func() { s.read(claude.NewReader(stdout)) })
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		reading.Wait()
		_ = cmd.Wait()
		for _, pid := range s.processes() {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	s.stdin = bufio.NewWriter(stdin)
	return s
}

func (s *session) read(lines *claude.Reader) {
	for {
		raw, err := lines.Next()
		s.mu.Lock()
		s.ended = err != nil
		if !s.ended {
			s.lines = append(s.lines, gjson.ParseBytes(raw))
		}
		s.mu.Unlock()
		s.more.Broadcast()
		if err != nil {
			return
		}
	}
}

// processes are those of the session's uid.
func (s *session) processes() (pids []int) {
	entries, err := os.ReadDir("/proc")
	require.NoError(s.t, err)
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || int(info.Sys().(*syscall.Stat_t).Uid) != s.uid {
			continue
		}
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// ask sends a message and returns its lines, the last of which says that the CLI has put it away.
func (s *session) ask(text string) []gjson.Result {
	s.t.Helper()
	id := uuid.NewString()
	from := len(s.all())
	_, _ = s.stdin.Write(claude.UserMessage(id, []byte(strconv.Quote(text))))
	require.NoError(s.t, s.stdin.Flush())
	timeout := time.AfterFunc(patience+time.Second, s.more.Broadcast)
	defer timeout.Stop()
	began := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		for i, line := range s.lines[from:] {
			if line.Get("command_uuid").Str == id && line.Get("state").Str == "completed" {
				return s.lines[from : from+i+1]
			}
		}
		require.False(s.t, s.ended, "the CLI ended during %q: %s", text, s.lines[from:])
		require.Less(s.t, time.Since(began), patience, "no end of %q: %s", text, s.lines[from:])
		s.more.Wait()
	}
}

// endsAlone requires that nothing runs but the CLI, in the time that a process needs to end.
func (s *session) endsAlone(of string) {
	s.t.Helper()
	require.Eventually(s.t, func() bool { return len(s.processes()) == 1 }, 10*time.Second, 5*time.Millisecond, of)
}

func (s *session) all() []gjson.Result {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.lines)
}

func namesIn(list gjson.Result) (names []string) {
	for _, name := range list.Array() {
		names = append(names, name.Str)
	}
	return names
}

// toolRow is a row of the table in TOOLS.md.
var toolRow = regexp.MustCompile("(?m)^\\| `(\\w+)` \\| `({.*})` \\| (?:`(.+?)`)? ?\\| ")

func TestTools_NothingThatIsOfferedOutlivesItsTurn(t *testing.T) {
	table, err := os.ReadFile("TOOLS.md")
	require.NoError(t, err)
	rows := toolRow.FindAllStringSubmatch(string(table), -1)
	s := startSession(t, func(*claude.Options, *claude.Environment) {})
	first := s.ask("hello")
	var listed, told []string
	for _, line := range first {
		if line.Get("subtype").Str == "init" {
			listed = namesIn(line.Get("tools"))
			require.NotContains(t, namesIn(line.Get("skills")), "schedule")
		}
	}
	for _, row := range rows {
		told = append(told, row[1])
	}
	require.ElementsMatch(t, listed, told, "TOOLS.md has all that is offered")

	end, calls := len(s.all()), len(s.api.Calls())
	for _, row := range rows {
		name, input, answer := row[1], row[2], row[3]
		require.True(t, json.Valid([]byte(input)), name)
		lines := s.ask("[[tool=" + name + " " + input + "]]")
		require.Equal(t, end, len(s.all())-len(lines), "something came before the call of %s", name)
		require.Contains(t, toolResult(lines), answer, name)
		s.endsAlone(name)
		require.Less(t, calls, len(s.api.Calls()), name)
		end, calls = len(s.all()), len(s.api.Calls())
	}
	time.Sleep(2 * time.Second) // for what doesn't come
	require.Len(t, s.all(), end)
	require.Len(t, s.api.Calls(), calls)
	require.Len(t, s.processes(), 1)
}

// toolResult is what the model got from the main conversation's tool.
func toolResult(lines []gjson.Result) string {
	for _, line := range lines {
		if line.Get("type").Str == "user" && line.Get("parent_tool_use_id").Type == gjson.Null {
			return line.Get("message.content.0.content").String()
		}
	}
	return ""
}

// The model is told, and has the rest of its turn for what it does about it.
func TestTools_ACommandThatTakesTooLongEndsAndTheModelIsTold(t *testing.T) {
	s := startSession(t, func(_ *claude.Options, e *claude.Environment) {
		e.CommandTimeout, e.LongestCommand = 3*time.Second, 8*time.Second // a shell takes a while to start
	})
	for _, input := range []string{`{"command":"sleep 60"}`, `{"command":"sleep 60","timeout":50000}`} {
		lines := s.ask("[[tool=Bash " + input + "]]")
		require.Contains(t, toolResult(lines), "Command timed out")
		s.endsAlone(input)
	}
	require.Contains(t, toolResult(s.ask(`[[tool=Bash {"command":"sleep 1; echo in time","timeout":50000}]]`)), "in time")
}

func TestTools_WhatOutlivesItsTurnIsOfferedWhereTheTurnWaits(t *testing.T) {
	s := startSession(t, func(o *claude.Options, e *claude.Environment) { o.Background, e.Background = true, true })
	for _, line := range s.ask("hello") {
		if line.Get("subtype").Str == "init" {
			offered := namesIn(line.Get("tools"))
			require.Subset(t, offered, []string{"Monitor", "Workflow", "TaskStop", "Bash"})
			for _, never := range []string{"ScheduleWakeup", "RemoteTrigger", "CronCreate", "EnterWorktree"} {
				require.NotContains(t, offered, never)
			}
		}
	}
	require.Contains(t, gjson.GetBytes(s.api.Calls()[0].Body, `tools.#(name="Bash").input_schema.properties`).Raw,
		"run_in_background")
}
