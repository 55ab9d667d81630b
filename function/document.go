package function

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"

	"claudepool/function/openapi"
	"claudepool/pool/api"
)

const pathDocument = "/openapi.json"

// document answers with the description of the service.
func document() http.HandlerFunc {
	text := openapi.Document()
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
		h.Set("Content-Type", "application/json")
		h.Set("X-Content-Type-Options", "nosniff")
		_, _ = w.Write(text)
	}
}

func (f *Front) describe(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, map[string]any{
		"service":     "claudepool",
		"description": "Keeps one Claude Code process per conversation alive between requests.",
		"endpoints": map[string]string{
			"POST " + api.PathMessagesAPI: "a turn, for clients of the Messages API",
			"POST " + api.PathChat:        "a turn, for clients of OpenAI's chat completions",
			"POST " + api.PathMessages:    "one turn of a user's conversation, as server-sent events",
			"POST " + api.PathResume:      "the rest of a turn's events, after Last-Event-ID",
			"POST " + api.PathDelete:      "deletes the user's conversations, or that of session_id",
			"POST " + api.PathCountTokens: "how many tokens a message has, as the Messages API says",
			"GET " + api.PathModels:       "the models there are, as the Messages API says",
			"GET " + api.PathModel:        "one of them",
			"GET " + api.PathUsage:        "what the user's turns took, by day and model",
			"GET " + api.PathAdminUsage:   "what all users' turns took, for the operator",
			"GET /v1/pool/stats":          "all instances and their processes",
			"GET /health":                 "liveness",
			"GET " + pathDocument:         "all of it in OpenAPI 3.1",
		},
	})
}
