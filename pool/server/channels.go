package server

import (
	"context"
	"sync"
	"time"

	"claudepool/pool/api"
	"claudepool/pool/channel"
)

const (
	// expireInterval is how often channels are looked at that nobody may need any more.
	expireInterval = time.Minute
	// maxDeleted is how many deleted conversations are remembered, so that they are told from those that are to begin, and
	// deletedFor is for how long.
	maxDeleted = 10_000
	deletedFor = time.Hour
)

var (
	errDeleted    = api.NotFound("this conversation has been deleted")
	errManyOfUser = api.RateLimited(time.Minute, "too many read this user's channels")
	errManyLogs   = api.Overloaded(time.Minute, "no room for another channel")
)

// talkID is a conversation of a user.
type talkID struct {
	user    channel.User
	session string
}

// channels are the channels of an instance's conversations. Its methods may be called concurrently.
type channels struct {
	server *Server
	logs   *channel.Logs

	mu      sync.Mutex // guards the following; of talks only what is asked is looked at while it is held
	talks   map[talkID]*talk
	deleted map[talkID]time.Time
	expiry  *time.Timer // nil while there is nothing to expire
}

func newChannels(s *Server) *channels {
	return &channels{server: s, logs: channel.New(s.opts.LogBytes), talks: make(map[talkID]*talk),
		deleted: make(map[talkID]time.Time)}
}

func talkOf(req *api.Request) talkID { return talkID{req.UserDigest(), req.SessionID} }

// open returns the channel of a request's conversation, used until it is left.
func (c *channels) open(req *api.Request) (*talk, error) {
	id := talkOf(req)
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.deleted[id]) < deletedFor {
		return nil, errDeleted
	}
	t := c.talks[id]
	if t == nil {
		log, err := c.logs.Begin(id.user)
		if err != nil {
			return nil, errManyLogs
		}
		t = newTalk(c, id, log)
		c.talks[id] = t
	}
	t.users++
	c.expireLaterLocked()
	return t, nil
}

// awaiting is the channel of which a turn waits for all that is sent, used until it is left; nil: there is none. A turn
// that runs is answered, also when its user or the instance takes nothing else any more.
func (c *channels) awaiting(s *api.Sending) (t *talk, leave func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t = c.talks[talkOf(s.Request)]
	if t == nil {
		return nil, nil
	}
	for _, p := range s.Payloads {
		if p.Type != api.TypeControlResponse || !t.asks.has(p.RequestID) {
			return nil, nil
		}
	}
	t.users++
	return t, func() { c.leave(t) }
}

// leave ends what open began.
func (c *channels) leave(t *talk) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t.users--
	c.dropIfUselessLocked(t)
}

// dropIfUselessLocked drops a channel that nobody uses and that has nothing to tell.
func (c *channels) dropIfUselessLocked(t *talk) {
	if t.users == 0 && t.log.Empty() && c.talks[t.id] == t {
		delete(c.talks, t.id)
		t.log.End()
	}
}

// forget ends the channels of what the request is about to have deleted, and remembers that. What it returns says that
// it couldn't be.
func (c *channels) forget(req *api.Request) (restore func()) {
	id := talkOf(req)
	var all []talkID
	c.mu.Lock()
	defer c.mu.Unlock()
	if req.SessionID != "" {
		all = append(all, id)
	}
	for other := range c.talks {
		if req.SessionID == "" && other.user == id.user {
			all = append(all, other)
		}
	}
	for _, id := range all {
		c.forgetLocked(id)
	}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, id := range all {
			delete(c.deleted, id)
		}
	}
}

func (c *channels) forgetLocked(id talkID) {
	if t := c.talks[id]; t != nil {
		delete(c.talks, id)
		t.die()
	}
	for old := range c.deleted {
		if len(c.deleted) < maxDeleted {
			break
		}
		delete(c.deleted, old) // any: all it costs is that a client which still reads it isn't told
	}
	c.deleted[id] = time.Now()
	c.expireLaterLocked()
}

func (c *channels) expireLaterLocked() {
	if c.expiry == nil {
		c.expiry = time.AfterFunc(expireInterval, c.expire)
	}
}

// expire drops what is too old, and comes again as long as anything is left.
func (c *channels) expire() {
	c.logs.Expire()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.talks {
		c.dropIfUselessLocked(t)
	}
	for id, at := range c.deleted {
		if time.Since(at) >= deletedFor {
			delete(c.deleted, id)
		}
	}
	c.expiry = nil
	if len(c.talks)+len(c.deleted) > 0 {
		c.expireLaterLocked()
	}
}

// close ends all channels.
func (c *channels) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.talks {
		t.log.End()
	}
	clear(c.talks)
	clear(c.deleted)
	if c.expiry != nil {
		c.expiry.Stop()
	}
}

// attend has the request's user stay this instance's while its channel is used.
func (s *Server) attend(ctx context.Context, req *api.Request, outage bool) (t *talk, leaving context.Context,
	leave func(), err error) {
	leaving, letGo, err := s.backend.Attend(ctx, req, outage)
	if err != nil {
		return nil, nil, nil, err
	}
	if t, err = s.channels.open(req); err != nil {
		letGo()
		return nil, nil, nil, err
	}
	return t, leaving, func() {
		s.channels.leave(t)
		letGo()
	}, nil
}
