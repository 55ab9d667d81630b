package server

import (
	"bytes"
	"compress/gzip"
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
	// leftPart is what the keys that are left are sealed as.
	leftPart = "idempotency keys"
)

// leftKey is a key as it is left for the user's next owner. Fields may be added.
type leftKey struct {
	ID      keyID
	Request [32]byte
	Expires time.Time
	Answer  *leftAnswer // nil: it isn't kept

	turn *replay // made of the answer
}

// leftAnswer is the stream of a turn that has ended.
type leftAnswer struct {
	Turn    string
	Receipt *api.Receipt // nil: it failed before there was one
	Lines   []byte       // compressed, each with a line feed behind it
	Error   *api.Error   // how it failed
}

// HandOver returns what a user's next owner is to know of the user's keys, sealed with its token, and for how long.
func (s *Server) HandOver(user string) (left []byte, ttl time.Duration) {
	box, used := s.keys.used(user)
	if box == nil || len(used) == 0 {
		return nil, 0
	}
	slices.SortFunc(used, func(a, b usedKey) int { return b.left.Expires.Compare(a.left.Expires) }) // the newest fit first
	room := leftOfUser
	all := make([]leftKey, 0, len(used))
	for _, one := range used {
		answer := one.answer()
		if answer != nil && len(answer.Lines) <= room && s.leaving.AllowN(time.Now(), len(answer.Lines)) {
			room -= len(answer.Lines)
			one.left.Answer = answer
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

// usedKey is a key under which a turn was begun.
type usedKey struct {
	left leftKey
	turn *replay // nil: it isn't kept
}

// used returns those of a user.
func (k *keys) used(user string) (box *seal.Keys, all []usedKey) {
	k.mu.Lock()
	defer k.mu.Unlock()
	r := k.users[user]
	if r == nil {
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
