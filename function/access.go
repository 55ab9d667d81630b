package function

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"claudepool/pool/api"
)

// APIKeys are the keys clients may use the front with, as their SHA-256 digests. Without any the front is open to
// whoever reaches it.
type APIKeys [][sha256.Size]byte

// ParseAPIKeys reads a comma-separated list of digests in hex digits.
func ParseAPIKeys(list string) (APIKeys, error) {
	var keys APIKeys
	for text := range strings.SplitSeq(list, ",") {
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		digest, err := hex.DecodeString(text)
		if err != nil || len(digest) != sha256.Size {
			return nil, errors.New("front: not a list of SHA-256 digests")
		}
		keys = append(keys, [sha256.Size]byte(digest))
	}
	return keys, nil
}

// match reports whether the request carries one of the keys. Every key is compared, also after one has fitted: how long
// it takes tells nothing about which.
func (k APIKeys) match(r *http.Request) bool {
	digest, good := digestOfKey(r), 0
	for i := range k {
		good |= subtle.ConstantTimeCompare(k[i][:], digest[:])
	}
	return good == 1
}

func digestOfKey(r *http.Request) [sha256.Size]byte {
	key := r.Header.Get(headerKey)
	if key == "" && !isOfUsers(r.URL.Path) {
		if key = r.Header.Get("X-Api-Key"); key == "" {
			key = api.Bearer(r.Header)
		}
	}
	return sha256.Sum256([]byte(key))
}

// idOf is the id of the key of a request that carries one: the first 16 hex digits of the key's digest. Where there are
// no keys it is empty.
func (k APIKeys) idOf(r *http.Request) string {
	if len(k) == 0 {
		return ""
	}
	digest := digestOfKey(r)
	return hex.EncodeToString(digest[:8])
}

// headerKey is where a key may stand wherever the other headers are the user's.
const headerKey = "X-Claudepool-Key"

// isOfUsers reports whether at the path Authorization and x-api-key carry the user's credential.
func isOfUsers(path string) bool {
	return path == api.PathMessagesAPI || path == api.PathChat || path == api.PathCountTokens ||
		path == api.PathUsage || path != api.PathDelete && strings.HasPrefix(path+"/", api.PathConversations+"/") ||
		strings.HasPrefix(path+"/", api.PathModels+"/")
}

// precheck decides what can be decided before the body has been read.
func (f *Front) precheck(w http.ResponseWriter, r *http.Request) error {
	if len(f.opts.APIKeys) > 0 && !f.opts.APIKeys.match(r) {
		w.Header().Set("WWW-Authenticate", "Bearer")
		if isOfUsers(r.URL.Path) {
			return api.Authentication("a valid API key of this service is needed, as x-claudepool-key")
		}
		return api.Authentication("a valid API key of this service is needed, as x-claudepool-key, x-api-key or a bearer " +
			"token")
	}
	addr, site := clientAddr(r, f.opts.TrustedProxies)
	return f.opts.Limits.address(r.Context(), w.Header(), addr, site)
}

// authorized reports whether the request may see the stats.
func (f *Front) authorized(r *http.Request) bool {
	if f.opts.StatsToken == "" {
		return len(f.opts.APIKeys) == 0 || f.opts.APIKeys.match(r)
	}
	return subtle.ConstantTimeCompare([]byte(api.Bearer(r.Header)), []byte(f.opts.StatsToken)) == 1
}

// clientAddr is the address the request came from, as the outermost of so many proxies of our own has seen it: each
// appends the address that asked it. What stands before that in the header the client wrote itself. Of an IPv6 address
// it is the /64, which one client can have all of; site is then the /48, which one can have too.
func clientAddr(r *http.Request, proxies int) (address, site string) {
	text, _, _ := net.SplitHostPort(r.RemoteAddr)
	if proxies > 0 {
		forwarded := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
		text = strings.TrimSpace(forwarded[max(0, len(forwarded)-proxies)])
	}
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return "unknown", ""
	}
	addr = addr.Unmap().WithZone("")
	if addr.Is4() {
		return addr.String(), ""
	}
	return netip.PrefixFrom(addr, 64).Masked().String(), netip.PrefixFrom(addr, 48).Masked().String()
}
