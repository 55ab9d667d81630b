package function

import "sync"

const (
	// unchargedBytes is how many bytes are as good as none: about what a stream takes.
	unchargedBytes = 64 << 10
	// keptShare is which part of the memory there is either kind may take beyond that. What is made of one at its end can
	// be three times as large as it is.
	keptShare = 8
	// keptOfUser is which part of the room one user may take.
	keptOfUser = 4
)

// kept is the room for what has to be kept until it is whole, in bytes: answers that are not streamed, or single
// events. Its methods may be called concurrently.
type kept struct {
	most, ofUser int64

	mu    sync.Mutex // guards the following
	all   int64
	taken map[string]int64 // by user
}

// newKept returns the room there is with so much memory. One of the largest of a user always finds it where there are
// no others, and leaves room to other users.
func newKept(memory uint64, largest int64) *kept {
	most := max(int64(memory/keptShare), 2*largest) // #nosec G115 -- a part of a machine's memory
	return &kept{most: most, ofUser: max(most/keptOfUser, largest), taken: make(map[string]int64)}
}

// take takes so many bytes, which have to be given back, unless that is too much for the user or for all.
func (k *kept) take(user string, n int64) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.all+n > k.most || k.taken[user]+n > k.ofUser {
		return false
	}
	k.all += n
	k.taken[user] += n
	return true
}

func (k *kept) give(user string, n int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.all -= n
	if k.taken[user] -= n; k.taken[user] == 0 {
		delete(k.taken, user)
	}
}
