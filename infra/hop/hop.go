// Package hop signs and verifies what a front tells a pool instance about a request: which instance it means, which
// user it speaks for and which request it is. It proves who asks, and nothing about who owns the user. The connection
// it travels on is encrypted, to an instance that is known by the fingerprint of its certificate.
//
// A token is `v1.<payload>.<mac>`, both parts in unpadded URL-safe base64. The number is the version of the wire, see
// Version. The payload is JSON; the MAC is HMAC-SHA-256 over everything before the last dot, so one version can't be
// taken for another.
package hop

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// What can be wrong with a token. None of them carries any part of it.
var (
	// ErrMalformed says that it isn't a token.
	ErrMalformed = errors.New("hop: malformed token")
	// ErrSignature says that none of the keys has signed it.
	ErrSignature = errors.New("hop: wrong signature")
	// ErrExpired says that it was signed more than Window ago, or by a clock more than Window ahead.
	ErrExpired = errors.New("hop: token out of its time window")
	// ErrVersion says that a front has signed it whose release is too far from this one.
	ErrVersion = errors.New("hop: version not spoken here")
)

const (
	// Window is how far a token's time may be from the verifier's clock, either way.
	Window = 60 * time.Second
	// MinKeyLength is the least length of a key, in bytes.
	MinKeyLength = 32

	// maxToken bounds what is looked at at all; a real token has about 250 bytes.
	maxToken = 2048
	redacted = "[redacted]"
)

// encoding is strict so that a token has exactly one spelling: without it the spare bits of the last letter could be
// anything.
var encoding = base64.RawURLEncoding.Strict()

// Claims is what a front says about one request.
type Claims struct {
	Instance  string // id of the instance that is meant
	User      string // user id
	RequestID string
	// Path is what is asked for. Fronts of earlier releases leave it out.
	Path string
	// Outage says that the front has this owner cached and can't reach Redis either.
	Outage bool
	// Version is that of the wire which the request is in. Sign takes 0 for this release's own.
	Version int
}

// Keys are the secrets fronts and instances share. The first signs, all verify. They are immutable and may be used
// concurrently. They never show themselves when printed or logged.
type Keys struct {
	// ring is behind a function because fmt can't call Format of a value in an unexported field: all it can print of
	// this one is an address.
	ring func() []*key
}

// key computes MACs with one secret.
type key struct{ macs sync.Pool } // of hash.Hash, as making one costs more than using it

func keyOf(secret []byte) *key {
	return &key{sync.Pool{New: func() any { return hmac.New(sha256.New, secret) }}}
}

func (k *key) sum(text []byte) []byte {
	h := k.macs.Get().(hash.Hash)
	defer k.macs.Put(h)
	h.Reset()
	_, _ = h.Write(text) // to memory
	return h.Sum(nil)
}

// payload is the signed form of Claims; short names, for it goes with every request.
type payload struct {
	Instance  string `json:"i"`
	User      string `json:"u"`
	RequestID string `json:"r"`
	Path      string `json:"p,omitempty"`
	Outage    bool   `json:"o,omitempty"`
	At        int64  `json:"t"` // Unix milliseconds
}

// ParseKeys reads a comma-separated list of keys. Space around a key doesn't count. Its errors name a key by its
// position only.
func ParseKeys(list string) (Keys, error) {
	var ring []*key
	for i, part := range strings.Split(list, ",") {
		secret := strings.TrimSpace(part)
		if len(secret) < MinKeyLength {
			return Keys{}, fmt.Errorf("hop: key %d has %d characters, at least %d are needed", i+1, len(secret), MinKeyLength)
		}
		ring = append(ring, keyOf([]byte(secret)))
	}
	return Keys{ring: func() []*key { return ring }}, nil
}

// NewKey returns a random key, for a service that runs in one process and needs to share it with nobody.
func NewKey() string {
	return rand.Text() + rand.Text()
}

// Sign returns a token for the claims that is good for Window around now. Claims longer than Verify accepts are not
// cut: the other side refuses them as malformed. It panics for Keys that ParseKeys did not make.
func (k Keys) Sign(claims Claims, now time.Time) string {
	body, err := json.Marshal(payload{
		Instance: claims.Instance, User: claims.User, RequestID: claims.RequestID, Path: claims.Path, Outage: claims.Outage,
		At: now.UnixMilli(),
	})
	if err != nil {
		panic(err) // strings and numbers can't fail
	}
	version := claims.Version
	if version == 0 {
		version = Version()
	}
	token := make([]byte, 0, 2*len(body)+64)
	token = encoding.AppendEncode(append(append(token, prefix(version)...), '.'), body)
	mac := k.ring()[0].sum(token)
	return string(encoding.AppendEncode(append(token, '.'), mac))
}

// Verify returns what a token claims. Its errors are ErrMalformed, ErrSignature, ErrVersion and ErrExpired; nothing of
// the payload is looked at before the signature has been found good.
func (k Keys) Verify(token string, now time.Time) (Claims, error) {
	version, err := versionOf(token)
	if err != nil {
		return Claims{}, err
	}
	signed, mac, err := split(token)
	if err != nil {
		return Claims{}, err
	}
	if !k.signedBy(signed, mac) {
		return Claims{}, ErrSignature
	}
	if err := taken(version); err != nil {
		return Claims{}, err
	}
	var p payload
	_, payloadPart, _ := strings.Cut(signed, ".")
	body, err := encoding.DecodeString(payloadPart)
	if err != nil {
		return Claims{}, ErrMalformed
	}
	if err := json.Unmarshal(body, &p); err != nil {
		return Claims{}, ErrMalformed
	}
	if age := now.Sub(time.UnixMilli(p.At)); age > Window || age < -Window {
		return Claims{}, ErrExpired
	}
	return Claims{Instance: p.Instance, User: p.User, RequestID: p.RequestID, Path: p.Path, Outage: p.Outage,
		Version: version}, nil
}

// String says nothing about the keys.
func (Keys) String() string { return redacted }

// GoString says nothing about the keys.
func (Keys) GoString() string { return redacted }

// LogValue says nothing about the keys.
func (Keys) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText says nothing about the keys; JSON uses it too.
func (Keys) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// Format keeps verbs such as %x, which would pass by String, from printing the keys.
func (Keys) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// signedBy tries every key, also after one has fitted: how long it takes tells nothing about which.
func (k Keys) signedBy(signed string, mac []byte) bool {
	if k.ring == nil {
		return false
	}
	good := false
	for _, key := range k.ring() {
		if hmac.Equal(key.sum([]byte(signed)), mac) {
			good = true
		}
	}
	return good
}

// split cuts a token into what is signed and its MAC.
func split(token string) (signed string, mac []byte, err error) {
	dot := strings.LastIndexByte(token, '.')
	if len(token) > maxToken || dot <= strings.IndexByte(token, '.') || strings.ContainsAny(token, "\r\n") {
		return "", nil, ErrMalformed
	}
	mac, err = encoding.DecodeString(token[dot+1:])
	if err != nil || len(mac) != sha256.Size {
		return "", nil, ErrMalformed
	}
	return token[:dot], mac, nil
}
