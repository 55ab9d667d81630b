package pooltest

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"claudepool/pool/pooltest/directive"
)

const pathModels = "/v1/models/"

// model is one of the API's as it tells of it.
type model struct {
	Type        string `json:"type"`
	ID          string `json:"id"`
	DisplayName string `json:"display_name"`
	CreatedAt   string `json:"created_at"`
}

// Models are the ids of the models that the API tells of, newest first.
var Models = []string{"claude-opus-5-5", "claude-sonnet-5-5", "claude-haiku-5-5"}

func modelOf(id string) model { return model{"model", id, strings.ToUpper(id), "2026-10-01T00:00:00Z"} }

// lookUp answers a call about models.
func (a *API) lookUp(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	a.models = append(a.models, Call{At: time.Now(), URL: r.URL.String(), Header: r.Header.Clone()})
	a.mu.Unlock()
	id, one := strings.CutPrefix(r.URL.Path, pathModels)
	switch status := a.refused(r); {
	case status != 0:
		fail(w, status)
	case r.Header.Get("Anthropic-Version") == "":
		fail(w, http.StatusBadRequest)
	case !one:
		listModels(w, r)
	case slices.Contains(Models, id):
		sendJSON(w, modelOf(id))
	default:
		fail(w, http.StatusNotFound)
	}
}

// listModels answers with a page of them: the first ones, those behind one, or those directly before one.
func listModels(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	limit, err := strconv.Atoi(cmp.Or(query.Get("limit"), "20"))
	after, before := slices.Index(Models, query.Get("after_id")), slices.Index(Models, query.Get("before_id"))
	unknown := after < 0 && query.Has("after_id") || before < 0 && query.Has("before_id")
	if err != nil || limit < 1 || limit > 1000 || unknown || query.Has("after_id") && query.Has("before_id") {
		fail(w, http.StatusBadRequest)
		return
	}
	first := after + 1
	end := min(first+limit, len(Models))
	more := end < len(Models)
	if before >= 0 {
		first, end = max(0, before-limit), before
		more = first > 0
	}
	page := make([]model, 0, end-first)
	for _, id := range Models[first:end] {
		page = append(page, modelOf(id))
	}
	list := map[string]any{"data": page, "has_more": more, "first_id": nil, "last_id": nil}
	if len(page) > 0 {
		list["first_id"], list["last_id"] = page[0].ID, page[len(page)-1].ID
	}
	sendJSON(w, list)
}

func (a *API) countTokens(ctx context.Context, w http.ResponseWriter, req request) {
	text, _ := req.asked()
	wants := directive.Parse(text).Call(1)
	rest(ctx, wants.Duration("latency"))
	if wants.Has("status") {
		fail(w, wants.Number("status"))
		return
	}
	sendJSON(w, map[string]int{"input_tokens": 10})
}

func sendJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}
