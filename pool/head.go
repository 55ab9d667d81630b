package pool

import (
	"encoding/json"
	"time"

	"claudepool/infra/archive"
	"claudepool/pool/cli"
	"claudepool/pool/seal"
)

// headMost is how many bytes of texts the settings in a head may have. Larger ones are kept before the transcript: a user's
// heads are read all at once and kept in memory, and an archive has little room for one.
const headMost = 32 << 10

// head is what is told of a conversation apart from its transcript.
type head struct {
	Session  string
	Born     string // see conversation
	Named    bool
	Standard bool   // the user's default one
	Digest   []byte // as releases before Digests know it
	Digests  []byte `json:",omitempty"`
	GoodTurn string
	Settings settingsRecord
	Apart    bool `json:",omitempty"` // the settings stand before the transcript
	LastUsed time.Time
}

type settingsRecord struct {
	Model, Fallback, Permission, System string
	Thinking                            *bool
	MCP                                 json.RawMessage `json:",omitempty"`
	Background                          bool            `json:",omitempty"`
}

// headOf tells of a held conversation, but for Standard.
func headOf(s *slot) *head {
	return &head{Session: s.id, Born: s.born, Named: s.named, Digest: s.digests.Former(), Digests: s.digests.Bytes(), GoodTurn: s.goodTurn,
		Settings: recordOf(s.settings), LastUsed: time.Now()}
}

func openHead(keys *seal.Keys, r archive.Record) (*head, error) {
	text, err := keys.Open(r.Head, seal.Place{Name: r.Name, Version: r.Version, Part: "head"})
	if err != nil {
		return nil, err
	}
	h := &head{}
	return h, json.Unmarshal(text, h)
}

// isLarge reports whether a head has no room for the settings.
func (r settingsRecord) isLarge() bool { return len(r.System)+len(r.MCP) > headMost }

func recordOf(s cli.Settings) settingsRecord {
	return settingsRecord{s.Model, s.Fallback, s.Permission, s.System, s.Thinking, s.MCP, s.Background}
}

func (r settingsRecord) settings() cli.Settings {
	return cli.Settings{Model: r.Model, Fallback: r.Fallback, Permission: r.Permission, System: r.System, Thinking: r.Thinking, MCP: r.MCP,
		Background: r.Background}
}
