package api

import (
	"cmp"
	"net/http"
	"regexp"
	"strings"
)

// The paths of the API whose calls are passed through.
const (
	PathCountTokens = "/v1/messages/count_tokens" // #nosec G101 -- a path
	PathModels      = "/v1/models"
	PathModel       = "/v1/models/{id}"
)

// Call is a call of the Messages API that needs no process: it is passed through with the client's own credential.
type Call struct {
	Credential          *Request // of which nothing but the credential counts
	Method, Path, Query string
	Header              http.Header // what of the client's the API gets
	Body                []byte
}

const (
	headerVersion = "Anthropic-Version"
	headerBeta    = "Anthropic-Beta"
	// usualVersion is that of the API for a client that names none.
	usualVersion = "2023-06-01"
	// maxCallText is how long a query may be, and each header that is passed through, in bytes.
	maxCallText = 4 << 10
)

var modelID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}$`) // one segment of a path, and never ".."

// NewCall reads what call a request makes, but for its body. Its error is an *Error of the 4xx kind.
func NewCall(r *http.Request) (Call, error) {
	credential, err := CredentialIn(r.Header)
	if err != nil {
		return Call{}, err
	}
	if id := r.PathValue("id"); id != "" && !modelID.MatchString(id) {
		return Call{}, Invalid("the id of a model: must be 1 to 128 letters, digits or ._:@-, not one of these first")
	}
	if len(r.URL.RawQuery) > maxCallText {
		return Call{}, Invalid("the query must not be longer than %d bytes", maxCallText)
	}
	header := http.Header{headerVersion: {cmp.Or(r.Header.Get(headerVersion), usualVersion)}}
	if beta := strings.Join(r.Header.Values(headerBeta), ","); beta != "" {
		header.Set(headerBeta, beta)
	}
	for name := range header {
		if len(header.Get(name)) > maxCallText {
			return Call{}, Invalid("%s must not be longer than %d bytes", strings.ToLower(name), maxCallText)
		}
	}
	return Call{Credential: credential, Method: r.Method, Path: r.URL.Path, Query: r.URL.RawQuery, Header: header}, nil
}

// CredentialIn finds the user's credential where the official SDKs put it: some in Authorization, some in x-api-key,
// and whoever has put it into both has put the same there.
func CredentialIn(h http.Header) (*Request, error) {
	token, key := Bearer(h), h.Get("X-Api-Key")
	if token != "" && key != "" && token != key {
		return nil, Invalid("Authorization and x-api-key have different credentials")
	}
	token = cmp.Or(token, key)
	switch {
	case token == "":
		return nil, Authentication("a credential is required, as x-api-key or as a bearer token")
	case !isToken(token):
		return nil, Invalid("the credential must be 8 to 4096 printable ASCII characters without spaces")
	}
	req := &Request{APIKey: token}
	if strings.HasPrefix(token, OAuthPrefix) {
		req = &Request{OAuth: &OAuthCredentials{AccessToken: token}}
	}
	req.digests = req.known()
	return req, nil
}

// Bearer is the token in Authorization, or "".
func Bearer(h http.Header) string {
	scheme, token, _ := strings.Cut(h.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}
