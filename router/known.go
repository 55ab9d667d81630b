package router

import (
	"crypto/sha256"
	"unique"

	lru "github.com/hashicorp/golang-lru/v2"
)

// maxKnown is how many users a front knows the owners of. Each costs some 130 bytes; one that was dropped costs a
// round trip.
const maxKnown = 1 << 18

// known is a front's cache of users' owners; the users it was asked for last stay longest. Its methods may be
// called concurrently.
type known struct {
	users *lru.Cache[userKey, unique.Handle[lastOwner]]
}

// userKey stands for a user without a pointer to a string. An id has 16 characters; what is longer is hashed.
type userKey [16]byte

// lastOwner is a user's owner, or the one of before. All users of an instance share one.
type lastOwner struct {
	Owner
	stale bool // it isn't any more, but still is the best guess while Redis can't say
}

func newKnown(most int) known {
	users, _ := lru.New[userKey, unique.Handle[lastOwner]](most) // fails on a size of 0 only
	return known{users}
}

func keyOf(user string) (k userKey) {
	if len(user) <= len(k) {
		copy(k[:], user)
		return k
	}
	sum := sha256.Sum256([]byte(user))
	return userKey(sum[:len(k)])
}

// owner is the user's owner.
func (k known) owner(user string) (Owner, bool) {
	last, ok := k.users.Get(keyOf(user))
	if !ok || last.Value().stale {
		return Owner{}, false
	}
	return last.Value().Owner, true
}

// guess is the user's owner, or the one of before.
func (k known) guess(user string) (Owner, bool) {
	last, ok := k.users.Get(keyOf(user))
	if !ok {
		return Owner{}, false
	}
	return last.Value().Owner, true
}

// keep remembers the user's owner.
func (k known) keep(user string, owner Owner) {
	owner.Outage = false // it isn't the owner's
	k.users.Add(keyOf(user), unique.Make(lastOwner{Owner: owner}))
}

// markStale remembers that the instance isn't the user's owner any more.
func (k known) markStale(user, instance string) {
	if owner, ok := k.owner(user); ok && owner.Instance == instance {
		k.users.Add(keyOf(user), unique.Make(lastOwner{Owner: owner, stale: true}))
	}
}

func (k known) forget(user string) { k.users.Remove(keyOf(user)) }
