package cli

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"
)

// live has the CLI behave as the real one does, a step a millisecond, until its stdin ends. It answers interrupts after
// three steps: what they ended is over by then, or the next turn would have begun if nobody waited for the answer.
func (c *fakeCLI) live() {
	step := time.NewTicker(time.Millisecond)
	defer step.Stop()
	s := script{c: c}
	for {
		select {
		case line, ok := <-c.told:
			if !ok {
				return
			}
			s.tell(line)
		case <-step.C:
			s.step()
		}
	}
}

type script struct {
	c       *fakeCLI
	turn    *run     // nil: none runs
	at      int      // its step
	stopped bool     // it was interrupted
	answers []string // to interrupts: ids, of which one is due at each step, empty ones for none
}

func (s *script) tell(line gjson.Result) {
	id := line.Get("request_id").Str
	switch subtype := line.Get("request.subtype").Str; {
	case line.Get("type").Str == "user":
		s.turn, s.at, s.stopped = &run{c: s.c, uuid: line.Get("uuid").Str}, 0, false
		s.turn.lifecycle("queued")
	case subtype == "interrupt":
		s.stopped = s.stopped || s.turn != nil && s.at >= 2
		s.answers = append(s.answers, "", "", id)
	case subtype == "rewind_conversation" && s.turn != nil:
		s.c.grant(id, `{"rewound":false,"reason":"turn_running"}`)
	case subtype == "rewind_conversation":
		s.c.grant(id, `{"rewound":true}`)
	}
}

func (s *script) step() {
	if len(s.answers) > 0 {
		id := s.answers[0]
		s.answers = s.answers[1:]
		if id != "" {
			s.c.grant(id, "{}")
		}
	}
	if s.turn == nil {
		return
	}
	s.at++
	switch {
	case s.stopped && s.at < 9:
		s.at = 8
		s.turn.result(interrupted)
	case s.at == 1:
		s.turn.lifecycle("started")
	case s.at == 2:
		s.c.say(initLine)
	case s.at < 8:
		s.c.say(event)
	case s.at == 8:
		s.turn.result(success)
	case s.at == 10:
		s.turn.lifecycle("completed")
		s.turn = nil
	}
}

func TestInterrupt_AtAnyMomentLeavesTheNextTurnAlone(t *testing.T) {
	bubble(t, func(t *testing.T, c *fakeCLI) {
		go c.live()
		for moment := time.Duration(0); moment <= 15*time.Millisecond; moment += 100 * time.Microsecond {
			ctx, cancel := context.WithTimeoutCause(t.Context(), moment, errGone)
			abandoned := c.beginUnread(ctx, `"abandoned"`, func() {}, nil)
			if err := abandoned.end(); err != nil {
				require.Equal(t, errGone, err, moment)
			} else {
				require.True(t, abandoned.outcome.Good(), moment)
			}
			cancel()
			require.True(t, c.proc.Rewind(t.Context()), moment)
			next := c.beginUnread(t.Context(), `"next"`, func() {}, nil)
			require.NoError(t, next.end(), moment)
			require.True(t, next.outcome.Good(), fmt.Sprint(moment, next.lines))
			require.Len(t, next.lines, 7, moment)
			require.Empty(t, c.sent(), moment)
		}
	})
}
