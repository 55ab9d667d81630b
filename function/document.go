package function

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strings"

	"github.com/munnerz/goautoneg"

	"claudepool/function/openapi"
	"claudepool/function/page"
	"claudepool/pool/api"
)

const pathDocument = "/openapi.json"

// document answers with the description of the service.
func document() http.HandlerFunc { return fixed("application/json", openapi.Document()) }

// fixed answers with what is the same for everybody, for as long as the program runs.
func fixed(kind string, text []byte) http.HandlerFunc {
	digest := sha256.Sum256(text)
	tag := `"` + hex.EncodeToString(digest[:8]) + `"`
	return func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("ETag", tag)
		h.Set("Cache-Control", "no-cache") // may be kept, but is to be asked for whether it is the same
		if r.Header.Get("If-None-Match") == tag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		h.Set("Content-Type", kind)
		h.Set("X-Content-Type-Options", "nosniff")
		_, _ = w.Write(text)
	}
}

// files answers with what a page is made of, by the names below its path. The page has none.
func (f *Front) files(of []page.File) http.HandlerFunc {
	files := make(map[string]http.HandlerFunc)
	for _, file := range of {
		files[file.Name] = fixed(file.Type, file.Text)
	}
	return func(w http.ResponseWriter, r *http.Request) {
		file := files[r.PathValue("file")]
		if file == nil {
			f.notFound(w, r)
			return
		}
		h := w.Header()
		h.Set("Content-Security-Policy", page.Policy)
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Referrer-Policy", "no-referrer")
		f.limitWrite(http.NewResponseController(w))
		file(w, r)
	}
}

// root shows browsers the page on which people talk, and describes the service to everybody else.
func (f *Front) root(shown http.HandlerFunc) http.HandlerFunc {
	const json, html = "application/json", "text/html"
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Add("Vary", "Accept")
		if goautoneg.Negotiate(strings.Join(r.Header.Values("Accept"), ","), []string{json, html}) == html {
			shown(w, r)
			return
		}
		f.describe(w, r)
	}
}

func (f *Front) describe(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, map[string]any{
		"service":     "claudepool",
		"description": "Keeps one Claude Code process per conversation alive between requests.",
		"endpoints": map[string]string{
			"POST " + api.PathMessagesAPI:         "a turn, for clients of the Messages API",
			"POST " + api.PathChat:                "a turn, for clients of OpenAI's chat completions",
			"POST " + api.PathMessages:            "one turn of a user's conversation, as server-sent events",
			"POST " + api.PathResume:              "the rest of a turn's events, after Last-Event-ID",
			"POST " + api.PathAnswer:              "answers what a running turn has asked",
			"POST " + api.PathDelete:              "deletes the user's conversations, or that of session_id",
			"GET " + api.PathConversations:        "the user's conversations",
			"GET " + api.PathConversation:         "one of them",
			"GET " + api.PathConversationMessages: "what was said in it",
			"POST " + api.PathConversationFork:    "begins another one with what was said in it",
			"DELETE " + api.PathConversation:      "deletes it",
			"GET " + api.PathStream:               "what happens in a conversation, as server-sent events",
			"POST " + api.PathSend:                "says something in a conversation",
			"POST " + api.PathCountTokens:         "how many tokens a message has, as the Messages API says",
			"GET " + api.PathModels:               "the models there are, as the Messages API says",
			"GET " + api.PathModel:                "one of them",
			"GET " + api.PathUsage:                "what the user's turns took, by day and model",
			"GET " + api.PathAdminUsage:           "what all users' turns took, for the operator",
			"GET " + pathStats:                    "all instances and their processes",
			"GET " + pathStream:                   "the same as server-sent events, whenever it has changed",
			"GET " + page.Path:                    "the same as a page, for people",
			"GET /":                               "this, and where text/html is preferred a page to talk on",
			"GET /health":                         "liveness",
			"GET " + pathDocument:                 "all of it in OpenAPI 3.1",
		},
	})
}
