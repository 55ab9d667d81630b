package server

import (
	"container/list"
	"crypto/sha256"
	"errors"
	"net/http"
	"sync"
	"time"

	"claudepool/pool/api"
	"claudepool/pool/seal"
)

const (
	// keyKeep is how long an idempotency key is kept after the end of its turn. None is forgotten before, whatever else
	// comes: where there are too many, new ones are refused.
	keyKeep = 10 * time.Minute
	// impliedKeep is how long one is kept that no client has sent: those that lose a connection come again by themselves.
	impliedKeep = time.Minute
	// keysOfUser and keysOfAll are how many keys are kept.
	keysOfUser, keysOfAll = 1000, 20_000
	// answersOfUser and answersOfAll are how many bytes of their answers; the oldest give way, and their keys stay.
	answersOfUser, answersOfAll = 16 << 20, 64 << 20
	// readersOfKey is how many requests may read one answer at a time.
	readersOfKey = 8 // and as many may wait for its turn to begin
	keyRetry     = 5 * time.Second
)

var (
	errOtherRequest = api.Invalid("%s: the key was sent with another request before", api.HeaderIdempotencyKey)
	errKeyUsed      = &api.Error{Status: http.StatusConflict, Type: "invalid_request_error",
		Message: "the request with this idempotency-key was run before, and its answer isn't kept any more"}
	errManyKeys     = api.RateLimited(keyRetry, "too many idempotency-keys of this user were used in the last ten minutes")
	errKeysFull     = api.Overloaded(keyRetry, "no idempotency-key can be kept now")
	errManyReaders  = api.RateLimited(time.Second, "too many requests with this idempotency-key at a time")
	errSharedUserID = errors.New("server: two tokens share a user id")
)

// keys are the idempotency keys that users have sent, with what became of the request that each came with. A key is
// taken by one request; while its turn runs and for a while afterwards others with the key get that turn's stream.
type keys struct {
	mu      sync.Mutex // guards the following, and all that is in it
	users   map[string]*ring
	count   int
	answers list.List // keys whose answers are kept, oldest first
	bytes   int       // of them
}

// holder is the user whose keys are asked for, as long as it is held here.
type holder struct {
	id     string
	digest [32]byte // of the token
	box    *seal.Keys
	claim  string // by which the user is held; another one means that there may have been another owner meanwhile
	left   []leftKey
}

// ring has one user's keys. It is there as long as it has any.
type ring struct {
	holder
	keys    map[keyID]*key
	bytes   int  // of their answers
	changed bool // since they were taken over from the owner before
}

// keyID is what is left of a key's digest.
type keyID [16]byte

func newKeyID(text string) keyID {
	digest := sha256.Sum256([]byte(text))
	return keyID(digest[:])
}

// key is one key, from when a request has taken it.
type key struct {
	id      keyID
	request [32]byte // digest of the request
	of      *ring
	settled chan struct{} // closed when the turn has begun or the key was given back
	begun   bool
	waiting int           // requests that wait until it is settled
	turn    *replay       // nil before the turn has begun, and when its stream isn't kept
	size    int           // bytes of an answer that is kept
	place   *list.Element // of it among answers; nil: it isn't kept
	readers int
	expires time.Time // zero until the turn has ended
	implied bool      // the client has sent none: a turn that failed may be tried again
}

func newKeys() *keys { return &keys{users: make(map[string]*ring)} }

// knows reports whether all that owners before have left of the user's keys is here.
func (k *keys) knows(user, claim string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	r := k.users[user]
	return r != nil && r.claim == claim
}

// take takes the key for a request, or returns the one that another request has taken.
func (k *keys) take(h holder, id keyID, request [32]byte) (taken *key, isNew bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	r, err := k.ringLocked(h)
	if err != nil {
		return nil, false, err
	}
	defer k.forgetIfEmptyLocked(r)
	if taken = r.keys[id]; taken != nil {
		if taken.request != request {
			return nil, false, errOtherRequest
		}
		return taken, false, taken.awaitLocked()
	}
	switch {
	case len(r.keys) >= keysOfUser:
		return nil, false, errManyKeys
	case k.count >= keysOfAll:
		return nil, false, errKeysFull
	}
	taken = &key{id: id, request: request, of: r, settled: make(chan struct{})}
	k.addLocked(taken)
	return taken, true, nil
}

// awaitLocked counts in a request that waits for the key's turn to begin.
func (one *key) awaitLocked() error {
	if one.begun {
		return nil
	}
	if one.waiting >= readersOfKey {
		return errManyReaders
	}
	one.waiting++
	return nil
}

// stopWaiting counts such a request out.
func (k *keys) stopWaiting(one *key) {
	k.mu.Lock()
	defer k.mu.Unlock()
	one.waiting--
}

func (k *keys) addLocked(one *key) {
	one.of.keys[one.id] = one
	k.count++
}

func (k *keys) removeLocked(one *key) {
	k.dropAnswerLocked(one)
	delete(one.of.keys, one.id)
	k.count--
	k.forgetIfEmptyLocked(one.of)
}

// forgetIfEmptyLocked forgets a user without keys.
func (k *keys) forgetIfEmptyLocked(r *ring) {
	if len(r.keys) == 0 {
		delete(k.users, r.id)
	}
}

// giveBack forgets the key if nothing has begun under it.
func (k *keys) giveBack(one *key) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !one.begun {
		k.removeLocked(one)
		close(one.settled)
	}
}

// begin says that the turn begins.
func (k *keys) begin(one *key, turn *replay) {
	k.mu.Lock()
	defer k.mu.Unlock()
	one.begun, one.turn, one.of.changed = true, turn, true
	close(one.settled)
}

// end says that the turn has ended.
func (k *keys) end(one *key, failed bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	one.of.changed = true
	if failed && one.implied {
		k.removeLocked(one)
		return
	}
	keep := keyKeep
	if one.implied {
		keep = impliedKeep
	}
	k.endLocked(one, time.Now().Add(keep))
}

func (k *keys) endLocked(one *key, expires time.Time) {
	one.expires = expires
	k.keepAnswerLocked(one)
	time.AfterFunc(time.Until(expires), func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.removeLocked(one)
	})
}

// keepAnswerLocked keeps the stream of a turn that has ended, if all of it is there, in the place of the oldest ones.
func (k *keys) keepAnswerLocked(one *key) {
	if one.turn == nil || !one.turn.isWhole() {
		one.turn = nil
		return
	}
	one.size = one.turn.bytes()
	one.of.bytes += one.size
	k.bytes += one.size
	one.place = k.answers.PushBack(one)
	for one.of.bytes > answersOfUser {
		k.dropAnswerLocked(k.oldestLocked(func(other *key) bool { return other.of == one.of }))
	}
	for k.bytes > answersOfAll {
		k.dropAnswerLocked(k.oldestLocked(func(*key) bool { return true }))
	}
}

// oldestLocked returns the key with the oldest answer of those that are meant. There has to be one.
func (k *keys) oldestLocked(isMeant func(*key) bool) *key {
	place := k.answers.Front()
	for !isMeant(place.Value.(*key)) {
		place = place.Next()
	}
	return place.Value.(*key)
}

// dropAnswerLocked keeps of a turn that has ended only that it was run.
func (k *keys) dropAnswerLocked(one *key) {
	if one.place == nil {
		return
	}
	k.answers.Remove(one.place)
	one.of.bytes -= one.size
	k.bytes -= one.size
	one.turn, one.size, one.place = nil, 0, nil
}

// dropAnswers drops the answers of a user's turns. Those that still run have their readers and get no others.
func (k *keys) dropAnswers(h holder) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	r, err := k.ringLocked(h)
	if err != nil {
		return err
	}
	defer k.forgetIfEmptyLocked(r)
	r.changed = true
	for _, one := range r.keys {
		k.dropAnswerLocked(one)
		one.turn = nil
	}
	return nil
}

// read makes the caller a reader of the turn's stream, from its beginning. It has to say when it is done.
func (k *keys) read(one *key) (turn *replay, me *reader, done func(), err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if one.turn == nil {
		return nil, nil, nil, errKeyUsed
	}
	if one.readers >= readersOfKey {
		return nil, nil, nil, errManyReaders
	}
	if me, err = one.turn.attach(0); err != nil {
		return nil, nil, nil, errKeyUsed
	}
	one.readers++
	return one.turn, me, func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		one.readers--
	}, nil
}
