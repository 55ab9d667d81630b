package function

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/stretchr/testify/require"

	"claudepool/infra/hop"
	"claudepool/infra/settings"
	"claudepool/pool/api"
)

var ada = []string{"Authorization", "Bearer sk-ant-oat01-ada"}

// values are those of the headers of these names.
func values(h http.Header, names ...string) (all []string) {
	for _, name := range names {
		all = append(all, h.Get(name))
	}
	return all
}

// passes is an instance that answers a call as the API does.
func passes(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set(api.HeaderPassed, "1")
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Internal", "10.0.0.7")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func TestFront_PassesCallsThroughToAnyInstance(t *testing.T) {
	const model = `{"type":"model","id":"claude-haiku-5-5"}`
	answers := map[string]string{api.PathCountTokens: `{"input_tokens":3}`, "/v1/models/claude-haiku-5-5": model,
		api.PathModels: `{"data":[` + model + `],"has_more":false}`}
	var got *http.Request
	var body []byte
	_, url, r := newFront(t, func(w http.ResponseWriter, q *http.Request) {
		got = q
		body, _ = io.ReadAll(q.Body)
		passes(200, answers[q.URL.Path])(w, q)
	})
	r.err = fmt.Errorf("no user may be claimed")
	keys, err := hop.ParseKeys("0123456789abcdef0123456789abcdef")
	require.NoError(t, err)
	for _, c := range []struct{ method, target, body string }{
		{http.MethodPost, api.PathCountTokens + "?beta=true", `{"model":"m"}`},
		{http.MethodGet, api.PathModels + "?limit=2&after_id=x", ""},
		{http.MethodGet, "/v1/models/claude-haiku-5-5", ""},
	} {
		headers := append(ada[:2:2], "anthropic-version", "2023-06-01", "anthropic-beta", "one", "Cookie", "c",
			api.HeaderRequestID, "mine-1")
		response, text := do(t, c.method, url+c.target, c.body, headers...)
		require.Equal(t, 200, response.StatusCode, text)
		require.Equal(t, answers[got.URL.Path], text)
		require.Equal(t, []string{"mine-1", "application/json", ""},
			values(response.Header, "request-id", "Content-Type", "X-Internal"))
		require.Equal(t, c.method+" "+c.target, got.Method+" "+got.URL.String())
		require.Equal(t, c.body, string(body))
		claims, err := keys.Verify(got.Header.Get(api.HeaderHop), time.Now())
		require.NoError(t, err)
		require.Equal(t, got.URL.Path, claims.Path)
		require.Equal(t, []string{"Bearer sk-ant-oat01-ada", "", "one", ""},
			values(got.Header, "Authorization", "X-Api-Key", "Anthropic-Beta", "Cookie"))
	}
	_, _ = do(t, http.MethodGet, url+api.PathModels, "", "Authorization", "Bearer sk-ant-api03-bob")
	require.Equal(t, []string{"", "sk-ant-api03-bob"}, values(got.Header, "Authorization", "X-Api-Key"))
}

// One that doesn't know such calls, as those of the release before, is no answer.
func TestFront_AsksAnotherInstanceWhereOneHasNoAnswer(t *testing.T) {
	gone := newInstance(t, nil)
	gone.Addr = "127.0.0.1:1"
	before := refuse(404, false)
	_, url, r := newFront(t, before, passes(200, `{}`))
	r.owners = append(r.owners, gone)
	r.owners[0], r.owners[1], r.owners[2] = r.owners[2], r.owners[0], r.owners[1]
	response, body := do(t, http.MethodGet, url+api.PathModels, "", ada...)
	require.Equal(t, 200, response.StatusCode, body)
	for name, instances := range map[string][]http.HandlerFunc{
		"none": nil, "of the release before": {before}, "not for its hop": {refuse(401, false)},
	} {
		_, url, _ := newFront(t, instances...)
		response, body := do(t, http.MethodGet, url+api.PathModels, "", ada...)
		require.Equal(t, 503, response.StatusCode, "%s: %s", name, body)
		require.Equal(t, []string{"1", "true"}, values(response.Header, "Retry-After", "x-should-retry"), name)
		require.Contains(t, body, "no instance can ask the API now")
	}
}

func TestFront_WhatTheAPIRefusesIsToldInTheEnvelope(t *testing.T) {
	_, url, _ := newFront(t, func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set(api.HeaderPassed, "1")
		refused := api.NotFound("no such model")
		if q.Header.Get("Authorization") == "" {
			refused = api.CredentialRefused()
		}
		api.WriteError(w, q.Header.Get(api.HeaderRequestID), refused)
	})
	response, body := do(t, http.MethodGet, url+"/v1/models/m", "", append(ada, api.HeaderRequestID, "mine-1")...)
	require.Equal(t, 404, response.StatusCode)
	want := `{"type":"error","error":{"type":"not_found_error","message":"no such model"},"request_id":"mine-1"}`
	require.JSONEq(t, want, body)
	require.Equal(t, "mine-1", response.Header.Get("request-id"))
	response, _ = do(t, http.MethodGet, url+"/v1/models/m", "", "x-api-key", "sk-ant-api03-bob")
	require.Equal(t, 401, response.StatusCode)
}

func TestFront_OddCallsAreRefusedAndGoNowhere(t *testing.T) {
	f, url, _ := newFront(t, func(http.ResponseWriter, *http.Request) { t.Error("passed through") })
	for _, c := range []struct {
		method, target, body string
		headers              []string
		status               int
	}{
		{http.MethodGet, api.PathModels, "", nil, 401},
		{http.MethodPost, api.PathModels, "", ada, 405}, {http.MethodGet, api.PathCountTokens, "", ada, 405},
		{http.MethodGet, "/v1/models/..%2fx", "", ada, 400}, {http.MethodGet, "/v1/models/a/b", "", ada, 404},
		{http.MethodGet, api.PathModels, "", append(ada[:2:2], "x-api-key", "sk-ant-api03-ada"), 400},
		{http.MethodPost, api.PathCountTokens, "{}", append(ada[:2:2], "Content-Type", "text/plain"), 400},
		{http.MethodPost, api.PathCountTokens, "{}", append(ada[:2:2], "Content-Encoding", "gzip"), 415},
		{http.MethodPost, api.PathCountTokens, strings.Repeat("x", 33<<20), ada, 413},
	} {
		response, body := do(t, c.method, url+c.target, c.body, c.headers...)
		require.Equal(t, c.status, response.StatusCode, "%s %s: %s", c.method, c.target, body)
		require.Contains(t, body, `"error":{`)
		require.NotEmpty(t, response.Header.Get("request-id"))
	}
	f.opts.APIKeys = apiKeysOf(t, "key-of-one")
	for _, headers := range [][]string{
		ada, {"Authorization", "Bearer key-of-one"}, {"x-api-key", "key-of-one"},
		append(ada[:2:2], "x-api-key", "key-of-one"), append(ada[:2:2], headerKey, "key-of-two"),
	} {
		response, body := do(t, http.MethodGet, url+api.PathModels, "", headers...)
		require.Equal(t, 401, response.StatusCode, body)
		require.Contains(t, body, "x-claudepool-key")
	}
}

func TestFront_TheServicesKeyHasAHeaderOfItsOwnThatGoesNowhere(t *testing.T) {
	f, url, _ := newFront(t, func(w http.ResponseWriter, q *http.Request) {
		require.NotContains(t, fmt.Sprint(q.Header), "key-of-one")
		if q.URL.Path == api.PathMessages {
			events(api.Done)(w, q)
			return
		}
		passes(200, `{}`)(w, q)
	})
	f.opts.APIKeys = apiKeysOf(t, "key-of-one")
	response, body := do(t, http.MethodGet, url+api.PathModels, "", append(ada[:2:2], headerKey, "key-of-one")...)
	require.Equal(t, 200, response.StatusCode, body)
	response, body = do(t, http.MethodPost, url+api.PathMessages, question, headerKey, "key-of-one")
	require.Equal(t, 200, response.StatusCode, body)
}

func TestFront_OnlySomeCallsAreUnderWayAndFewOfOneAddress(t *testing.T) {
	come, pass := make(chan struct{}, 100), make(chan struct{})
	f, url, _ := newFront(t, func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == api.PathMessages {
			events(api.Done)(w, q)
			return
		}
		come <- struct{}{}
		select {
		case <-pass:
		case <-time.After(30 * time.Second): // who should not have come
		}
		passes(200, `{}`)(w, q)
	})
	f.opts.TrustedProxies = 1
	from := func(addr int) (int, string) {
		headers := append(ada[:2:2], "X-Forwarded-For", fmt.Sprint("203.0.113.", addr))
		response, _ := do(t, http.MethodGet, url+api.PathModels, "", headers...)
		return response.StatusCode, response.Header.Get("Retry-After")
	}
	served := make(chan int, callsAtOnce)
	for i := range callsAtOnce {
		go func() { status, _ := from(i); served <- status }()
	}
	for range callsAtOnce {
		<-come
	}
	for _, addr := range []int{0, 99} {
		status, retry := from(addr)
		require.Equal(t, 429, status)
		require.Equal(t, "1", retry)
	}
	status, _, _ := post(t, url, question)
	require.Equal(t, 200, status, "turns go on")
	pass <- struct{}{}
	require.Equal(t, 200, <-served)
	under := func() int { f.calls.places.mu.Lock(); defer f.calls.places.mu.Unlock(); return f.calls.places.all }
	require.Eventually(t, func() bool { return under() < callsAtOnce }, 30*time.Second, time.Millisecond)
	go from(99)
	<-come
	close(pass)
	for range callsAtOnce - 1 {
		require.Equal(t, 200, <-served)
	}
	require.Eventually(t, func() bool { return under() == 0 }, 30*time.Second, time.Millisecond)
	require.Empty(t, f.calls.places.taken)
}

func TestFront_OneAddressHasItsOwnBoundOfCallsAndItsRate(t *testing.T) {
	p := newPlaces(callsAtOnce)
	takes := func(addr string) (n int) {
		for p.acquire(addr) {
			n++
		}
		return n
	}
	require.Equal(t, 6, takes("a"))
	p.release("a")
	require.Equal(t, 1, takes("a"))
	for _, other := range []string{"b", "c", "d"} {
		require.LessOrEqual(t, takes(other), 6)
	}
	for other := range 8 {
		require.NotZero(t, takes(fmt.Sprint(other)), "four addresses leave places to others")
	}

	server := miniredis.RunT(t)
	f, url, _ := newFront(t, passes(200, `{}`))
	once, twice := settings.Rate{Requests: 1, Per: time.Hour}, settings.Rate{Requests: 2, Per: time.Hour}
	f.opts.Limits = patientLimits(t, server.Addr(), once, twice)
	for _, want := range []int{200, 200, 429} {
		response, _ := do(t, http.MethodGet, url+api.PathModels, "", ada...)
		require.Equal(t, want, response.StatusCode, "of an address, not of a user's turns")
	}
}
