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
	ClientTools    []Tool               `json:"client_tools"`  // that the client runs, at the Messages API
	OnDisconnect   string               `json:"on_disconnect"` // Interrupt, Finish or empty for the former
	Background     string               `json:"background"`    // None, Wait or empty for what the conversation has
	Interactive    bool                 `json:"interactive"`   // the client answers what it is asked
	Stateless      bool                 `json:"stateless"`     // where nothing is said before, nothing was
	MaxBudgetUSD   *float64             `json:"max_budget_usd"`
	MaxTurns       *int                 `json:"max_turns"` // calls of the API for the main conversation
	ServiceKey     string               `json:"-"`         // id of the service's key that it came by; empty: it has none
	MessageUUID    string               `json:"-"`         // of the turn's message; empty: one is made
	Client         *Initialize          `json:"-"`         // what processes are asked for; nil: nothing new
	Host           Host                 `json:"-"`         // who answers what those ask from now on; nil: nobody new
	IsLarge        bool                 `json:"-"`         // it takes much time wherever it comes

	digests *digests // nil in a request that wasn't decoded
}

// digests are what a request is known by. They are computed once.
type digests struct {
	user     [32]byte
	userID   string
	readings func() []Reading // computed once, for whoever needs it: fronts don't
	former   *Request
}

// What is to become of a turn whose client is gone.
const (
	Interrupt = "interrupt"
	Finish    = "finish" // its stream can be taken up again
)

// What is to become of work that outlives the turn.
const (
	None = "none" // it isn't offered
	Wait = "wait" // it is, and the turn ends when nothing of it is left
)

// OAuthPrefix is what OAuth tokens begin with. Whatever else is a credential is an API key.
const OAuthPrefix = "sk-ant-oat"

// OAuthCredentials are a user's. Only the access token is required, and only it and the previous one are used.
type OAuthCredentials struct {
	AccessToken         string          `json:"access_token"`
	PreviousAccessToken string          `json:"previous_access_token"` // of the same person, before it was replaced
	RefreshToken        json.RawMessage `json:"refresh_token"`
	ExpiresAt           json.RawMessage `json:"expires_at"`
	Scopes              json.RawMessage `json:"scopes"`
	SubscriptionType    json.RawMessage `json:"subscription_type"`
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

// Former is a request, with nothing but the credential, of who the user was under the previous token; nil where there
// is none.
func (r *Request) Former() *Request { return r.known().former }

// UserDigest is the SHA-256 of the token.
func (r *Request) UserDigest() [32]byte { return r.known().user }

// UserID is the user's id: the first 16 hex digits of UserDigest.
func (r *Request) UserID() string { return r.known().userID }

// Readings are the ways to tell what the request asks from what was said before it, the likelier one first: the last
// message is asked; or with it all of the user's that stand directly before it, unless the answers to them were empty
// and left out.
func (r *Request) Readings() []Reading { return r.known().readings() }

// Digest is that of all that the request says, the question too.
func (r *Request) Digest() Digest {
	last := r.Readings()[0]
	return extendNow(last.History.Now, last.Asked, "")
}

// Reading is one way to take a request.
type Reading struct {
	Before  []Message // what was said before, as it was sent
	Asked   []Message // what is asked
	History History   // that of Before
}

func (r *Request) read() []Reading {
	last := len(r.Messages) - 1
	if last < 0 {
		return []Reading{{}}
	}
	first := r.firstUnanswered()
	readings := []Reading{r.readFrom(last)}
	if first < last {
		readings = append(readings, r.readFrom(first))
	}
	return readings
}

// firstUnanswered is where the last messages begin that the user sent without an answer between, or with empty ones.
func (r *Request) firstUnanswered() int {
	first := len(r.Messages) - 1
	for first > 0 && (r.Messages[first-1].Role == "user" || r.Messages[first-1].isEmpty()) {
		first--
	}
	return first
}

func (r *Request) readFrom(i int) Reading {
	before, asked := r.Messages[:i:i], r.Messages[i:]
	return Reading{Before: before, Asked: asked, History: HistoryOf(before)}
}

// Seed is what a conversation begins with that has none of what was said before. What the client's tools said belongs
// to it although it stands in what is asked: a tool call without its result can't be gone on from.
func (r Reading) Seed() []Message {
	results, _ := asked(r).toolResults()
	return Merged(append(r.Before[:len(r.Before):len(r.Before)], results...))
}

// goOn is what a CLI is asked where nothing is but that it goes on from what tools said: that stands in what it begins
// with.
const goOn = `"Go on from these results."`

// Message is the content of the one message in which the CLI gets all that is asked.
func (r Reading) Message() json.RawMessage {
	_, others := asked(r).toolResults()
	if string(others.Content) == "[]" {
		return json.RawMessage(goOn)
	}
	return others.Content
}

// asked is all that is asked, of which the last message is the user's.
func asked(r Reading) Message { return Merged(r.Asked)[0] }

func (r *Request) known() *digests {
	if r.digests != nil {
		return r.digests
	}
	d := &digests{user: sha256.Sum256([]byte(r.Token()))}
	d.userID = hex.EncodeToString(d.user[:8])
	d.readings = sync.OnceValue(r.read)
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
