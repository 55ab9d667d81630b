package hostile

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/infra/testkit/client"
)

// kept is how many more processes the two instances may keep ready after a flood than before it, of hundreds that came.
const kept = 16

// Whoever makes tokens up by the thousand takes no place, no standby and no file from people the API accepts, and
// nothing is left of it.
func TestHostile_ThousandsOfMadeUpTokensLeaveNothingAndTakeNothing(t *testing.T) {
	s := newStage(t, limits{})
	known := s.newUsers()
	before := s.left()
	perSecond := 100
	if long() {
		perSecond = 170 // of which 10,000 take a minute
	}
	var tokens, newcomers atomic.Int64
	known.under(func(ctx context.Context) {
		var all sync.WaitGroup
		tick := time.NewTicker(time.Second / time.Duration(perSecond))
		defer tick.Stop()
		for ctx.Err() == nil {
			<-tick.C
			n := tokens.Add(1)
			all.Go(func() { s.stranger(rand.Uint64()) })
			if n%50 == 0 { // who is honest and new comes meanwhile
				all.Go(func() { s.newcomer(newcomers.Add(1)) })
			}
		}
		all.Wait()
	})
	require.Eventually(t, func() bool {
		now := s.left()
		// Beside who stayed there are processes that are kept ready for the next burst, each in a workspace of its own.
		return now.workspaces <= before.workspaces+2*newcomers.Load()+kept && now.keys <= before.keys+3*newcomers.Load()+8
	}, time.Minute, 100*time.Millisecond, "%+v before, %+v now; %d newcomers", before, s.left(), newcomers.Load())
	t.Logf("%d made-up tokens, %d refusals of the API, %d new users served; left before: %+v, now: %+v", tokens.Load(),
		s.api.refused.Load(), newcomers.Load(), before, s.left())
}

// stranger comes with a token of its own making. Whatever the answer is, it is one.
func (s *stage) stranger(n uint64) {
	_, err := s.turn(s.Context(), fmt.Sprint("sk-ant-oat01-made-up-", n), "hello")
	var refused *client.Refusal
	if errors.As(err, &refused) {
		if refused.Status != 401 && refused.Status != 529 && refused.Status != 503 {
			s.Errorf("a stranger got %v", err)
		}
		return
	}
	if !errors.Is(err, client.ErrFailed) {
		s.Errorf("a stranger got %v", err)
	}
}

// newcomer is somebody the API accepts. Told that it is crowded, they try again as clients do.
func (s *stage) newcomer(n int64) {
	for try := range 5 {
		_, err := s.turn(s.Context(), fmt.Sprint(honest, "new-", n), "hello")
		var refused *client.Refusal
		if errors.As(err, &refused) && refused.Status == 529 && try < 4 {
			time.Sleep(time.Second)
			continue
		}
		if err != nil {
			s.Errorf("a new user got %v", err)
		}
		return
	}
}

// left is what the instances and Redis have.
type left struct{ workspaces, keys, processes, resident int64 }

func (s *stage) left() left {
	var l left
	for _, folder := range instanceFolders(s.root) {
		if entries, err := os.ReadDir(folder); err == nil {
			l.workspaces += int64(len(entries))
		}
	}
	l.keys = s.redis.DBSize(s.Context()).Val()
	stats, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range stats {
		if strings.Contains(readFile(file), "--session-id") || strings.Contains(readFile(file), "--resume") {
			l.processes++
		}
	}
	for _, p := range append(s.instances[:], s.front) {
		l.resident += resident(p) >> 20
	}
	return l
}

// instanceFolders are where instances keep workspaces and the index of their users.
func instanceFolders(root string) []string {
	folders, _ := filepath.Glob(filepath.Join(root, "*"))
	return folders
}
