// Package snapshot carries what each pool instance holds to the fronts: instances publish, fronts view. Nothing depends
// on a snapshot but the stats; a store that is away costs no request anything.
package snapshot

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"claudepool/infra/latency"
)

const (
	// Lifetime is how long a snapshot counts after it was taken.
	Lifetime = time.Minute

	retryAfter   = 2 * time.Second
	atLeastEvery = 15 * time.Second
	writeTimeout = 5 * time.Second
	readTimeout  = 2 * time.Second
)

// Instance is what one pool instance holds.
type Instance struct {
	ID        string    `firestore:"id"`
	At        time.Time `firestore:"at"`
	ExpiresAt time.Time `firestore:"expires_at"`
	Capacity  int       `firestore:"capacity"`
	Processes int       `firestore:"processes"`
	Busy      int       `firestore:"busy"`    // of those
	Pending   int       `firestore:"pending"` // processes that start or end, and users who wait for one
	Standby   int       `firestore:"standby"`
	// requests since the start that a standby would have fitted, but none was ready
	Misses int64 `firestore:"misses"`
	Parked int   `firestore:"parked"`
	// the same of requests that a parked process would have fitted
	ParkedMisses int64 `firestore:"parked_misses"`
	// those of conversations that had too many files to go on elsewhere
	MovedTooLarge   int64           `firestore:"moved_too_large"`
	Queued          int             `firestore:"queued"` // requests that wait for their conversation
	Draining        bool            `firestore:"draining"`
	MaxIdle         time.Duration   `firestore:"max_idle"`
	CleanupInterval time.Duration   `firestore:"cleanup_interval"`
	Protections     map[string]bool `firestore:"protections"`
	Cleanup         Cleanup         `firestore:"cleanup"`
	Served          Served          `firestore:"served"`
	// how long turns took from their request until their first token, by the minute
	FirstTokens []latency.Minute `firestore:"first_tokens"`
	Users       []User           `firestore:"users"`
}

// Served is how many turns there were since the start, by how they found their process.
type Served struct {
	Standby int64 `firestore:"standby"`
	Reused  int64 `firestore:"reused"`
	Resumed int64 `firestore:"resumed"`
	Cold    int64 `firestore:"cold"`
}

// User is a user with at least one process, described by the one used last.
type User struct {
	ID        string    `firestore:"id"`
	Processes int       `firestore:"processes"`
	PID       int       `firestore:"pid"`
	CreatedAt time.Time `firestore:"created_at"`
	LastUsed  time.Time `firestore:"last_used"`
	Busy      bool      `firestore:"busy"`
	Alive     bool      `firestore:"alive"`
}

// Cleanup is what an instance's reaper did.
type Cleanup struct {
	Last        time.Time     `firestore:"last"`
	Total       int64         `firestore:"total"`
	AvgLifetime time.Duration `firestore:"avg_lifetime"`
}

// Store keeps one snapshot of each instance. All methods may be called concurrently.
type Store interface {
	Put(ctx context.Context, i Instance) error
	Delete(ctx context.Context, id string) error
	List(ctx context.Context) ([]Instance, error)
	// Pace is how often it makes sense to write and to read.
	Pace() Pace
}

// Pace is how long after a write the next one is made, at least, and for how long what was read is good enough.
type Pace struct{ Write, Read time.Duration }

// Memory is a Store for one process, in which everybody sees at once what was written.
type Memory struct {
	mu        sync.Mutex // guards instances
	instances map[string]Instance
}

// NewMemory returns an empty Memory.
func NewMemory() *Memory { return &Memory{instances: make(map[string]Instance)} }

// Pace is that of a look at a map.
func (m *Memory) Pace() Pace { return Pace{Write: 50 * time.Millisecond, Read: 50 * time.Millisecond} }

// Put stores a snapshot.
func (m *Memory) Put(_ context.Context, i Instance) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.instances[i.ID] = i
	return nil
}

// Delete forgets an instance.
func (m *Memory) Delete(_ context.Context, id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.instances, id)
	return nil
}

// List returns all snapshots.
func (m *Memory) List(context.Context) ([]Instance, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make([]Instance, 0, len(m.instances))
	for _, i := range m.instances {
		all = append(all, i)
	}
	return all, nil
}

// Publish writes an instance's snapshots until ctx is done, then deletes them: when something changed, in the store's
// pace, and at least every 15 s. A store that fails is tried again every 2 s, and logged once until it heals.
func Publish(ctx context.Context, store Store, changed <-chan struct{}, take func() Instance, log *slog.Logger) {
	failing := false
	var id string
	for {
		i := take()
		i.At = time.Now()
		i.ExpiresAt = i.At.Add(Lifetime)
		id = i.ID
		err := put(ctx, store, i)
		if ctx.Err() == nil && failing != (err != nil) {
			failing = err != nil
			if failing {
				log.Error("the snapshot can't be written", "error", err)
			} else {
				log.Info("the snapshot is written again")
			}
		}
		pause := store.Pace().Write
		if failing {
			pause = retryAfter
		}
		if !waitFor(ctx, pause, nil) {
			break
		}
		// The time the write took counts: the store gets the next one 15 s after it began.
		if !failing && !waitFor(ctx, atLeastEvery-time.Since(i.At), changed) {
			break
		}
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), readTimeout)
	defer cancel()
	if err := store.Delete(end, id); err != nil {
		log.Warn("the snapshot could not be deleted, it will expire", "error", err)
	}
}

func put(ctx context.Context, store Store, i Instance) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	return store.Put(ctx, i)
}

// waitFor returns after d, or when early is signalled; false when ctx is done.
func waitFor(ctx context.Context, d time.Duration, early <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
	case <-early:
	}
	return true
}

// View is the fronts' cached look at a Store. It may be used concurrently.
type View struct {
	store  Store
	log    *slog.Logger
	flight singleflight.Group

	mu    sync.Mutex // guards the following
	list  []Instance
	asOf  time.Time
	tried time.Time
	stale bool
}

// NewView returns a View of the store.
func NewView(store Store, log *slog.Logger) *View { return &View{store: store, log: log} }

// List returns the live instances by id, as of a moment at most the store's pace before the call or the read it waited
// for. Where the store can't be read within 2 s, it is the last list that could be, and stale; asOf is zero if none
// ever could. What the instances point to is shared: callers must not change it.
func (v *View) List() (list []Instance, asOf time.Time, stale bool) {
	v.mu.Lock()
	old := time.Since(v.tried) >= v.store.Pace().Read
	v.mu.Unlock()
	if old {
		_, _, _ = v.flight.Do("", func() (any, error) {
			v.refresh()
			return nil, nil
		})
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	now := time.Now()
	for _, i := range v.list {
		if v.stale || i.ExpiresAt.After(now) {
			list = append(list, i)
		}
	}
	return list, v.asOf, v.stale
}

func (v *View) refresh() {
	ctx, cancel := context.WithTimeout(context.Background(), readTimeout)
	defer cancel()
	begun := time.Now()
	list, err := v.store.List(ctx)
	slices.SortFunc(list, func(a, b Instance) int { return strings.Compare(a.ID, b.ID) })
	v.mu.Lock()
	defer v.mu.Unlock()
	v.tried = begun
	if err != nil {
		v.tried = time.Now() // a store that takes its time to fail isn't asked by every request
	}
	if was := v.stale; was != (err != nil) {
		v.stale = err != nil
		if v.stale {
			v.log.Error("the snapshots can't be read: stats are stale", "error", err)
		} else {
			v.log.Info("the snapshots can be read again")
		}
	}
	if err == nil {
		v.list, v.asOf = list, begun
	}
}
