package function

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/pool/api"
)

const conversationID = "0d3b2a4e-6f0a-4d57-9f6e-0f5f6b0d7c11"

// told is what an instance was asked.
type told struct {
	path string
	user string
	q    api.ConversationQuery
}

// newTelling returns a front with an instance that answers with text.
func newTelling(t *testing.T, answer http.HandlerFunc) (url string, asked *told) {
	t.Helper()
	asked = &told{}
	var f *Front
	f, url, _ = newFront(t, func(w http.ResponseWriter, r *http.Request) {
		claims, err := f.opts.Keys.Verify(r.Header.Get(api.HeaderHop), time.Now())
		if err != nil || claims.Path != r.URL.Path {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		body, _ := io.ReadAll(r.Body)
		*asked = told{path: r.URL.Path, user: claims.User}
		_ = json.Unmarshal(body, &asked.q)
		w.Header().Set("Content-Type", "application/json")
		answer(w, r)
	})
	return url, asked
}

func answers(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(text)))
		fmt.Fprint(w, text)
	}
}

func TestConversations_AreAskedOfTheOwner(t *testing.T) {
	t.Parallel()
	const one = "/v1/conversations/" + conversationID
	user := (&api.Request{APIKey: "sk-ant-api03-ada"}).UserID()
	for request, want := range map[string]struct {
		path, answer string
		q            api.ConversationQuery
	}{
		"GET /v1/conversations": {api.PathConversations, `{"conversations":[]}`, api.ConversationQuery{Limit: 20}},
		"GET /v1/conversations?limit=7&after=1." + conversationID: {api.PathConversations, `{"conversations":[]}`,
			api.ConversationQuery{Limit: 7, After: "1." + conversationID}},
		"GET " + one: {api.PathOne, `{"id":"` + conversationID + `","title":"","last_used":"2026-11-28T00:00:00Z",` +
			`"running":false,"pending":[]}`, api.ConversationQuery{SessionID: conversationID}},
		"GET " + one + "/messages?before=3": {api.PathSaid, `{"messages":[]}`,
			api.ConversationQuery{SessionID: conversationID, Before: 3, Limit: 20}},
		"DELETE " + one: {api.PathDelete, `{"deleted":1}`, api.ConversationQuery{SessionID: conversationID}},
	} {
		url, asked := newTelling(t, answers(want.answer))
		method, path, _ := strings.Cut(request, " ")
		response, text := do(t, method, url+path, "", "X-Api-Key", "sk-ant-api03-ada")
		require.Equal(t, http.StatusOK, response.StatusCode, text)
		require.JSONEq(t, want.answer, text)
		require.Equal(t, "no-store", response.Header.Get("Cache-Control"))
		want.q.APIKey = "sk-ant-api03-ada"
		require.Equal(t, told{want.path, user, want.q}, *asked, request)
	}
}

func TestConversations_AForkHasTheIDItIsGivenOrANewOne(t *testing.T) {
	t.Parallel()
	const path, mine = "/v1/conversations/" + conversationID + "/fork", "5c0e2c5e-0a53-4a0c-8f1f-6a4a0c1d9b22"
	url, asked := newTelling(t, answers(`{"id":"`+mine+`","forked_from":"`+conversationID+`","workspace":false}`))
	response, _ := do(t, http.MethodPost, url+path, `{"session_id":"`+mine+`"}`, "Content-Type", "application/json",
		"Authorization", "Bearer sk-ant-oat01-ada")
	require.Equal(t, http.StatusOK, response.StatusCode)
	require.Equal(t, mine, asked.q.ForkID)
	require.Equal(t, "sk-ant-oat01-ada", asked.q.OAuth.AccessToken)
	for _, body := range []string{"", "{}"} {
		do(t, http.MethodPost, url+path, body, "X-Api-Key", "sk-ant-api03-ada", "Content-Type", "application/json")
		require.Regexp(t, `^[0-9a-f-]{36}$`, asked.q.ForkID)
		require.NotEqual(t, mine, asked.q.ForkID)
	}
	for body, status := range map[string]int{`{"session_id":"mine"}`: 400, `[`: 400,
		`{"x":"` + strings.Repeat("x", maxOptions) + `"}`: 413} {
		response, _ := do(t, http.MethodPost, url+path, body, "X-Api-Key", "sk-ant-api03-ada", "Content-Type",
			"application/json")
		require.Equal(t, status, response.StatusCode, body[:min(len(body), 40)])
	}
}

func TestConversations_BadQuestionsAreAskedOfNobody(t *testing.T) {
	t.Parallel()
	url, asked := newTelling(t, answers(`{}`))
	for request, status := range map[string]int{
		"GET /v1/conversations?limit=0":                                  400,
		"GET /v1/conversations?after=x":                                  400,
		"GET /v1/conversations/mine":                                     400,
		"DELETE /v1/conversations/mine":                                  400,
		"GET /v1/conversations/mine/messages":                            400,
		"GET /v1/conversations/" + conversationID + "/messages?before=x": 400,
		"POST /v1/conversations/" + conversationID:                       405,
		"POST /v1/conversations":                                         405,
		"GET /v1/conversations/delete":                                   405,
		"GET /v1/conversations/" + conversationID + "/fork":              405,
	} {
		method, path, _ := strings.Cut(request, " ")
		response, text := do(t, method, url+path, "", "X-Api-Key", "sk-ant-api03-ada")
		require.Equal(t, status, response.StatusCode, request+text)
	}
	response, _ := do(t, http.MethodGet, url+"/v1/conversations", "")
	require.Equal(t, http.StatusUnauthorized, response.StatusCode)
	response, _ = do(t, http.MethodGet, url+"/v1/conversations", "", "X-Api-Key", "a", "Authorization", "Bearer b")
	require.Equal(t, http.StatusBadRequest, response.StatusCode)
	require.Empty(t, asked.path)
}

func TestConversations_WhatIsNotThereCannotBeDeleted(t *testing.T) {
	t.Parallel()
	url, _ := newTelling(t, answers(`{"deleted":0}`))
	response, _ := do(t, http.MethodDelete, url+"/v1/conversations/"+conversationID, "", "X-Api-Key", "sk-ant-api03-ada")
	require.Equal(t, http.StatusNotFound, response.StatusCode)
	url, _ = newTelling(t, answers(`nonsense`))
	response, _ = do(t, http.MethodDelete, url+"/v1/conversations/"+conversationID, "", "X-Api-Key", "sk-ant-api03-ada")
	require.Equal(t, http.StatusBadGateway, response.StatusCode)
}

func TestConversations_APartIsNeverTakenForTheWhole(t *testing.T) {
	t.Parallel()
	whole := `{"messages":[` + strings.Repeat(" ", 3*copyBuffer) + `]}`
	url, _ := newTelling(t, answers(whole))
	path := "/v1/conversations/" + conversationID + "/messages"
	_, text := do(t, http.MethodGet, url+path, "", "X-Api-Key", "sk-ant-api03-ada")
	require.Equal(t, whole, text)
	url, _ = newTelling(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(whole)))
		fmt.Fprint(w, whole[:len(whole)/2])
		panic(http.ErrAbortHandler)
	})
	r, err := http.NewRequest(http.MethodGet, url+path, nil)
	require.NoError(t, err)
	r.Header.Set("X-Api-Key", "sk-ant-api03-ada")
	response, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer response.Body.Close()
	_, err = io.ReadAll(response.Body)
	require.Error(t, err)
}
