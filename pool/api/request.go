// Package api is the public contract of the service: the request and its validation, the errors, the stream's framing
// and the stats. It knows nothing of processes or instances.
package api

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"sync"
)

// Request is the body of POST /v1/messages/pooled. A nil pointer or map says that the client left the field out.
type Request struct {
	OAuth          *OAuthCredentials    `json:"oauth_credentials"`
	APIKey         string               `json:"api_key"`
	Messages       []Message            `json:"messages"`
	Model          string               `json:"model"`
	SessionID      string               `json:"session_id"`
	System         *string              `json:"-"`
	Thinking       *bool                `json:"-"`
	FallbackModel  *string              `json:"fallback_model"`
	MCPServers     map[string]MCPServer `json:"mcp_servers"`
	PermissionMode string               `json:"permission_mode"`
	OnDisconnect   string               `json:"on_disconnect"` // Interrupt, Finish or empty for the former

	digests *digests // nil in a request that wasn't decoded
}

// digests are what a request is known by. They are computed once.
type digests struct {
	user    [32]byte
	userID  string
	history func() [32]byte // computed once, for whoever needs it: fronts don't
	former  *Request
}

// What is to become of a turn whose client is gone.
const (
	Interrupt = "interrupt"
	Finish    = "finish" // its stream can be taken up again
)

// OAuthCredentials are a user's. Only the access token is required, and only it and the previous one are used.
type OAuthCredentials struct {
	AccessToken         string          `json:"access_token"`
	PreviousAccessToken string          `json:"previous_access_token"` // of the same person, before it was replaced
	RefreshToken        json.RawMessage `json:"refresh_token"`
	ExpiresAt           json.RawMessage `json:"expires_at"`
	Scopes              json.RawMessage `json:"scopes"`
	SubscriptionType    json.RawMessage `json:"subscription_type"`
}

// Message is one message of a conversation. Content is a JSON string or an array of content blocks, as it was sent.
type Message struct {
	Role    string          `json:"role"`
	Content json.RawMessage `json:"content"`
}

// MCPServer is a server the conversation's process connects to.
type MCPServer struct {
	Type    string            `json:"type,omitempty"` // stdio, http or sse
	Command string            `json:"command,omitempty"`
	Args    []string          `json:"args,omitempty"`
	Env     map[string]string `json:"env,omitempty"`
	URL     string            `json:"url,omitempty"`
	Headers map[string]string `json:"headers,omitempty"`
}

// Token is the credential the request came with. It is the user's identity.
func (r *Request) Token() string {
	if r.OAuth != nil {
		return r.OAuth.AccessToken
	}
	return r.APIKey
}

// formerToken is the one before the present one; empty where there is none.
func (r *Request) formerToken() string {
	if r.OAuth == nil {
		return ""
	}
	return r.OAuth.PreviousAccessToken
}

// Former is a request, with nothing but the credential, of who the user was under the previous token; nil where there is
// none.
func (r *Request) Former() *Request { return r.known().former }

// UserDigest is the SHA-256 of the token.
func (r *Request) UserDigest() [32]byte { return r.known().user }

// UserID is the user's id: the first 16 hex digits of UserDigest.
func (r *Request) UserID() string { return r.known().userID }

// HistoryDigest is that of what was said before; see the function of that name.
func (r *Request) HistoryDigest() [32]byte { return r.known().history() }

func (r *Request) known() *digests {
	if r.digests != nil {
		return r.digests
	}
	d := &digests{user: sha256.Sum256([]byte(r.Token()))}
	d.userID = hex.EncodeToString(d.user[:8])
	d.history = func() (none [32]byte) { return none }
	if len(r.Messages) > 1 {
		d.history = sync.OnceValue(func() [32]byte { return HistoryDigest(r.History()) })
	}
	if former := r.formerToken(); former != "" {
		d.former = &Request{OAuth: &OAuthCredentials{AccessToken: former}}
		d.former.digests = d.former.known()
	}
	return d
}

// ShortUser is the part of a user id that logs and stats may show.
func ShortUser(id string) string { return id[:min(8, len(id))] }

// Turn is the message to be answered: the last one.
func (r *Request) Turn() Message { return r.Messages[len(r.Messages)-1] }

// History is what was said before.
func (r *Request) History() []Message { return r.Messages[:len(r.Messages)-1] }
