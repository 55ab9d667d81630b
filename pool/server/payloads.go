package server

import (
	"context"
	"slices"
	"strings"
	"sync"

	"claudepool/pool/channel"
)

const (
	// mostRemembered is of how many payloads a channel knows that they have come, and rememberedCost what each takes.
	mostRemembered = 1024
	rememberedCost = 160 // bytes, about
)

// payloads are what has come on a channel: clients send again what they have no answer to. Its methods may be called
// concurrently.
type payloads struct {
	log *channel.Log // which they are counted with

	mu    sync.Mutex               // guards the following
	came  map[string]chan struct{} // by uuid; closed when it is known whether it was taken, then nil
	order []string                 // the same, oldest first
}

// begin takes a payload that hasn't come before, or was refused then, which is waited for. What it returns says whether
// it is taken; nil: it was before.
func (p *payloads) begin(ctx context.Context, id string) (end func(isTaken bool), err error) {
	for {
		p.mu.Lock()
		known, came := p.came[id]
		if !came {
			defer p.mu.Unlock()
			return p.addLocked(strings.Clone(id)), nil // not the body that it is a part of
		}
		p.mu.Unlock()
		if known == nil {
			return nil, nil
		}
		select {
		case <-known:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (p *payloads) addLocked(id string) (end func(isTaken bool)) {
	if p.came == nil {
		p.came = make(map[string]chan struct{})
	}
	known := make(chan struct{})
	p.came[id] = known
	p.order = append(p.order, id)
	if len(p.order) > mostRemembered {
		delete(p.came, p.order[0])
		p.order = p.order[1:]
	} else {
		p.log.Hold(rememberedCost) // whether there is room or not: what is asked has to be answered
	}
	return func(isTaken bool) {
		p.mu.Lock()
		defer p.mu.Unlock()
		defer close(known)
		switch {
		case p.came[id] != known: // it was pushed out
		case isTaken:
			p.came[id] = nil
		default:
			delete(p.came, id)
			p.order = slices.DeleteFunc(p.order, func(other string) bool { return other == id })
			p.log.Hold(-rememberedCost)
		}
	}
}
