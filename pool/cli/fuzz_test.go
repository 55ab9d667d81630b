package cli

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"
)

// FuzzTake has a CLI write anything in the middle of a turn. UUID stands for its message's.
func FuzzTake(f *testing.F) {
	started := `{"type":"command_lifecycle","command_uuid":"UUID","state":"started"}` + "\n"
	completed := strings.ReplaceAll(started, "started", "completed")
	result := `{"type":"result","user_message_uuid":"UUID",` + success + "}\n"
	results := strings.ReplaceAll(result, `"user_message_uuid":"UUID"`, `"user_message_uuids":["UUID",1]`)
	for _, seed := range []string{
		started + initLine + "\n" + event + "\n" + assistant + "\n" + result + completed,
		started + results + result,
		started + strings.Join(noise, "\n") + "\n" + stray + "\n" + strayEnd,
		`{"type":"control_request","request_id":"a"}` + "\n" + `{"type":"control_response","response":{"request_id":"b"}}`,
		started + long(queueBytes) + "\n" + long(queueBytes) + "\n" + result,
	} {
		f.Add([]byte(seed))
	}
	grants := newGrants(f)
	f.Fuzz(func(t *testing.T, says []byte) {
		c := newCLI(t, grants)
		c.listen()
		r := c.begin(t.Context(), nil)
		_, _ = c.stdout.Write(bytes.ReplaceAll(says, []byte("UUID"), []byte(r.uuid)))
		c.die()
		err := r.end()
		if (err == nil) != (r.outcome.Result != nil) || err != nil && !errors.Is(err, ErrDied) {
			t.Fatalf("ended with %v: %+v", err, r.outcome)
		}
		select {
		case <-c.proc.Exited():
		case <-time.After(patience):
			t.Fatal("the reading doesn't end")
		}
	})
}
