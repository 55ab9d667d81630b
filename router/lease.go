package router

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNotOwner says that the user is not this instance's: the front has to ask again.
var ErrNotOwner = errors.New("router: not the owner")

// ErrNotNow says that the instance is finding out what it still owns: try again shortly.
var ErrNotNow = errors.New("router: reconciling")

const (
	beatTimeout  = 2 * time.Second
	assertBatch  = 500
	refreshEvery = ownerTTL / 3
)

// fence is for how long after a renewal turns are admitted. It is a variable for the test that shows what Margin is
// for.
var fence = LeaseTime - Margin

// LeaseOptions are an instance's settings.
type LeaseOptions struct {
	Logger      *slog.Logger
	Addr        string        // host:port where fronts reach this instance
	Fingerprint string        // of the certificate by which they know it
	Wire        int           // version of the wire that the instance speaks, for fronts of another release
	Capacity    int           // processes
	HomeTTL     time.Duration // how long the files of a user's conversations are kept

	Load  func() (reserved, idle int)
	Full  func() bool       // no conversation can begin here now, whatever Load says; nil is never
	Evict func(user string) // give the user up when its turns have ended
	// HandOver is what the next owner of a user is to find who was held by the claim and is given up, for so long; nil is
	// what an owner before has left.
	HandOver func(user, claim string) (left []byte, ttl time.Duration)
	Clock    func() time.Duration // nil: CLOCK_BOOTTIME, which goes on while the machine sleeps
}

// Lease is the instance's side: its life sign, and which users it owns. Its methods may be called concurrently.
type Lease struct {
	redis Redis
	opts  LeaseOptions
	id    string
	asker asker[adoption]

	mu           sync.Mutex    // guards everything below
	renewed      time.Duration // when the last good renewal was sent
	alive        bool          // there was one
	epoch        string        // in which it was reconciled; empty before
	registration string        // of the last registration
	draining     bool
	claims       map[string]holding // users held
	released     map[string]release // users given up, while Redis couldn't be told
	redisAway    bool               // the last beat failed: Redis is away; logged once
	// releases told and reconciliations begun: what Redis answered before one doesn't hold after it
	changes int
}

// NewLease returns a lease under a random id, so that an address used again by another instance can't be mistaken for
// this one. Run registers it.
func NewLease(redis Redis, opts LeaseOptions) *Lease {
	if opts.Clock == nil {
		opts.Clock = bootTime
	}
	l := &Lease{redis: redis, opts: opts, id: random(8),
		claims: make(map[string]holding), released: make(map[string]release)}
	l.asker = asker[adoption]{parallel: parallel, script: l.ownAll}
	return l
}

func bootTime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		panic("router: no CLOCK_BOOTTIME: " + err.Error())
	}
	return time.Duration(t.Nano())
}

// ID is the instance's id.
func (l *Lease) ID() string { return l.id }

// Run renews the lease until ctx is done.
func (l *Lease) Run(ctx context.Context) {
	// Instances that started together shall not keep Redis busy at the same time.
	refreshed := time.Now().Add(-rand.N(refreshEvery)) // #nosec G404 -- no secret
	for {
		next := renewTime
		if err := l.beat(ctx); err != nil {
			next = retryTime
		} else if time.Since(refreshed) > refreshEvery {
			if l.refresh(ctx) { // else with the next beat
				refreshed = time.Now()
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(next):
		}
	}
}

// Admit says whether a turn of the user may begin here now: nil, ErrNotOwner or ErrNotNow. outage is the front's word
// that it knows this instance as the owner and can't reach Redis either: then nobody can place anybody, and a user that
// is held here may stay. An instance whose own last beat was answered knows better. The clock is looked at each time,
// so that a machine that slept doesn't go on where it was.
func (l *Lease) Admit(ctx context.Context, user string, outage bool) error {
	l.mu.Lock()
	_, held := l.claims[user]
	fresh, lost := l.freshLocked(), l.redisAway
	l.mu.Unlock()
	switch {
	case held && (fresh || outage && lost):
		return nil
	case !fresh:
		return ErrNotOwner
	}
	return l.adopt(ctx, user)
}

func (l *Lease) freshLocked() bool {
	return l.alive && l.epoch != "" && l.opts.Clock()-l.renewed < fence
}

// Drain takes the instance out of placement at once.
func (l *Lease) Drain(ctx context.Context) error {
	l.mu.Lock()
	l.draining = true
	l.mu.Unlock()
	return l.beat(ctx)
}

// endedTTL is how long it stays known of an instance that it has ended as it should: longer than a front waits to hear
// it.
const endedTTL = 10 * time.Second

// Close ends the lease. Run must have ended, and every user must have been released. That all requests were answered
// which the instance had accepted is for fronts to rely on, see Router.Answered.
func (l *Lease) Close(ctx context.Context, answered bool) error {
	l.sendReleases(ctx)
	pipe := l.redis.TxPipeline()
	if answered {
		pipe.Set(ctx, endedKey(l.id), 1, endedTTL)
	}
	pipe.Del(ctx, instanceKey(l.id), evictKey(l.id))
	pipe.ZRem(ctx, candidatesKey, l.id)
	pipe.ZRem(ctx, evictableKey, l.id)
	pipe.SRem(ctx, pendingKey, l.id)
	_, err := pipe.Exec(ctx)
	return err
}

// beat renews the lease. The time that counts is that of the sending: the lease can't have begun earlier.
func (l *Lease) beat(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, beatTimeout)
	defer cancel()
	l.sendReleases(ctx)
	sent := l.opts.Clock()
	l.mu.Lock()
	epoch := l.epoch
	l.mu.Unlock()
	state, now, users, err := l.send(ctx, epoch)
	if err == nil && (state == "reconcile" || epoch == "") {
		err = l.reconcile(ctx, now)
	}
	l.noteBeat(err, sent, now)
	for _, user := range users {
		go l.opts.Evict(user)
	}
	return err
}

func (l *Lease) send(ctx context.Context, epoch string) (state, now string, users []string, err error) {
	reserved, idle := l.opts.Load()
	full := 0
	if l.opts.Full != nil && l.opts.Full() {
		full = 1
	}
	l.mu.Lock()
	draining := 0
	if l.draining {
		draining = 1
	}
	number := l.registration
	l.mu.Unlock()
	keys := []string{epochKey, instanceKey(l.id), candidatesKey, evictableKey, pendingKey, evictKey(l.id)}
	answer, err := beatScript.Run(ctx, l.redis, keys, LeaseTime.Milliseconds(), l.id, l.opts.Addr, l.opts.Capacity,
		reserved, idle, draining, epoch, l.opts.Wire, l.opts.Fingerprint, number, full).Slice()
	if err != nil {
		return "", "", nil, err
	}
	if state, err = text(answer, 0); err != nil {
		return "", "", nil, err
	}
	if now, err = text(answer, 1); err != nil {
		return "", "", nil, err
	}
	for i := 2; i < len(answer); i++ {
		if user, err := text(answer, i); err == nil {
			users = append(users, user)
		}
	}
	return state, now, users, nil
}

// noteBeat keeps the result of a beat, and tells the log when Redis goes and comes.
func (l *Lease) noteBeat(err error, sent time.Duration, epoch string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		if !l.redisAway {
			l.opts.Logger.Error("the lease can't be renewed: Redis is away", "instance", l.id, "error", err)
		}
		l.redisAway = true
		return
	}
	if l.redisAway {
		l.opts.Logger.Info("the lease is renewed again", "instance", l.id, "epoch", epoch)
	}
	l.redisAway, l.renewed, l.alive = false, sent, true
}
