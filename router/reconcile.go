package router

import "context"

// reconcile finds out, after Redis lost this instance, which users are still its own. The hash is made first: an entry
// whose instance has none counts as dead and could be taken by a claim.
func (l *Lease) reconcile(ctx context.Context, epoch string) error {
	l.mu.Lock()
	l.epoch = "" // nobody new is admitted meanwhile
	l.registration = random(8)
	l.changes++
	for user, h := range l.claims { // Redis may know nothing of them any more
		h.toldAt = l.opts.Clock() - provenTTL
		l.claims[user] = h
	}
	l.mu.Unlock()
	if _, _, _, err := l.send(ctx, ""); err != nil {
		return err
	}
	kept, moved, err := l.assert(ctx)
	if err != nil {
		return err
	}
	l.mu.Lock()
	l.epoch = epoch
	l.mu.Unlock()
	l.opts.Logger.Info("lease registered", "instance", l.id, "users", kept, "moved", moved)
	return nil
}

// refresh asserts all in the time that a beat has, as the next one must not be late.
func (l *Lease) refresh(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, beatTimeout)
	defer cancel()
	_, _, err := l.assert(ctx)
	return err == nil
}

// assert says again which users this instance holds, and gives up those that are another's by now.
func (l *Lease) assert(ctx context.Context) (kept, moved int, err error) {
	l.mu.Lock()
	users := make([]string, 0, len(l.claims))
	for user := range l.claims {
		users = append(users, user)
	}
	l.mu.Unlock()
	for len(users) > 0 {
		n := min(len(users), assertBatch)
		gone, err := l.assertSome(ctx, users[:n])
		if err != nil {
			return kept, moved, err
		}
		kept, moved, users = kept+n-gone, moved+gone, users[n:]
	}
	return kept, moved, nil
}

func (l *Lease) assertSome(ctx context.Context, users []string) (gone int, err error) {
	keys := []string{epochKey}
	args := []any{LeaseTime.Milliseconds(), l.id, ownerTTL.Milliseconds()}
	var asked []string
	l.mu.Lock()
	for _, user := range users {
		if h, held := l.claims[user]; held {
			keys, args, asked = append(keys, ownerKey(user)), append(args, h.claim), append(asked, user)
		}
	}
	l.mu.Unlock()
	if len(asked) == 0 {
		return 0, nil
	}
	moved, err := assertScript.Run(ctx, l.redis, keys, args...).Int64Slice()
	if err != nil {
		return 0, err
	}
	// A user that was given up while the script ran may have been made ours again by it.
	for i, user := range asked {
		claim := args[3+i].(string)
		l.mu.Lock()
		_, held := l.claims[user]
		if _, open := l.released[user]; !held && !open {
			l.released[user] = release{claim: claim}
		}
		l.mu.Unlock()
		if !held {
			_ = l.sendRelease(ctx, user, release{claim: claim})
		}
	}
	for _, i := range moved {
		if l.lose(asked[i-1], args[2+i].(string)) {
			gone++
		}
	}
	return gone, nil
}

// lose stops what is done here for a user who is another's by now, unless it isn't by this claim that the user is held.
// It is before the processes are dead that the user isn't admitted here any more.
func (l *Lease) lose(user, claim string) bool {
	l.mu.Lock()
	h := l.claims[user]
	if h.claim != claim {
		l.mu.Unlock()
		return false
	}
	delete(l.claims, user)
	l.mu.Unlock()
	h.lost(ErrNotOwner)
	go l.opts.Evict(user)
	return true
}
