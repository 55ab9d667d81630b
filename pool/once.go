package pool

import (
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/expirable"

	"claudepool/pool/api"
)

const (
	// seenFor is how long request ids are remembered: longer than a hop token is valid, so that none is run twice.
	seenFor  = 5 * time.Minute
	seenMost = 100_000
)

// once sees to it that a turn is run once under each request id, also when the same hop comes twice at a time.
type once struct {
	mu    sync.Mutex // makes looking and adding one step
	begun *expirable.LRU[string, bool]
}

func newOnce() *once {
	return &once{begun: expirable.NewLRU[string, bool](seenMost, nil, seenFor)}
}

// claim takes the id, which has to be given back if no turn begins under it. While another request waits under the same
// id nothing has been run yet: that one may be of a connection that broke, so the front may try again.
func (o *once) claim(id string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	begun, taken := o.begun.Peek(id)
	switch {
	case begun:
		return &api.Error{Status: http.StatusConflict, Type: "api_error", Message: "this request has been accepted before"}
	case taken:
		return notStarted{api.Unavailable(time.Second, "this request is waiting already")}
	}
	o.begun.Add(id, false)
	return nil
}

// begin says that the turn runs from now on.
func (o *once) begin(id string) { o.begun.Add(id, true) }

// giveBack says that nothing has been run.
func (o *once) giveBack(id string) { o.begun.Remove(id) }
