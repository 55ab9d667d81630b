package server

import (
	"net/http"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"claudepool/pool/api"
)

// seenMost is how many request ids are remembered, so that none is run twice: more than can come while a hop token is
// valid.
const seenMost = 100_000

// once sees to it that a turn is run once under each request id, also when the same hop comes twice at a time.
type once struct {
	mu    sync.Mutex // makes looking and adding one step
	begun *lru.Cache[string, bool]
}

func newOnce() *once {
	begun, _ := lru.New[string, bool](seenMost) // fails on a size of 0 only
	return &once{begun: begun}
}

// claim takes the id, which has to be given back at the end. While another request waits under the same
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

// begin says that what the request asks for is done from now on.
func (o *once) begin(id string) { o.begun.Add(id, true) }

// giveBack ends the claim. If nothing has begun under the id, it may be claimed again.
func (o *once) giveBack(id string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if begun, taken := o.begun.Peek(id); taken && !begun {
		o.begun.Remove(id)
	}
}
