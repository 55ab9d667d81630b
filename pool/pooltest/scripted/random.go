package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/google/uuid"

	"claudepool/pool/pooltest/turns"
)

// random writes the lines of a random turn as they are, but for the ids. Where the turn has an error of the pool's, the
// process ends, as that is what the pool says then.
func (t *turn) random() {
	said, id := turns.Random(uint64(t.wants.Number("random"))), uuid.NewString() // #nosec G115 -- a test's
	own := strings.NewReplacer(`"uuid":"u"`, fmt.Sprintf(`"uuid":%q`, id),
		`"session_id":"s"`, fmt.Sprintf(`"session_id":%q`, t.cli.session.id),
		`{"type":"result",`, fmt.Sprintf(`{"type":"result","user_message_uuid":%q,"session_id":%q,`, t.uuid,
			t.cli.session.id))
	for _, line := range said.Lines {
		if strings.HasPrefix(line, `{"type":"error"`) {
			os.Exit(1)
		}
		t.cli.say(json.RawMessage(own.Replace(line)))
	}
	if !said.Failure {
		text, _ := json.Marshal(said.Texts) // a string: can't fail
		t.cli.session.add("assistant", id, text)
		t.cli.session.save()
	}
}
