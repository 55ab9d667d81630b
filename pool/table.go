package pool

import (
	"context"
	"crypto/subtle"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// forgottenAtOnce is how many conversations go in one holding of the table's lock.
const forgottenAtOnce = 100

// table is the instance's users with their conversations, and how much of the instance they take. Its lock guards all
// of that, also what users and conversations say it guards. It is for table.go, conversation.go, slot.go and
// capacity.go alone: their methods hold it for a moment each, take and return plain values, and call nothing else.
type table struct {
	opts     *Options     // not to be changed
	headroom atomic.Int64 // see headroom.go

	reserved, idling atomic.Int64 // what Load tells; changed under mu
	atRest           atomic.Int64 // conversations with files that nobody uses; changed under mu

	mu         sync.Mutex // guards everything below
	users      map[string]*user
	slots      int                    // users' processes that exist or are being started or stopped
	ending     int                    // those of them that the reaper has taken and that haven't ended
	newcomers  int                    // users with requests and no process
	queued     int                    // requests that wait for a conversation
	running    map[*conversation]bool // those that have a process
	idle       line                   // those of them that nobody holds
	dormant    line                   // those without a process that nobody holds
	draining   bool
	empty      *sync.Cond // signalled when a request has left or a process has ended
	lastFreeze time.Time  // when conversations' processes were frozen last
}

func newTable(opts *Options) *table {
	t := &table{opts: opts, users: make(map[string]*user), running: make(map[*conversation]bool)}
	t.empty = sync.NewCond(&t.mu)
	return t
}

// find returns the user of that id, or nil.
func (t *table) find(id string) *user {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.users[id]
}

// join counts in a request of the token with the digest, unless its user is being given up; busy is closed when that is
// done. The user is the one that is known, else u.
func (t *table) join(u *user, digest [32]byte) (joined *user, busy chan struct{}, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if known := t.users[u.id]; known != nil {
		u = known
	}
	switch {
	case t.draining:
		return nil, nil, ErrDraining
	case subtle.ConstantTimeCompare(u.digest[:], digest[:]) != 1:
		return nil, nil, errTwoTokens
	case u.releasing != nil:
		return nil, u.releasing, nil
	case u.leaving && (u.requests == 0 || time.Since(u.leavingSince) > maxLeaving):
		return nil, nil, ErrDraining // its processes are ending; the caller comes back
	}
	t.users[u.id] = u
	u.countLocked(1, 0, 0)
	return u, nil, nil
}

// countLocked changes how many requests and processes a user has, and how many of the requests wait to be let in.
func (u *user) countLocked(requests, unadmitted, processes int) {
	t := u.table
	if u.isNewcomerLocked() {
		t.newcomers--
	}
	u.requests += requests
	u.unadmitted += unadmitted
	u.processes += processes
	t.slots += processes
	if u.isNewcomerLocked() {
		t.newcomers++
	}
	t.reserved.Store(int64(t.slots + t.newcomers))
	t.empty.Broadcast()
}

// isNewcomerLocked reports whether the user is about to get a process and has none. Who isn't let in yet may never get
// one.
func (u *user) isNewcomerLocked() bool { return u.requests > u.unadmitted && u.processes == 0 }

// countUnadmitted changes how many of the user's requests wait to be let in.
func (u *user) countUnadmitted(more int) {
	u.table.mu.Lock()
	defer u.table.mu.Unlock()
	u.countLocked(0, more, 0)
}

// unreserve gives the room of one process back.
func (u *user) unreserve() {
	u.table.mu.Lock()
	defer u.table.mu.Unlock()
	u.countLocked(0, 0, -1)
}

// setOwned says whether the user is this instance's, to be given up some time.
func (u *user) setOwned(owned bool) {
	u.table.mu.Lock()
	defer u.table.mu.Unlock()
	u.owned = owned
}

// isOwned reports whether the user is this instance's.
func (u *user) isOwned() bool {
	u.table.mu.Lock()
	defer u.table.mu.Unlock()
	return u.owned
}

// hasTakenOver reports whether the former user's conversations are this one's already and nothing of that one is here.
func (u *user) hasTakenOver(former string) bool {
	u.table.mu.Lock()
	defer u.table.mu.Unlock()
	past := u.table.users[former]
	return slices.Contains(u.formerIDs, former) && (past == nil || !past.owned && past.releasing == nil)
}

// countOut ends what join began, and reports whether that was the user's last request.
func (u *user) countOut(unadmitted int) (last bool) {
	u.table.mu.Lock()
	defer u.table.mu.Unlock()
	u.countLocked(-1, -unadmitted, 0)
	return u.requests == 0
}

// beginRelease reports whether the user is to be given up now. Requests wait from here on.
func (u *user) beginRelease() (keepHome, ok bool) {
	t := u.table
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.users[u.id] != u || u.requests > 0 || u.processes > 0 || u.releasing != nil {
		return false, false
	}
	if !u.owned {
		u.leaving = false
		u.forgetLocked()
		return false, false
	}
	u.releasing = make(chan struct{})
	return !t.draining && !u.leaving && u.workspaces > 0, true
}

// forgetSome forgets some of the conversations that come back with the user, from the archive. It reports whether there
// may be more.
func (u *user) forgetSome() bool {
	u.table.mu.Lock()
	defer u.table.mu.Unlock()
	n := 0
	for _, c := range u.conversations {
		if n == forgottenAtOnce {
			return true
		}
		if c.dir == nil && c.mirror.fetch && !c.heldLocked() {
			c.removeLocked()
			n++
		}
	}
	return false
}

// endRelease has requests of the user go on.
func (u *user) endRelease() {
	u.table.mu.Lock()
	defer u.table.mu.Unlock()
	close(u.releasing)
	u.recalled.Store(nil)
	u.releasing, u.owned, u.leaving, u.formerIDs = nil, false, false, nil
	u.forgetLocked()
}

// forgetLocked drops a user who has nothing here any more, not even a conversation to resume.
func (u *user) forgetLocked() {
	if len(u.conversations) == 0 && u.requests == 0 && u.releasing == nil && !u.owned { // else it is about to be released
		delete(u.table.users, u.id)
	}
	u.table.empty.Broadcast()
}

// owned returns the ids of the users that are this instance's.
func (t *table) owned() (ids []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, u := range t.users {
		if u.owned {
			ids = append(ids, id)
		}
	}
	return ids
}

// refuse has no request begin from now on, also none of those that wait.
func (t *table) refuse() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.draining = true
	for _, u := range t.users {
		for _, c := range u.conversations {
			c.cancelWaitersLocked()
		}
	}
}

// queue tells whether requests are refused and how many wait.
func (t *table) queue() (draining bool, queued int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.draining, t.queued
}

// waitEmpty returns when no request and no process is left, or ctx is done.
func (t *table) waitEmpty(ctx context.Context) {
	defer context.AfterFunc(ctx, t.wakeWaiting)()
	t.mu.Lock()
	defer t.mu.Unlock()
	for ctx.Err() == nil && !t.isEmptyLocked() {
		t.empty.Wait()
	}
}

func (t *table) wakeWaiting() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.empty.Broadcast()
}

func (t *table) isEmptyLocked() bool {
	for _, u := range t.users {
		if u.requests > 0 || u.releasing != nil || u.owned {
			return false
		}
	}
	return t.slots == 0
}

// moveConversations makes held conversations of a former user the present one's, all at once. copied has those that the
// archive has under the present user already. It returns the new slots, held too, by the old ones.
func (from *user) moveConversations(to *user, held []*slot, copied map[*conversation]mirror) map[*slot]*slot {
	from.table.mu.Lock()
	defer from.table.mu.Unlock()
	moved := make(map[*slot]*slot)
	for _, old := range held {
		kept, isCopied := copied[old.conversation]
		if !isCopied && old.mirror.fetch {
			continue // all that is of it is where it is
		}
		if there := to.conversations[old.id]; there != nil {
			if !isCopied || !there.unusedCopyLocked(old.conversation) {
				continue
			}
			there.removeLocked()
		}
		if !isCopied {
			kept.off = old.mirror.off
		}
		moved[old] = to.takeOverLocked(old, kept)
	}
	to.formerIDs = append(to.formerIDs[max(0, len(to.formerIDs)+1-maxFormerIDs):], from.id)
	return moved
}

// takeOverLocked makes another user's held conversation this one's. mirror is what the archive has under this user.
func (to *user) takeOverLocked(old *slot, mirror mirror) *slot {
	s := to.newConversation(old.id, old.incarnation, old.digests)
	c := s.conversation
	c.named, c.spoken, c.digestsValid = old.named, old.spoken, old.digestsValid
	c.title, c.created = old.title, old.created
	c.lastUsed, c.unused, c.freezeTried = old.lastUsed, old.unused, old.freezeTried
	c.setDirLocked(old.dir)
	c.mirror = mirror
	s.settings, s.seed, s.goodTurn = old.settings, old.seed, old.goodTurn
	s.fresh, s.dirty, s.answered = old.fresh, old.dirty, old.answered
	s.joinLocked()
	if old.user.defaultConversation == old.conversation && to.defaultConversation == nil {
		to.defaultConversation = c
	}
	old.conversation.removeLocked()
	if old.process != nil {
		c.process, c.started = old.process, old.started
		old.process = nil
		delete(to.table.running, old.conversation)
		to.table.running[c] = true
		old.user.countLocked(0, 0, -1)
		to.countLocked(0, 0, 1)
	}
	return s
}
