package server

import (
	"encoding/json"
	"errors"
	"sync"
	"time"

	"claudepool/pool/api"
	"claudepool/pool/channel"
)

// absence is how long nobody has to have read a channel until what is asked there is answered for nobody.
const absence = time.Minute

const nobody = "Nobody is connected to this conversation who could approve or answer this."

// pendingAsks are what a conversation's processes ask of a channel's clients. It is an api.Host.
type pendingAsks struct {
	talk *talk

	mu    sync.Mutex // guards the following
	asks  map[string]*pendingAsk
	check *time.Timer // looks whether anybody is there; nil: nothing is asked
}

// pendingAsk is one that waits for its answer.
type pendingAsk struct {
	api.Ask
	unable int // clients that can't answer it
}

// Asked is of api.Host. What belongs to a turn stands among its lines, in their order.
func (p *pendingAsks) Asked(a api.Ask) (isShown bool) {
	p.mu.Lock()
	if p.asks == nil {
		p.asks = make(map[string]*pendingAsk)
	}
	p.asks[a.ID] = &pendingAsk{Ask: a}
	if p.check == nil {
		p.check = time.AfterFunc(p.talk.log.Watched(absence), p.look)
	}
	p.mu.Unlock()
	turn := p.talk.running()
	if turn != nil && (a.Subtype == api.AskTool || a.Subtype == api.AskElicitation) {
		return true
	}
	p.talk.log.Append(channel.Event{Source: sourceWorker, Payload: a.Line})
	return false
}

// Withdrawn is of api.Host.
func (p *pendingAsks) Withdrawn(id string) {
	if p.take(id) {
		p.settled(id)
	}
}

// settled tells all readers that something isn't asked any more.
func (p *pendingAsks) settled(id string) {
	text, _ := json.Marshal(map[string]string{"type": api.TypeControlCancel, "request_id": id}) // of strings: can't fail
	p.talk.log.Append(channel.Event{Source: sourceWorker, Payload: text})
}

// has reports whether somebody waits for an answer.
func (p *pendingAsks) has(id string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, is := p.asks[id]
	return is
}

// take takes out what was asked, which nobody else can answer then.
func (p *pendingAsks) take(id string) (was bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, was = p.asks[id]
	delete(p.asks, id)
	return was
}

// find is what a client answers. That one isn't able to, as it has no such hook, counts when all are who read.
func (p *pendingAsks) find(id string, isAble bool) *pendingAsk {
	readers := p.talk.log.Readers()
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.asks[id]
	if a == nil || isAble {
		return a
	}
	if a.unable++; a.unable < readers {
		return nil
	}
	return a
}

// answer passes a client's answer on, if it is one that clients may give. It waits for a process that doesn't read.
// What nobody waits for any more, as another client has answered, is of no use and no error.
func (p *pendingAsks) answer(answer api.Payload) error {
	isAble := answer.Subtype == "success"
	a := p.find(answer.RequestID, isAble)
	if a == nil {
		return nil
	}
	var err error
	if isAble {
		err = a.Answer(answer.Body)
	} else {
		err = a.AnswerForNobody(answer.Error)
	}
	if err != nil && !errors.Is(err, api.ErrNotAsked) {
		return err
	}
	if p.take(answer.RequestID) {
		p.settled(answer.RequestID)
	}
	return nil
}

// look answers what is asked for nobody, once nobody has read for a while.
func (p *pendingAsks) look() {
	left := p.talk.log.Watched(absence)
	p.mu.Lock()
	var all []*pendingAsk
	switch {
	case len(p.asks) == 0:
		p.check = nil
	case left > 0:
		p.check.Reset(left)
	default:
		p.check = nil
		for _, a := range p.asks {
			all = append(all, a)
		}
		clear(p.asks)
	}
	p.mu.Unlock()
	for _, a := range all {
		_ = a.AnswerForNobody(nobody)
		p.settled(a.ID)
	}
}
