package confine

import (
	"bufio"
	"context"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/infra/testkit/need"
	"claudepool/pool/pooltest"
	"claudepool/pool/pooltest/hold"
)

// withheld are the ways that a confined child doesn't have, and what it hears instead.
var withheld = map[string]string{"memfd": "function not implemented", "datagrams": "operation not permitted",
	"pipes": "operation not permitted", "range": "operation not permitted", "thread": "operation not permitted"}

// attackTool is built once.
var attackTool = sync.OnceValues(pooltest.AttackTool)

// holder is the tool of attacks in a workspace, where its child can get at it. It starts in no time, as the tests' own
// program doesn't under the race detector.
func (b *bench) holder(workspace string, args ...string) Spec {
	tool, err := attackTool()
	require.NoError(b.t, err)
	program, err := os.ReadFile(tool)
	require.NoError(b.t, err)
	inside := filepath.Join(workspace, "hold")
	require.NoError(b.t, os.WriteFile(inside, program, 0o755))
	return Spec{Path: inside, Args: append([]string{"hold"}, args...), Workspace: workspace}
}

// Each way to take memory is one that is counted, or one that a confined child doesn't have.
func TestUsage_CountsMemoryWhateverTheWayItIsHeld(t *testing.T) {
	const size = 64 << 20
	for way := range hold.Ways {
		t.Run(way, func(t *testing.T) {
			b := newConfined(t)
			c := b.start(b.holder(b.newWorkspace(), way, "64"))
			said, err := bufio.NewReader(c.Stdout).ReadString('\n')
			if why := withheld[way]; why != "" {
				require.ErrorIs(t, err, io.EOF)
				requireDone(t, c)
				require.Contains(t, c.StderrTail(), why)
				return
			}
			require.NoError(t, err, c.StderrTail())
			require.Equal(t, "held\n", said)
			var u Usage
			require.Eventually(t, func() bool {
				u, err = c.Usage()
				return err == nil && u.Memory > size
			}, patience, 10*time.Millisecond, "%+v", &u)
			require.Less(t, u.Memory, int64(2*size), "and each process its own")
			require.NoError(t, c.Stop(context.Background(), Ladder{}))
		})
	}
}

// Where nothing can be denied, what has no place is found by who has it open.
func TestUsage_CountsFilesThatAreInMemoryAlone(t *testing.T) {
	need.Root(t)
	b := newBench(t)
	c := b.start(helper(b.workspace("w"), "hold", "memfd", "64"))
	require.Equal(t, "held", readLine(t, c.Stdout))
	u, err := c.Usage()
	require.NoError(t, err)
	require.Greater(t, u.Memory, int64(64<<20))
}

// A look at who has too many files open ends early, and says so.
func TestUsage_DoesntLookAtMoreFilesThanMayBe(t *testing.T) {
	b := newConfined(t)
	w := b.newWorkspace()
	c := b.start(shell(w, `for i in 1 2 3 4 5 6; do perl -e 'open $f[$_], "/dev/null" for 1..4000; syswrite STDOUT, `+
		`"open\n"; sleep 1000' & done; wait`))
	out := bufio.NewReader(c.Stdout)
	for range 6 {
		line, err := out.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "open\n", line)
	}
	u, err := c.Usage()
	require.NoError(t, err)
	require.Greater(t, u.Files, MostFiles)
	require.Less(t, u.Files, MostFiles+1000)
	require.NoError(t, c.Stop(context.Background(), Ladder{}))
}
