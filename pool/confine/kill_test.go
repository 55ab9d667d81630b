package confine

import (
	"context"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// escapes are ways of a child to leave something behind. Each writes the pids of what it leaves to the file $1.
var escapes = map[string]struct {
	text string
	pids int
}{
	"in the background":       {`sleep 1000 & echo $! >> $1`, 1},
	"in a session of its own": {`setsid sh -c 'echo $$ >> $0; exec sleep 1000' $1 &`, 1},
	"forked twice":            {`(setsid sh -c 'echo $$ >> $0; (sleep 1000 & echo $! >> $0); exec sleep 1000' $1 &)`, 2},
	"immune to hang-ups":      {`nohup sh -c 'echo $$ >> $0; sleep 1000; :' $1 >/dev/null 2>&1 &`, 1},
	"deaf to SIGTERM":         {`setsid sh -c 'trap "" TERM HUP INT; echo $$ >> $0; while :; do sleep 1; done' $1 &`, 1},
	"stopped":                 {`setsid sh -c 'echo $$ >> $0; kill -STOP $$' $1 &`, 1},
	"without its environment": {`env -i setsid sh -c 'echo $$ >> $0; exec /bin/sleep 1000' $1 &`, 1},
	"with a false environment": {`CLAUDEPOOL_PROCESS=/somewhere/else setsid sh -c 'echo $$ >> $0; exec sleep 1000' $1 &`,
		1},
	"in a chain of sessions": {`setsid sh -c 'echo $$ >> $0; env -i setsid -f sh -c "echo \$\$ >> \$0; exec /bin/sleep ` +
		`1000" $0; exec sleep 1000' $1 &`, 2},
}

func TestStop_LeavesNothingOfAChildThatLives(t *testing.T) {
	for name, escape := range escapes {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			// stderr held open would give the watch time to help
			c := b.script("exec 2>/dev/null\n" + escape.text + "\nexec cat")
			left := pids(t, b.workspace("w"), escape.pids)
			require.NoError(t, c.Stop(context.Background(), Ladder{CloseGrace: patience}))
			requireGone(t, append(left, c.PID())...)
		})
	}
}

func TestChild_ItsOwnEndIsTheEndOfAllItStarted(t *testing.T) {
	for name, escape := range escapes {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			c := b.script(escape.text + "\nread line")
			left := pids(t, b.workspace("w"), escape.pids)
			c.Stdin.Close()
			requireDone(t, c)
			requireEnds(t, left...) // nobody has called Stop
		})
	}
}

// breed makes 2^n processes in sessions of their own, as fast as it can. They would stay.
const breed = `[ "$2" = "" ] && set -- $1 7
echo $$ >> $1
[ $2 -le 0 ] && exec sleep 1000
setsid sh $0 $1 $(($2-1)) & setsid sh $0 $1 $(($2-1)) &
wait`

func TestStop_OutrunsAChildThatKeepsForking(t *testing.T) {
	b := newBench(t)
	c := b.script(breed)
	pids(t, b.workspace("w"), 20) // in the midst of it
	require.NoError(t, c.Stop(context.Background(), Ladder{}))
	requireGone(t, pids(t, b.workspace("w"), 20)...)
}

// hop replaces itself by a child again and again, so that its pid is another one whenever somebody looks.
const hop = `n=${2:-0}
echo $$ >> $1
[ $n -ge 20000 ] && exit
SETSID sh $0 $1 $((n+1)) &`

func TestStop_OutrunsAChildThatKeepsReplacingItself(t *testing.T) {
	for name, how := range map[string]string{"in one group": "", "in ever new sessions": "setsid"} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			w := b.workspace("w")
			spec := script(w, strings.ReplaceAll(hop, "SETSID", how))
			spec.Args = []string{"-c", "setsid sh $0 $1 & exec cat", spec.Args[0], spec.Args[1]}
			c := b.start(spec)
			pids(t, w, 50)
			require.NoError(t, c.Stop(context.Background(), Ladder{}))
			requireGone(t, pids(t, w, 50)...)
		})
	}
}

func TestWard_EndsAnOrphanThatHidesWhereItCameFromAtOnce(t *testing.T) {
	b := newBench(t)
	c := b.script(`env -i setsid -f sh -c 'echo $$ >> $0; exec /bin/sleep 1000' $1
		setsid -f sh -c 'echo $$ >> $0.kept; exec sleep 1000' $1
		exec cat`)
	hidden := pids(t, b.workspace("w"), 1)
	requireEnds(t, hidden...)
	require.Eventually(t, func() bool { return len(marked(t, b.root)) == 2 }, patience, 10*time.Millisecond)
	require.Equal(t, 1, strings.Count(b.logs.String(), "hides where it came from"))
	select {
	case <-c.Done():
		require.Fail(t, "the child is no orphan")
	default:
	}
	require.Eventually(t, func() bool {
		_, err := look(hidden[0])
		return err != nil
	}, patience, 10*time.Millisecond, "the orphan has to be reaped as well")
}

func TestWard_KeepsAnOrphanThatIsItsChildsBySessionAlone(t *testing.T) {
	b := newBench(t)
	c := b.script(`(env -i sh -c 'echo $$ >> $0; exec /bin/sleep 1000' $1 &) ; exec cat`)
	kept := pids(t, b.workspace("w"), 1)
	all, err := scan(nil)
	require.NoError(t, err)
	reaper.endStrays(b.logger, nil)
	_, err = look(kept[0])
	require.NoError(t, err)
	require.NotEmpty(t, all)
	require.NotContains(t, b.logs.String(), "hides")
	require.NoError(t, c.Stop(context.Background(), Ladder{}))
	requireGone(t, kept...)
}

func TestWard_LeavesProcessesAloneThatOtherCodeStarted(t *testing.T) {
	b := newBench(t)
	for _, program := range []string{"/bin/sleep", "/bin/false"} {
		cmd := exec.Command(program, "1000")
		cmd.Env = []string{"A=1"}
		require.NoError(t, cmd.Start())
		require.Eventually(t, func() bool {
			p, err := look(cmd.Process.Pid)
			require.NoError(t, err)
			return program == "/bin/sleep" || p.state == 'Z'
		}, patience, time.Millisecond)
		c := b.start(helper(b.workspace("w"), "cat"))
		require.NoError(t, c.Stop(context.Background(), Ladder{CloseGrace: patience}))
		reaper.endStrays(b.logger, nil)
		if program == "/bin/sleep" {
			require.NoError(t, cmd.Process.Kill())
		}
		require.ErrorAs(t, cmd.Wait(), new(*exec.ExitError), "its end is told to the one who started it")
	}
	require.NotContains(t, b.logs.String(), "hides")
}

func TestWard_LeavesADeadChildToItsBurial(t *testing.T) {
	b := newBench(t)
	c := b.start(helper(b.workspace("w"), "exit", "0"))
	func() {
		defer lockRound()() // so that it isn't buried yet
		requireDone(t, c)
		all, err := scan(nil)
		require.NoError(t, err)
		reaper.orphans(all)
		p, err := look(c.PID())
		require.NoError(t, err)
		require.EqualValues(t, 'Z', p.state)
	}()
	require.NoError(t, c.Stop(context.Background(), Ladder{}))
	requireGone(t, c.PID())
}

func TestWard_ReapsOrphansThatEndByThemselves(t *testing.T) {
	b := newBench(t)
	c := b.script(`(setsid sh -c 'echo $$ >> $0; read line' $1 <&0 &); exec sleep 1000`)
	orphan := pids(t, b.workspace("w"), 1)
	c.Stdin.Close()
	require.Eventually(t, func() bool {
		_, err := look(orphan[0])
		return err != nil
	}, patience, 5*time.Millisecond)
}

func TestProcess_KillSparesAnotherWithTheSamePid(t *testing.T) {
	b := newBench(t)
	c := b.start(helper(b.workspace("w"), "cat"))
	p, err := look(c.PID())
	require.NoError(t, err)
	p.start--
	require.NoError(t, p.kill())
	require.NoError(t, c.Stop(context.Background(), Ladder{CloseGrace: patience}))
	require.Equal(t, Exit{Code: 0}, c.Exit())
}

func TestParseStat_TakesAnyName(t *testing.T) {
	tail := " S 1 2 3 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 99 1 2 18 1 1 1 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0 1 1 1 1 1 " +
		"77 88 0"
	p, err := parseStat([]byte("42 (a) b (c)" + tail))
	require.NoError(t, err)
	require.Equal(t, process{identity{42, 99}, 1, 2, 3, 'S', 26, "77", "a) b (c"}, p)
	for _, odd := range []string{"", "42", "42 (a", "42 (a) S 1", "x (a)" + tail, "42 (a) S S 1 2" + tail} {
		_, err := parseStat([]byte(odd))
		require.Error(t, err, "%q", odd)
	}
}
