// Package seal closes what is kept of a user's conversations with a key that only the user's token gives: who has the
// store but not the token can neither read nor change it, nor tell whose it is.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
)

// ErrOpen says that something was not sealed with these keys, or not for this place, or has been changed.
var ErrOpen = errors.New("seal: can't be opened")

// Keys are one user's. They may be used concurrently.
type Keys struct {
	owner string
	names []byte
	box   cipher.AEAD
}

// Derive returns the keys that a token gives. Tokens are long and random, so that no stretching is needed.
func Derive(token string) *Keys {
	block, err := aes.NewCipher(derive(token, "key"))
	if err != nil {
		panic(err) // the key's length is right
	}
	box, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err)
	}
	return &Keys{owner: hex.EncodeToString(derive(token, "owner")), names: derive(token, "names"), box: box}
}

func derive(token, purpose string) []byte {
	key, err := hkdf.Key(sha256.New, []byte(token), nil, "claudepool archive v1 "+purpose, 32)
	if err != nil {
		panic(err) // 32 bytes are not too many
	}
	return key
}

// Owner is what the user is called where sealed things are kept: 64 hex digits.
func (k *Keys) Owner() string { return k.owner }

// Name is what a conversation is called there: 32 hex digits.
func (k *Keys) Name(session string) string {
	mac := hmac.New(sha256.New, k.names)
	mac.Write([]byte(session))
	return hex.EncodeToString(mac.Sum(nil)[:16])
}

// Place is where something sealed belongs: elsewhere it can't be opened.
type Place struct {
	Name    string // of the record
	Version int64
	Part    string
}

func (p Place) bytes() []byte { return fmt.Appendf(nil, "%s %d %s", p.Name, p.Version, p.Part) }

// Seal encrypts text for a place.
func (k *Keys) Seal(text []byte, at Place) []byte {
	return k.box.Seal(nil, nil, text, at.bytes()) // #nosec G407 -- the box makes a random nonce itself
}

// Open returns what was sealed for the place, or ErrOpen.
func (k *Keys) Open(sealed []byte, at Place) ([]byte, error) {
	text, err := k.box.Open(nil, nil, sealed, at.bytes())
	if err != nil {
		return nil, ErrOpen
	}
	return text, nil
}
