package main

import (
	"bytes"
	"context"
	"fmt"

	"github.com/google/uuid"

	"claudepool/infra/testkit/client"
)

// beginnings are first requests that no process warmed up for new users fits.
var beginnings = [...]func(turn client.Fields){
	func(turn client.Fields) { turn["session_id"] = uuid.NewString() },
	func(turn client.Fields) {
		turn["messages"] = []map[string]string{{"role": "user", "content": "one"},
			{"role": "assistant", "content": "two"}, {"role": "user", "content": prompt(1, 0)}}
	},
}

// newConversations has new users come whose first request is one of the beginnings, when what a service keeps for them
// is ready.
func (c *comparison) newConversations(ctx context.Context, n int, both servicePair) error {
	for which, change := range beginnings {
		err := abba(n, c.sizes.beginnings, func(_, side int) (sample, error) {
			if err := c.parked(ctx, both); err != nil {
				return sample{}, err
			}
			u := both[side].newUser()
			turn := client.Turn(u.token, prompt(1, 0))
			change(turn)
			return both[side].begin(ctx, turn)
		}, func(got [2]sample) { c.begun[which].add(n, got) })
		if err != nil {
			return err
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
