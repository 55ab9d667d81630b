package server

import (
	"bytes"
	"compress/gzip"
	"crypto/subtle"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"claudepool/pool/api"
	"claudepool/pool/seal"
)

const (
	// leftOfUser is how many bytes of answers are left for a user's next owner, compressed, and leftOfAll those of all
	// users within keyKeep. Of other answers it is left that the key was used.
	leftOfUser, leftOfAll = 256 << 10, 16 << 20
	// opened is how many users' left keys are opened at a time.
	opened = 4
	// leftPart is what the keys that are left are sealed as.
	leftPart = "idempotency keys"
)

// leftKey is a key as it is left for the user's next owner. Fields may be added.
type leftKey struct {
	ID      keyID
	Request [32]byte
	Expires time.Time
	Answer  *leftAnswer // nil: it isn't here
	NoRoom  bool        // there is an answer, which was too large to be left

	turn *replay // made of the answer
}

// leftAnswer is the stream of a turn that has ended.
type leftAnswer struct {
	Turn    string
	Receipt *api.Receipt // nil: it failed before there was one
	Lines   []byte       // compressed, each with a line feed behind it
	Error   *api.Error   // how it failed
}

// HandOver returns what the next owner of a user, who was held by the claim, is to know of the user's keys, sealed with
// its token, and for how long. It returns nil if the owner before has left all of it.
func (s *Server) HandOver(user, claim string) (left []byte, ttl time.Duration) {
	box, used := s.keys.used(user, claim)
	if box == nil || len(used) == 0 {
		return nil, 0
	}
	slices.SortFunc(used, func(a, b usedKey) int { return b.left.Expires.Compare(a.left.Expires) }) // the newest fit first
	room := leftOfUser
	all := make([]leftKey, 0, len(used))
	for _, one := range used {
		answer := one.answer()
		switch {
		case answer == nil:
		case len(answer.Lines) <= room && s.leaving.AllowN(time.Now(), len(answer.Lines)):
			room -= len(answer.Lines)
			one.left.Answer = answer
		default:
			one.left.NoRoom = true
		}
		all = append(all, one.left)
	}
	var text bytes.Buffer
	if err := gob.NewEncoder(&text).Encode(all); err != nil {
		panic(err) // to memory, of types that can be encoded
	}
	return box.Seal(text.Bytes(), placeOf(user)), time.Until(all[0].Expires)
}

func placeOf(user string) seal.Place { return seal.Place{Name: user, Part: leftPart} }

// open undoes HandOver. Of an answer so many bytes are kept at most.
func (h holder) open(left []byte, most int) (all []leftKey, err error) {
	if left == nil {
		return nil, nil
	}
	text, err := h.box.Open(left, placeOf(h.id))
	if err == nil {
		err = gob.NewDecoder(bytes.NewReader(text)).Decode(&all)
	}
	if err != nil {
		return nil, fmt.Errorf("server: keys that were left: %w", err)
	}
	for i := range all {
		all[i].turn = all[i].replay(h.digest, most)
	}
	return all, nil
}

// inherit takes in what owners before have left of the user's keys.
func (k *keys) inherit(h holder) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	r, err := k.ringLocked(h)
	if err == nil {
		k.forgetIfEmptyLocked(r)
	}
	return err
}

// ringLocked returns the user's ring, with what was left by owners before.
func (k *keys) ringLocked(h holder) (*ring, error) {
	r := k.users[h.id]
	switch {
	case r == nil:
		r = &ring{keys: make(map[keyID]*key)}
		k.users[h.id] = r
	case subtle.ConstantTimeCompare(r.digest[:], h.digest[:]) != 1:
		return nil, errSharedUserID
	case r.claim == h.claim:
		return r, nil // what was left has been taken over, and some of it may have been deleted since
	}
	k.adoptLeftLocked(r, h)
	return r, nil
}

// adoptLeftLocked takes in what owners before have left of the user's keys. Another owner may have had the user since
// the others here were used, and may have been told to delete the answers: they are dropped.
func (k *keys) adoptLeftLocked(r *ring, h holder) {
	mentioned := make(map[keyID]bool, len(h.left))
	for _, l := range h.left {
		mentioned[l.ID] = true
		k.inheritLocked(r, l)
	}
	h.left = nil
	r.holder, r.changed = h, false
	for id, one := range r.keys {
		if mentioned[id] {
			continue
		}
		r.changed = true
		k.dropAnswerLocked(one)
	}
}

// inheritLocked takes in a key that the owner before has left. What it says of one that is known from an earlier time
// here is newer.
func (k *keys) inheritLocked(r *ring, l leftKey) {
	known := r.keys[l.ID]
	if known != nil && known.expires.IsZero() || time.Until(l.Expires) <= 0 {
		return
	}
	if known != nil && l.NoRoom {
		return
	}
	if known != nil {
		k.dropAnswerLocked(known)
		known.turn = l.turn
		k.keepAnswerLocked(known)
		return
	}
	settled := make(chan struct{})
	close(settled)
	inherited := &key{id: l.ID, request: l.Request, of: r, settled: settled, begun: true, turn: l.turn}
	k.addLocked(inherited)
	k.endLocked(inherited, l.Expires)
}

// usedKey is a key under which a turn was begun.
type usedKey struct {
	left leftKey
	turn *replay // nil: it isn't kept
}

// used returns those of a user, none if no other are known than were left. If none was asked for under the claim by
// which the user is held, another owner may have left newer ones since.
func (k *keys) used(user, claim string) (box *seal.Keys, all []usedKey) {
	k.mu.Lock()
	defer k.mu.Unlock()
	r := k.users[user]
	if r == nil || r.claim != claim || !r.changed {
		return nil, nil
	}
	for _, one := range r.keys {
		if !one.begun {
			continue
		}
		expires := one.expires
		turn := one.turn
		if expires.IsZero() { // it still runs: the user was lost to another owner
			expires, turn = time.Now().Add(keyKeep), nil
		}
		all = append(all, usedKey{leftKey{ID: one.id, Request: one.request, Expires: expires}, turn})
	}
	return r.box, all
}

// answer returns the turn's stream, nil if it isn't kept.
func (u usedKey) answer() *leftAnswer {
	if u.turn == nil {
		return nil
	}
	r := u.turn
	r.mu.Lock()
	answer, lines := leftAnswer{Turn: r.id, Receipt: r.receipt}, r.lines
	if r.err != nil {
		answer.Error = api.Known(r.err)
	}
	r.mu.Unlock()
	var zipped bytes.Buffer
	w, _ := gzip.NewWriterLevel(&zipped, gzip.BestSpeed) // the level exists
	for _, line := range lines {
		_, _ = w.Write(line) // to memory
		_, _ = w.Write([]byte("\n"))
	}
	_ = w.Close()
	answer.Lines = zipped.Bytes()
	return &answer
}

// replay is the turn as its readers get it, nil if its answer wasn't left or is more than is kept.
func (l leftKey) replay(user [32]byte, most int) *replay {
	if l.Answer == nil {
		return nil
	}
	text, err := unzip(l.Answer.Lines, most)
	if err != nil {
		return nil
	}
	r := newReplay(user, most)
	r.id, r.receipt, r.isShared, r.ended = l.Answer.Turn, l.Answer.Receipt, true, true
	if l.Answer.Error != nil {
		r.err = l.Answer.Error
	}
	for line := range bytes.Lines(text) {
		line = bytes.TrimSuffix(line, []byte("\n"))
		r.lines = append(r.lines, line)
		r.size += len(line)
	}
	return r
}

var errLarge = errors.New("server: more than is kept")

func unzip(zipped []byte, most int) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(zipped))
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(r, 2*int64(most)+1)) // with the line feeds
	if err == nil && len(text) > 2*most {
		err = errLarge
	}
	return text, err
}
