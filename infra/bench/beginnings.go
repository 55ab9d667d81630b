package main

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"syscall"
	"time"

	"github.com/google/uuid"

	"claudepool/infra/testkit/client"
	"claudepool/pool/api"
)

// beginnings are requests that find no process of their conversation, and differ from those of new users.
// Before the one that counts, ready waits until what a service keeps for such requests is there.
var beginnings = [...]struct {
	name string
	ask  func(ctx context.Context, s *service, ready func() error) (sample, error)
}{
	{"new user with a session_id", first(func(turn client.Fields) { turn["session_id"] = uuid.NewString() })},
	{"new user with a history of 3 messages", first(history(3))},
	{"new user with a history of 60 messages", first(history(60))},
	{"user whose process has ended", comeBack},
}

// first is a first request with something more.
func first(more func(turn client.Fields)) func(context.Context, *service, func() error) (sample, error) {
	return func(ctx context.Context, s *service, ready func() error) (sample, error) {
		if err := ready(); err != nil {
			return sample{}, err
		}
		turn := client.Turn(s.newUser().token, prompt(1, 0))
		more(turn)
		return s.begin(ctx, turn)
	}
}

// history is so many messages, the last of which is the question.
func history(n int) func(turn client.Fields) {
	return func(turn client.Fields) {
		var messages []map[string]string
		for i := range n {
			role := [...]string{"user", "assistant"}[i%2]
			messages = append(messages, map[string]string{"role": role, "content": fmt.Sprint("message ", i)})
		}
		messages[n-1] = map[string]string{"role": "user", "content": prompt(1, 0)}
		turn["messages"] = messages
	}
}

// comeBack is the second request of a user whose process has been ended meanwhile.
func comeBack(ctx context.Context, s *service, ready func() error) (sample, error) {
	u := s.newUser()
	before, err := u.ask(ctx, prompt(1, 0))
	if err != nil {
		return sample{}, err
	}
	time.Sleep(rest) // the CLI has written its transcript
	if err := syscall.Kill(before.pid, syscall.SIGTERM); err != nil {
		return sample{}, err
	}
	s.users-- // it has no process
	err = await(ctx, "the end of a process", func() (bool, error) {
		stats, err := s.Stats(ctx)
		gone := !slices.ContainsFunc(stats.ActiveUsers, func(u api.ActiveUser) bool { return u.PID == before.pid })
		return gone, err
	})
	if err == nil {
		err = ready()
	}
	if err != nil {
		return sample{}, err
	}
	s.users++
	return u.ask(ctx, prompt(2, 0))
}

// newConversations has users come with each of the beginnings.
func (c *comparison) newConversations(ctx context.Context, n int, both servicePair) error {
	for which, beginning := range beginnings {
		err := abba(n, c.sizes.beginnings, func(_, side int) (sample, error) {
			return beginning.ask(ctx, both[side], func() error { return c.parked(ctx, both) })
		}, func(got [2]sample) { c.begun[which].add(n, got) })
		if err != nil {
			return fmt.Errorf("%s: %w", beginning.name, err)
		}
	}
	return nil
}

// begin has a turn.
func (s *service) begin(ctx context.Context, turn client.Fields) (sample, error) {
	stream, err := s.Begin(ctx, turn)
	if err != nil {
		return sample{}, err
	}
	defer stream.Close()
	a, err := stream.Answer()
	return sample{first: a.FirstToken, total: a.Total, process: a.Process, pid: a.PID, text: a.Text}, err
}

// parked waits until both sides have their standbys, and where they keep any a parked process.
func (c *comparison) parked(ctx context.Context, both servicePair) error {
	if err := c.ready(ctx, both); err != nil {
		return err
	}
	for _, s := range both {
		err := await(ctx, "a parked process", func() (bool, error) {
			text, err := s.Get(ctx, "/v1/pool/stats")
			if err != nil || !bytes.Contains(text, []byte(`"parked"`)) { // as before there were any
				return true, err
			}
			stats, err := s.Stats(ctx)
			return len(stats.Instances) > 0 && stats.Instances[0].Parked > 0, err
		})
		if err != nil {
			return fmt.Errorf("%s: %w", s.URL, err)
		}
	}
	return nil
}
