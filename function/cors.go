package function

import (
	"net/http"
	"slices"
	"strings"

	"github.com/rs/cors"
	"golang.org/x/net/http/httpguts"

	"claudepool/pool/api"
)

// preflightAge is for how long a browser may remember what it was told, in seconds.
const preflightAge = 600

// What of a request's headers a page may set: what the official SDKs and the CLI's send, and this service's own.
var (
	pageHeaders = []string{"authorization", "content-type", "idempotency-key", "last-event-id", "traceparent",
		"x-api-key"}
	pagePrefixes = []string{"anthropic-", "x-claudepool-", "x-stainless-"}
)

// shownHeaders are what a page may read of an answer's headers.
var shownHeaders = []string{"Request-Id", api.HeaderRequestID, "Retry-After", api.HeaderShouldRetry,
	api.HeaderInstance, api.HeaderPID, api.HeaderProcess, api.HeaderTurn, "X-Claudepool-Ignored"}

// crossOrigin lets pages of the origins use what it is put before, and answers their browsers' preflights, which carry
// no credential. "*" alone is every page that says where it comes from. Cookies play no part here, so they are never
// allowed.
func crossOrigin(origins []string) func(http.Handler) http.Handler {
	if len(origins) == 0 {
		return func(next http.Handler) http.Handler { return next }
	}
	rules := cors.New(cors.Options{AllowedOrigins: origins, AllowedMethods: []string{http.MethodGet, http.MethodHead,
		http.MethodPost, http.MethodDelete},
		AllowedHeaders: []string{"*"}, ExposedHeaders: shownHeaders, MaxAge: preflightAge})
	return func(next http.Handler) http.Handler {
		next = rules.Handler(next)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Origin") == "null" { // as all pages of files and sandboxes say
				r.Header.Del("Origin")
			}
			narrow(r.Header)
			next.ServeHTTP(w, r)
		})
	}
}

// narrow leaves of what a preflight asks for the headers that pages may set: the library knows no prefixes, and allows
// all that it is asked for.
func narrow(h http.Header) {
	const asked = "Access-Control-Request-Headers"
	if len(h.Values(asked)) == 0 {
		return
	}
	var allowed []string
	for name := range strings.SplitSeq(strings.Join(h.Values(asked), ","), ",") {
		if name = strings.ToLower(strings.TrimSpace(name)); mayPageSet(name) {
			allowed = append(allowed, name)
		}
	}
	h.Set(asked, strings.Join(allowed, ","))
}

func mayPageSet(name string) bool {
	begins := func(prefix string) bool { return strings.HasPrefix(name, prefix) }
	return httpguts.ValidHeaderFieldName(name) &&
		(slices.Contains(pageHeaders, name) || slices.ContainsFunc(pagePrefixes, begins))
}
