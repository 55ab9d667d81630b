package api

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func callWith(target string, headers ...string) (Call, error) {
	r := httptest.NewRequest(http.MethodGet, target, http.NoBody)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	var call Call
	var err error
	mux := http.NewServeMux()
	read := func(_ http.ResponseWriter, r *http.Request) { call, err = NewCall(r) }
	mux.HandleFunc(PathModels, read)
	mux.HandleFunc(PathModel, read)
	mux.ServeHTTP(httptest.NewRecorder(), r)
	return call, err
}

func TestNewCall_TakesTheCredentialFromWhereSDKsPutIt(t *testing.T) {
	for name, c := range map[string]struct {
		headers []string
		token   string
		oauth   bool
		status  int
	}{
		"a subscription's":    {[]string{"Authorization", "Bearer sk-ant-oat01-ada"}, "sk-ant-oat01-ada", true, 0},
		"in the other header": {[]string{"x-api-key", "sk-ant-oat01-ada"}, "sk-ant-oat01-ada", true, 0},
		"a key":               {[]string{"x-api-key", "sk-ant-api03-ada"}, "sk-ant-api03-ada", false, 0},
		"a key as a bearer":   {[]string{"Authorization", "bearer sk-ant-api03-ada"}, "sk-ant-api03-ada", false, 0},
		"of another kind":     {[]string{"Authorization", "Bearer anything-else"}, "anything-else", false, 0},
		"the same in both": {[]string{"Authorization", "Bearer any-thing", "x-api-key", "any-thing"}, "any-thing", false,
			0},
		"different ones": {[]string{"Authorization", "Bearer sk-ant-oat01-ada", "x-api-key", "another"}, "", false, 400},
		"none":           {nil, "", false, 401},
		"another scheme": {[]string{"Authorization", "Basic sk-ant-oat01-ada"}, "", false, 401},
		"too short":      {[]string{"x-api-key", "short"}, "", false, 400},
		"too long":       {[]string{"x-api-key", strings.Repeat("x", 4097)}, "", false, 400},
		"with a space":   {[]string{"Authorization", "Bearer sk-ant oat01-ada"}, "", false, 400},
	} {
		call, err := callWith("/v1/models", c.headers...)
		if c.status != 0 {
			var refused *Error
			require.True(t, errors.As(err, &refused), name)
			require.Equal(t, c.status, refused.Status, name)
			require.NotContains(t, err.Error(), "ada")
			continue
		}
		require.NoError(t, err, name)
		require.Equal(t, c.token, call.Credential.Token(), name)
		require.Equal(t, c.oauth, call.Credential.OAuth != nil, name)
		require.Equal(t, (&Request{APIKey: c.token}).UserID(), call.Credential.UserID(), name)
	}
}

func TestNewCall_PassesOnWhatTheAPIIsToKnowAndNothingElse(t *testing.T) {
	key := []string{"x-api-key", "sk-ant-api03-ada"}
	call, err := callWith("/v1/models/claude-haiku-5-5?beta=true&limit=3", append(key[:2:2],
		"anthropic-version", "2026-10-21", "anthropic-beta", "one", "anthropic-beta", "two,three",
		"cookie", "c", "x-claudepool-key", "mine")...)
	require.NoError(t, err)
	require.Equal(t, "GET /v1/models/claude-haiku-5-5?beta=true&limit=3", call.Method+" "+call.Path+"?"+call.Query)
	require.Equal(t, http.Header{"Anthropic-Version": {"2026-10-21"}, "Anthropic-Beta": {"one,two,three"}}, call.Header)
	call, err = callWith("/v1/models", key...)
	require.NoError(t, err)
	require.Equal(t, http.Header{"Anthropic-Version": {"2023-06-01"}}, call.Header)

	for name, c := range map[string]struct {
		target  string
		headers []string
	}{
		"a path in the id": {"/v1/models/..%2fmessages", nil}, "dots": {"/v1/models/%2e%2e%2e", nil},
		"a long id": {"/v1/models/" + strings.Repeat("m", 129), nil}, "a space": {"/v1/models/a%20b", nil},
		"a long query":   {"/v1/models?a=" + strings.Repeat("x", maxCallText), nil},
		"a long version": {"/v1/models", []string{"anthropic-version", strings.Repeat("1", maxCallText+1)}},
		"many beta flags": {"/v1/models", []string{"anthropic-beta", strings.Repeat("x", maxCallText), "anthropic-beta",
			"y"}},
	} {
		_, err := callWith(c.target, append(c.headers, key...)...)
		var refused *Error
		require.True(t, errors.As(err, &refused), name)
		require.Equal(t, 400, refused.Status, name)
	}
}
