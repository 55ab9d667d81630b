package server

import "claudepool/pool/channel"

// dropOneLocked drops the user's channel that was used longest ago, if there is one that isn't used now.
func (c *channels) dropOneLocked(user channel.User) bool {
	var oldest *talk
	for _, t := range c.talks[user] {
		if t.users == 0 && (oldest == nil || t.left.Before(oldest.left)) {
			oldest = t
		}
	}
	if oldest == nil {
		return false
	}
	c.removeLocked(oldest)
	oldest.log.End()
	return true
}

// giveWay drops the channel that was used longest ago of those that aren't used now, of users without a turn first. It
// reports whether there was one.
func (c *channels) giveWay() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.giveWayLocked()
}

func (c *channels) giveWayLocked() bool {
	for _, unused := range c.unused {
		if e := unused.Front(); e != nil {
			t := e.Value.(*talk)
			c.removeLocked(t)
			t.log.End()
			return true
		}
	}
	return false
}

func (c *channels) useLocked(t *talk) {
	t.users++
	c.unlistLocked(t)
}

// unlistLocked takes a channel off those that aren't used.
func (c *channels) unlistLocked(t *talk) {
	for _, unused := range c.unused {
		if t.place != nil {
			unused.Remove(t.place) // of which only the one that it is in takes notice
		}
	}
	t.place = nil
}
