package vault

import (
	"encoding/json"
	"time"

	"claudepool/infra/archive"
	"claudepool/pool/api"
	"claudepool/pool/seal"
)

// maxInManifest is how many bytes of texts the settings in a manifest may have. Larger ones are kept in the body: a
// user's manifests are read all at once and kept in memory, and an archive has little room for one.
const maxInManifest = 32 << 10

// Manifest is what is known of a conversation without its transcript. Names in tags are as they have been stored since
// the first release.
type Manifest struct {
	Session     string
	Incarnation string `json:"Born"` // unique: after a deletion another conversation may begin under the same session id
	Named       bool   // a client chose the session id
	Default     bool   `json:"Standard"` // it is the user's default conversation
	// Digests are of what was said.
	Digests  api.Digests `json:"-"` // see stored
	GoodTurn string      // uuid of the last entry of the last good turn
	Settings Settings
	// SettingsInBody says that the body has the settings, and Settings is empty. Save sees to it.
	SettingsInBody bool `json:"Apart,omitempty"`
	LastUsed       time.Time
	Created        time.Time `json:",omitzero"`  // records of earlier releases don't tell it, nor the next two
	Title          string    `json:",omitempty"` // the beginning of its first text
	Unspoken       bool      `json:",omitempty"` // nothing has been said in it but what it began with
}

// Settings are what a conversation's process was asked for beside its messages. They convert to cli.Settings.
type Settings struct {
	Model, Fallback, Permission, System string
	Thinking                            *bool
	MCP                                 json.RawMessage `json:",omitempty"`
	Background                          bool            `json:",omitempty"`
	Interactive                         bool            `json:",omitempty"`
	First, Client                       json.RawMessage `json:",omitempty"`
	Tools                               json.RawMessage `json:"-"` // each request brings its own
}

// IsLarge reports whether the settings are kept in the body, as a manifest has no room for them.
func (s Settings) IsLarge() bool {
	return len(s.System)+len(s.MCP)+len(s.First)+len(s.Client) > maxInManifest
}

// stored is a manifest as it is kept.
type stored struct {
	Manifest
	Digest  []byte // as releases before Digests know it
	Digests []byte `json:",omitempty"`
}

func (m Manifest) stored() stored { return stored{m, m.Digests.Former(), m.Digests.Bytes()} }

func openManifest(keys *seal.Keys, r archive.Record) (Manifest, error) {
	text, err := keys.Open(r.Head, seal.Place{Name: r.Name, Version: r.Version, Part: manifestPart})
	if err != nil {
		return Manifest{}, err
	}
	var s stored
	if err := json.Unmarshal(text, &s); err != nil {
		return Manifest{}, err
	}
	s.Manifest.Digests = api.DigestsFrom(s.Digest, s.Digests)
	return s.Manifest, nil
}
