package telemetry

import (
	"slices"
	"sync"
)

// Other is what a name is called that isn't known.
const Other = "other"

// Names keeps what strangers name from making ever more series: only a few names are known, all others are Other. Its
// methods may be called concurrently.
type Names struct {
	mu    sync.Mutex // guards known
	known []string
	most  int
}

// NewNames returns Names that knows some, and may learn until it knows most.
func NewNames(most int, known ...string) *Names { return &Names{known: known, most: most} }

// Learn makes a name known, if there is room.
func (n *Names) Learn(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.known) < n.most && !slices.Contains(n.known, name) {
		n.known = append(n.known, name)
	}
}

// Of is the name, or Other where it isn't known.
func (n *Names) Of(name string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if slices.Contains(n.known, name) {
		return name
	}
	return Other
}
