package pool

import (
	"bytes"
	"encoding/json"
	"time"

	"claudepool/infra/archive"
	"claudepool/pool/seal"
)

// head is what is told of a conversation apart from its transcript.
type head struct {
	Session  string
	Born     string // see conversation
	Named    bool
	Standard bool // the user's default one
	Digest   []byte
	GoodTurn string
	Settings settingsRecord
	LastUsed time.Time
}

type settingsRecord struct {
	Model, Fallback, Permission, System string
	Thinking                            *bool
	MCP                                 json.RawMessage `json:",omitempty"`
}

// headLocked tells of a conversation that the caller holds.
func (c *conversation) headLocked() *head {
	return &head{Session: c.id, Born: c.born, Named: c.named, Standard: c.user.standard == c, Digest: bytes.Clone(c.digest[:]),
		GoodTurn: c.goodTurn, Settings: recordOf(c.settings), LastUsed: time.Now()}
}

func openHead(keys *seal.Keys, r archive.Record) (*head, error) {
	text, err := keys.Open(r.Head, seal.Place{Name: r.Name, Version: r.Version, Part: "head"})
	if err != nil {
		return nil, err
	}
	h := &head{}
	return h, json.Unmarshal(text, h)
}

func recordOf(s settings) settingsRecord {
	return settingsRecord{s.model, s.fallback, s.permission, s.system, s.thinking, s.mcp}
}

func (r settingsRecord) settings() settings {
	return settings{r.Model, r.Fallback, r.Permission, r.System, r.Thinking, r.MCP}
}
