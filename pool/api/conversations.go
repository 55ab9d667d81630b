package api

import (
	"encoding/json"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/tidwall/gjson"
)

// The paths at which users see to their conversations.
const (
	PathConversations        = "/v1/conversations"
	PathConversation         = "/v1/conversations/{id}"
	PathConversationMessages = "/v1/conversations/{id}/messages"
	PathConversationFork     = "/v1/conversations/{id}/fork"
)

// The paths at which instances answer what fronts are asked at the others: the id is in the body.
const (
	PathOne   = "/v1/conversations/one"
	PathSaid  = "/v1/conversations/messages"
	PathForks = "/v1/conversations/fork"
)

// Conversation is what a user is told of one.
type Conversation struct {
	ID       string            `json:"id"`
	Title    string            `json:"title"`            // the beginning of its first text, in one line
	Created  time.Time         `json:"created,omitzero"` // not told of those which a release saved that didn't know
	LastUsed time.Time         `json:"last_used"`
	Running  bool              `json:"running"` // a request has it
	Pending  []json.RawMessage `json:"pending"` // what its process has asked, and waits for
}

// Conversations is one part of a list of them, those that were used last first.
type Conversations struct {
	Conversations []Conversation `json:"conversations"`
	Next          string         `json:"next,omitempty"` // what the next part comes after; empty: this was the last
}

// ConversationMessages are some of those of a conversation, in the order in which they were said.
type ConversationMessages struct {
	Messages []Message `json:"messages"`
	Before   int       `json:"before,omitempty"` // what the part before these comes before; 0: there is none
}

// Fork is the answer to a request to fork a conversation.
type Fork struct {
	ID         string `json:"id"`
	ForkedFrom string `json:"forked_from"`
	Workspace  bool   `json:"workspace"` // whether it has the files of the other, which it hasn't
}

const (
	// usualListed and mostListed are how many conversations or messages are told of at a time.
	usualListed, mostListed = 20, 100
	// mostBefore bounds the number of a message.
	mostBefore = 1 << 30
	// mostTitle is how long a title may be, in characters.
	mostTitle = 80
)

// ConversationQuery is what is asked of a user's conversations, as a front passes it on.
type ConversationQuery struct {
	APIKey    string            `json:"api_key,omitempty"`
	OAuth     *OAuthCredentials `json:"oauth_credentials,omitempty"`
	SessionID string            `json:"session_id,omitempty"` // of the one that is meant
	After     string            `json:"after,omitempty"`      // of a list: Next of the part before
	Before    int               `json:"before,omitempty"`     // of messages: Before of the part behind
	Limit     int               `json:"limit,omitempty"`
	ForkID    string            `json:"fork_id,omitempty"` // of the one to be made
}

var listPlace = regexp.MustCompile(`^([0-9]{1,19})\.([0-9a-f-]{36})$`)

// SetPart reads from a URL's query which part is asked for.
func (q *ConversationQuery) SetPart(query url.Values) (err error) {
	q.After, q.Limit = query.Get("after"), usualListed
	if text := query.Get("limit"); text != "" {
		if q.Limit, err = strconv.Atoi(text); err != nil || q.Limit == 0 {
			q.Limit = -1
		}
	}
	if text := query.Get("before"); text != "" {
		if q.Before, err = strconv.Atoi(text); err != nil || q.Before == 0 {
			q.Before = -1
		}
	}
	return q.validate()
}

func (q *ConversationQuery) validate() error {
	switch {
	case q.After != "" && !listPlace.MatchString(q.After):
		return Invalid("after: must be what next was in the answer before")
	case q.Before < 0 || q.Before > mostBefore:
		return Invalid("before: must be what before was in the answer before")
	case q.Limit < 0 || q.Limit > mostListed:
		return Invalid("limit: must be a whole number from 1 to %d", mostListed)
	}
	return nil
}

// DecodeQuery decodes what a front asks, of which the request has the credential and the session.
func DecodeQuery(body []byte) (*Request, *ConversationQuery, error) {
	req, err := DecodeDeletion(body)
	if err != nil {
		return nil, nil, err
	}
	var q ConversationQuery
	if err := json.Unmarshal(body, &q); err != nil {
		return nil, nil, malformed(err)
	}
	return req, &q, q.validate()
}

// CheckSession returns the id of a conversation as it is known by. Its error is a 400.
func CheckSession(id string) (string, error) {
	req := Request{SessionID: id}
	if id == "" {
		return "", Invalid("session_id: must be a UUID")
	}
	err := req.validateSession()
	return req.SessionID, err
}

// place is where a conversation stands in a list.
func (c Conversation) place() string {
	return strconv.FormatInt(c.LastUsed.UnixNano(), 10) + "." + c.ID
}

// Compare orders conversations as lists have them.
func (c Conversation) Compare(d Conversation) int {
	if order := d.LastUsed.Compare(c.LastUsed); order != 0 {
		return order
	}
	return strings.Compare(c.ID, d.ID)
}

// Part is the part that is asked for of all conversations, which are in order. Those that have been used since the part
// before was told are in none of those behind it.
func (q *ConversationQuery) Part(all []Conversation) Conversations {
	if m := listPlace.FindStringSubmatch(q.After); m != nil {
		at, _ := strconv.ParseInt(m[1], 10, 64) // one that is too large is the largest
		last := Conversation{ID: m[2], LastUsed: time.Unix(0, at)}
		for len(all) > 0 && all[0].Compare(last) <= 0 {
			all = all[1:]
		}
	}
	part := Conversations{Conversations: all}
	if len(all) > q.Limit {
		part.Conversations, part.Next = all[:q.Limit], all[q.Limit-1].place()
	}
	return part
}

// Title is what a conversation is called that begins with the request: the beginning of the first text, in one line.
func (r *Request) Title() (title string) {
	for _, m := range r.Messages {
		if m.Role != "user" {
			continue
		}
		m.blocks(func(kind string, block gjson.Result) bool {
			if kind == "text" {
				title = titleOf(block.Get("text").Str)
			}
			return title == ""
		})
		if title != "" {
			break
		}
	}
	return title
}

func titleOf(text string) string {
	if strings.HasPrefix(text, "<system-reminder>") { // as the CLI puts before what its user says
		return ""
	}
	text = text[:min(len(text), 16*mostTitle)] // enough of it, whatever is in between
	words := strings.FieldsFunc(text, func(r rune) bool {
		return unicode.IsSpace(r) || !unicode.IsPrint(r) || r == utf8.RuneError
	})
	runes := []rune(strings.Join(words, " "))
	if len(runes) <= mostTitle {
		return string(runes)
	}
	return strings.TrimSpace(string(runes[:mostTitle-1])) + "…"
}

// DecodeFork decodes the body of a request to fork a conversation: the id that the new one is to have, or "".
func DecodeFork(body []byte) (id string, err error) {
	if _, err := Object(body); err != nil {
		return "", err
	}
	var asked struct {
		SessionID string `json:"session_id"`
	}
	if err := json.Unmarshal(body, &asked); err != nil {
		return "", malformed(err)
	}
	if asked.SessionID == "" {
		return "", nil
	}
	return CheckSession(asked.SessionID)
}
