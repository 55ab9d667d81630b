package standby

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"claudepool/pool/broker"
	"claudepool/pool/cli"
	"claudepool/pool/pooltest"
)

// claims is how many claims a test makes: make parked has the long one.
func claims(name string, usual int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return usual
}

func TestParked_NobodyGetsAnothersProcess(t *testing.T) {
	t.Parallel()
	s := newParking(t, func(_ *stage, o *Options) { o.Min = 4 })
	claimAll(t, s, claims("CLAIMS", 40), 4, "[[events=1]] ")
}

func TestParked_NobodyGetsAnothersProcessOfTheRealCLI(t *testing.T) {
	t.Parallel()
	var api *pooltest.API
	s := newParking(t, func(s *stage, o *Options) { api, o.Min = s.useRealCLI(), 2 })
	n := claims("CLAIMS_REAL", 3)
	claimAll(t, s, n, 2, "")
	require.GreaterOrEqual(t, len(api.Calls()), n)
	for _, call := range api.Calls() { // a call is one user's: the credential's, and what was said in the conversation
		user := strings.TrimPrefix(call.Header.Get("Authorization"), "Bearer ")
		for _, said := range call.Messages() {
			if _, whose, ok := strings.Cut(said, "of "); ok {
				require.Equal(t, user, strings.Fields(whose)[0])
			}
		}
	}
}

// useRealCLI has the stage keep the real CLI, and returns the API it talks to.
func (s *stage) useRealCLI() *pooltest.API {
	bin, err := pooltest.RealCLI()
	require.NoError(s.t, err)
	api, err := pooltest.NewAPI(nil)
	require.NoError(s.t, err)
	s.t.Cleanup(api.Close)
	s.bin, s.upstream = bin, api.URL()
	return api
}

// claimAll makes so many claims, some at a time, each by a user with a conversation of its own, and has each answered.
func claimAll(t *testing.T, s *stage, n, at int, directive string) {
	t.Helper()
	next := make(chan int)
	var all sync.WaitGroup
	var mu sync.Mutex
	folders := map[string]bool{} // pids come again, these don't
	for range at {
		all.Go(func() {
			for i := range next {
				p := claimOne(t, s, fmt.Sprintf("user-%d", i), directive)
				if p == nil {
					continue
				}
				mu.Lock()
				assert.False(t, folders[p.Folder.Root], "it is another's")
				folders[p.Folder.Root] = true
				mu.Unlock()
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	all.Wait()
	require.Len(t, folders, n)
}

// claimOne is one user's claim, from the first try to the end of the process.
func claimOne(t *testing.T, s *stage, user, directive string) *Process {
	p, err := s.Unpark(t.Context(), broker.Credential{OAuthToken: user}, usual)
	for errors.Is(err, ErrNone) {
		time.Sleep(time.Millisecond)
		p, err = s.Unpark(t.Context(), broker.Credential{OAuthToken: user}, usual)
	}
	if !assert.NoError(t, err) {
		return nil
	}
	session := seed(t, p, "the past of "+user+" .")
	if assert.NoError(t, p.GoOn(t.Context(), session, "")) {
		sessions, err := say(t.Context(), p.Process, directive+"the turn of "+user+" .")
		assert.NoError(t, err)
		assert.Equal(t, map[string]bool{session: true}, sessions)
		p.Quit() // or the real one writes after the last look
		text := transcript(t, p, session)
		for _, said := range []string{"the past of ", "the turn of "} {
			assert.Equal(t, strings.Count(text, said), strings.Count(text, said+user+" ."))
			assert.Contains(t, text, said+user+" .")
		}
	}
	assert.NoError(t, p.Discard())
	return p
}

// say has a process answer, and returns the session ids in what it writes.
func say(ctx context.Context, p *cli.Process, text string) (sessions map[string]bool, err error) {
	sessions = make(map[string]bool)
	content, err := json.Marshal(text)
	if err != nil {
		return nil, err
	}
	outcome, err := p.Run(ctx, content, func() {}, func(_ context.Context, lines [][]byte, _ *cli.Outcome) error {
		for _, line := range lines {
			if id := gjson.GetBytes(line, "session_id"); id.Exists() {
				sessions[id.Str] = true
			}
		}
		return nil
	})
	if err == nil && !outcome.Good() {
		err = fmt.Errorf("no good answer: %v", outcome.Result)
	}
	return sessions, err
}
