package function

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/pool/api"
	"claudepool/router"
)

func TestFront_EveryErrorHasTheIDWhereSDKsLookForIt(t *testing.T) {
	f, url, _ := newFront(t, refuse(http.StatusNotFound, false))
	for _, c := range []struct {
		method, path, body string
		status             int
	}{
		{http.MethodGet, "/nowhere", "", 404}, {http.MethodGet, api.PathMessages, "", 405},
		{http.MethodPost, api.PathMessages, "{", 400}, {http.MethodPost, api.PathMessages, question, 404},
		{http.MethodPost, api.PathResume, question, 400},
	} {
		response, body := do(t, c.method, url+c.path, c.body, api.HeaderRequestID, "mine-1")
		require.Equal(t, c.status, response.StatusCode, body)
		require.Equal(t, "mine-1", response.Header.Get("request-id"), c.path)
		require.Equal(t, "mine-1", response.Header.Get("x-request-id"), c.path)
	}
	f.opts.StatsToken = "t"
	response, _ := do(t, http.MethodGet, url+"/v1/pool/stats", "")
	require.Equal(t, http.StatusUnauthorized, response.StatusCode)
	require.NotEmpty(t, response.Header.Get("request-id"))
}

func TestFront_TellsSDKsToTryAgainWhatNeverBeganAndNothingElse(t *testing.T) {
	breaks := func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	for name, c := range map[string]struct {
		instance http.HandlerFunc
		route    error
		status   int
		want     string
	}{
		"no room":                       {nil, router.ErrFull, 529, "true"},
		"no instance":                   {nil, router.ErrUnavailable, 503, "true"},
		"the instance broke":            {breaks, nil, 502, "false"},
		"the instance accepted it once": {refuse(409, false), nil, 502, "false"},
		"the queue is full": {func(w http.ResponseWriter, _ *http.Request) {
			api.WriteError(w, "", api.RateLimited(time.Second, "full"))
		}, nil, 429, "true"},
	} {
		t.Run(name, func(t *testing.T) {
			instances := []http.HandlerFunc{c.instance}
			if c.instance == nil {
				instances = nil
			}
			_, url, r := newFront(t, instances...)
			r.err = c.route
			status, header, body := post(t, url, question)
			require.Equal(t, c.status, status, body)
			require.Equal(t, c.want, header.Get("x-should-retry"))
		})
	}
}
