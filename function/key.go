package function

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"regexp"

	"claudepool/pool/api"
)

var idempotencyKey = regexp.MustCompile(`^[!-~]{1,255}$`)

// key is by what the user's owner knows a request again that is sent twice.
type key struct {
	text     string // the client's name for the request; empty: it has none
	original string // digest of what the client has sent, where that has been translated
}

// call begins a request that is valid, with its key if it is for a turn.
func (k kind) call(sent *api.Body, h http.Header, req *api.Request) (call, error) {
	c, err := k.begin(sent)
	if err == nil && c.path == api.PathMessages {
		c.key.text, err = keyOf(h, req)
	}
	return c, err
}

// keyOf reads a request's key. A turn that has one goes on without its client, who is expected to come again.
func keyOf(h http.Header, req *api.Request) (string, error) {
	sent := h.Values(api.HeaderIdempotencyKey)
	switch {
	case len(sent) == 0:
		return "", nil
	case len(sent) > 1 || !idempotencyKey.MatchString(sent[0]):
		return "", api.Invalid("%s: must be one key of 1 to 255 visible ASCII characters", api.HeaderIdempotencyKey)
	case req.OnDisconnect == api.Interrupt:
		return "", api.Invalid("%s: a turn with a key can't have on_disconnect %s", api.HeaderIdempotencyKey, api.Interrupt)
	}
	return sent[0], nil
}

// originalOf is the digest of the body of a request with a key.
func originalOf(h http.Header, body []byte) string {
	if h.Get(api.HeaderIdempotencyKey) == "" {
		return ""
	}
	digest := sha256.Sum256(body)
	return hex.EncodeToString(digest[:])
}

func (k key) set(h http.Header) {
	if k.text == "" {
		return
	}
	h.Set(api.HeaderIdempotencyKey, k.text)
	if k.original != "" {
		h.Set(api.HeaderOriginal, k.original)
	}
}
