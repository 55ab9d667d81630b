package server

import (
	"container/list"
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
	// talksOfUser is how many channels a user may have at a time. The one that was used longest ago gives way.
	talksOfUser = 64
	// silentFor is for how long a channel without any message is kept for nobody.
	silentFor = 5 * time.Minute
	// wishesFor is for how long one is that has nothing but what clients have asked for, of a user who has had a turn.
	wishesFor = 24 * time.Hour
)

var (
	errDeleted    = api.NotFound("this conversation has been deleted")
	errManyOfUser = api.RateLimited(time.Minute, "too many read this user's channels")
	errManyTalks  = api.RateLimited(time.Minute, "too many of this user's channels are in use")
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

	// mu guards the following. Of talks only what is asked is looked at while it is held.
	mu      sync.Mutex
	talks   map[channel.User]map[string]*talk // by user and session
	unused  [2]*list.List                     // of talks, without a turn and with one; the one used longest ago first
	deleted map[talkID]time.Time
	expiry  *time.Timer // nil while there is nothing to expire
}

func newChannels(s *Server) *channels {
	return &channels{server: s, logs: channel.New(s.opts.LogBytes), talks: make(map[channel.User]map[string]*talk),
		unused: [2]*list.List{list.New(), list.New()}, deleted: make(map[talkID]time.Time)}
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
	t, claim := c.talks[id.user][id.session], c.claim(req)
	if t != nil && claim != "" && t.claim != claim { // another instance may have been asked for something else meanwhile
		t.claim = claim
		t.dropWishes()
	}
	if t == nil {
		var err error
		if t, err = c.beginLocked(id); err != nil {
			return nil, err
		}
		t.claim = claim
	}
	c.useLocked(t)
	c.expireLaterLocked()
	return t, nil
}

// claim is that by which the request's user is this instance's.
func (c *channels) claim(req *api.Request) string {
	if c.server.opts.Handover == nil {
		return ""
	}
	return c.server.opts.Handover.Claim(req.UserID())
}

func (c *channels) beginLocked(id talkID) (*talk, error) {
	if len(c.talks[id.user]) >= talksOfUser && !c.dropOneLocked(id.user) {
		return nil, errManyTalks
	}
	log, err := c.logs.Begin(id.user)
	for err != nil && c.giveWayLocked() {
		log, err = c.logs.Begin(id.user)
	}
	if err != nil {
		return nil, errManyLogs
	}
	if c.talks[id.user] == nil {
		c.talks[id.user] = make(map[string]*talk)
	}
	t := newTalk(c, id, log)
	c.talks[id.user][id.session] = t
	return t, nil
}

func (c *channels) removeLocked(t *talk) {
	c.unlistLocked(t)
	of := c.talks[t.id.user]
	if delete(of, t.id.session); len(of) == 0 {
		delete(c.talks, t.id.user)
	}
}

// awaiting is the channel of which a turn waits for all that is sent, used until it is left; nil: there is none. A turn
// that runs is answered, also when its user or the instance takes nothing else any more.
func (c *channels) awaiting(s *api.Sending) (t *talk, leave func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	id := talkOf(s.Request)
	t = c.talks[id.user][id.session]
	if t == nil {
		return nil, nil
	}
	for _, p := range s.Payloads {
		if p.Type != api.TypeControlResponse || !t.asks.has(p.RequestID) {
			return nil, nil
		}
	}
	c.useLocked(t)
	return t, func() { c.leave(t) }
}

// leave ends what open began.
func (c *channels) leave(t *talk) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t.users--
	t.left = time.Now()
	if t.users == 0 && c.talks[t.id.user][t.id.session] == t {
		unused := c.unused[0]
		if t.hadTurn.Load() {
			unused = c.unused[1]
		}
		t.place = unused.PushBack(t)
		c.dropIfUselessLocked(t)
	}
}

// dropIfUselessLocked drops a channel that nobody uses and that has nothing to tell or to keep, or nothing but answers
// to who has gone.
func (c *channels) dropIfUselessLocked(t *talk) {
	isKept := t.hadTurn.Load() && t.hasWishes() && time.Since(t.left) < wishesFor
	isSilent := !t.spoken.Load() && time.Since(t.left) >= silentFor
	if t.users == 0 && (isSilent || t.log.Empty() && !isKept) {
		c.removeLocked(t)
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
	} else {
		for session := range c.talks[id.user] {
			all = append(all, talkID{id.user, session})
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
	if t := c.talks[id.user][id.session]; t != nil {
		c.removeLocked(t)
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
	for _, of := range c.talks {
		for _, t := range of {
			c.dropIfUselessLocked(t)
		}
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
	for _, of := range c.talks {
		for _, t := range of {
			t.log.End()
		}
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
