package vault

import (
	"claudepool/infra/archive"
	"claudepool/pool/seal"
)

// State is whether the archive has a conversation.
type State int

const (
	Unknown State = iota // it was never saved, or has expired
	Saved                // also if it can't be read
	Deleted
)

// Listing is what the archive has of a user at a moment. It may be used concurrently.
type Listing struct {
	Conversations []Conversation // those that can be read
	Unreadable    []error        // one for each of the others

	keys   *seal.Keys
	states map[string]State // by the archive's names
}

// Conversation is one that is saved.
type Conversation struct {
	Manifest
	Version int64
}

func newListing(keys *seal.Keys, records []archive.Record) Listing {
	l := Listing{keys: keys, states: make(map[string]State, len(records))}
	for _, r := range records {
		if r.Deleted {
			l.states[r.Name] = Deleted
			continue
		}
		l.states[r.Name] = Saved
		m, err := openManifest(keys, r)
		if err != nil {
			l.Unreadable = append(l.Unreadable, err)
			continue
		}
		l.Conversations = append(l.Conversations, Conversation{m, r.Version})
	}
	return l
}

// State is that of one conversation.
func (l Listing) State(session string) State { return l.states[l.keys.Name(session)] }
