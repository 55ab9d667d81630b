package pool_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"claudepool/infra/hop"
	"claudepool/pool/api"
)

// knock sends ada's request under the token, as whoever reaches the instance's port may.
func (s *service) knock(token string) reply {
	s.t.Helper()
	return s.knockAt(api.PathMessages, token, "")
}

func (s *service) knockAt(path, token, lastEvent string) reply {
	s.t.Helper()
	r, err := http.NewRequest(http.MethodPost, s.url+path, strings.NewReader(adasBody(s.t)))
	require.NoError(s.t, err)
	r.Header.Set(api.HeaderHop, token)
	r.Header.Set(api.HeaderLastEvent, lastEvent)
	response, err := http.DefaultClient.Do(r)
	require.NoError(s.t, err)
	return read(response)
}

func adasBody(t testing.TB) string {
	t.Helper()
	raw, err := json.Marshal(fields{"oauth_credentials": fields{"access_token": token("ada")}, "model": "haiku", "messages": []fields{{"role": "user", "content": "one"}}})
	require.NoError(t, err)
	return string(raw)
}

// adasClaims are those of a request that is served.
func adasClaims(t *testing.T) hop.Claims {
	t.Helper()
	request, err := api.Decode(strings.NewReader(adasBody(t)), 1<<20)
	require.NoError(t, err)
	return hop.Claims{Instance: "i1", User: request.UserID(), RequestID: uuid.NewString()}
}

func TestServer_RefusesEveryHopThatIsNotForThisRequest(t *testing.T) {
	s := newScriptedService(t, nil)
	good := adasClaims(t)
	others, err := hop.ParseKeys(strings.Repeat("x", 32))
	require.NoError(t, err)
	now := time.Now()
	signed := s.keys.Sign(good, now)
	parts := strings.Split(signed, ".")
	with := func(change func(*hop.Claims)) string {
		claims := good
		change(&claims)
		return s.keys.Sign(claims, time.Now())
	}
	for name, test := range map[string]struct {
		token string
		want  int
	}{
		"none":                 {"", 401},
		"expired":              {s.keys.Sign(good, now.Add(-hop.Window-time.Second)), 401},
		"of the future":        {s.keys.Sign(good, now.Add(hop.Window+10*time.Second)), 401},
		"another key's":        {others.Sign(good, now), 401},
		"another payload's":    {strings.Join([]string{parts[0], strings.Split(with(func(c *hop.Claims) { c.RequestID = "x" }), ".")[1], parts[2]}, "."), 401},
		"without signature":    {parts[0] + "." + parts[1], 401},
		"with an empty one":    {parts[0] + "." + parts[1] + ".", 401},
		"with half of it":      {signed[:len(signed)-22], 401},
		"without its last":     {signed[:len(signed)-1], 401},
		"without its first":    {signed[1:], 401},
		"longer":               {signed + "A", 401},
		"another version":      {"v2" + signed[2:], 401},
		"as a bearer":          {"Bearer " + signed, 401},
		"another instance's":   {with(func(c *hop.Claims) { c.Instance = "i2" }), 421},
		"no instance's":        {with(func(c *hop.Claims) { c.Instance = "" }), 421},
		"another user's":       {with(func(c *hop.Claims) { c.User = strings.Repeat("0", 16) }), 401},
		"another path's":       {with(func(c *hop.Claims) { c.Path = api.PathForget }), 401},
		"no user's":            {with(func(c *hop.Claims) { c.User = "" }), 401},
		"a user's in capitals": {with(func(c *hop.Claims) { c.User = strings.ToUpper(c.User) + "A" }), 401},
	} {
		r := s.knock(test.token)
		require.Equal(t, test.want, r.status, "%s: %s", name, r.body)
		require.Contains(t, r.body, `"type":"error"`, name)
	}
	require.Empty(t, s.api.Calls())
	require.NotContains(t, s.logs.String(), parts[2], "a token does not reach the log")
	require.Equal(t, "reply to: one", s.knock(signed).text(t), "none of them has spoilt the good one")
}

func TestServer_AHopIsServedOnce(t *testing.T) {
	s := newScriptedService(t, nil)
	signed := s.keys.Sign(adasClaims(t), time.Now())
	require.Equal(t, "reply to: one", s.knock(signed).text(t))
	for range 3 {
		require.Equal(t, 409, s.knock(signed).status)
	}
	require.Len(t, s.api.Calls(), 1)
}

// Who has seen a hop can neither repeat what it asked for nor ask for something else.
func TestServer_AHopIsForOnePathAndServedOnceThere(t *testing.T) {
	s := newScriptedService(t, nil)
	turn := s.ask("ada", "zero", finish).header.Get(api.HeaderTurn)
	for _, path := range []string{api.PathResume, api.PathForget} {
		claims := adasClaims(t)
		require.Equal(t, 401, s.knockAt(path, s.keys.Sign(claims, time.Now()), turn+".0").status, "%s: a hop without a path", path)
		claims.Path = api.PathMessages
		require.Equal(t, 401, s.knockAt(path, s.keys.Sign(claims, time.Now()), turn+".0").status, path)
		claims.Path = path
		signed := s.keys.Sign(claims, time.Now())
		require.Equal(t, 200, s.knockAt(path, signed, turn+".0").status, path)
		require.Equal(t, 409, s.knockAt(path, signed, turn+".0").status, path)
	}
	require.Len(t, s.api.Calls(), 1)
}

// A replay comes while the first still waits for its conversation: it must not be queued behind it.
func TestServer_AHopThatWaitsIsNotQueuedAgain(t *testing.T) {
	s := newScriptedService(t, nil)
	claims := adasClaims(t)
	signed := s.keys.Sign(claims, time.Now())
	hangUp := s.occupy("ada", nil)
	const n = 8
	replies := make(chan reply, n)
	for range n {
		go func() { replies <- s.knock(signed) }()
	}
	for range n - 1 {
		r := <-replies
		require.Equal(t, 503, r.status)
		require.NotEmpty(t, r.header.Get(api.HeaderNotStarted), "the front may try again: nothing was run")
	}
	hangUp()
	require.Equal(t, "reply to: one", (<-replies).text(t))
	require.Equal(t, 409, s.knock(signed).status)
	require.Len(t, s.api.Calls(), 2, "the one that was in the way, and one more")
}

// What was not begun may be tried again under the same id: the front does so.
func TestServer_AHopThatWasNotBegunIsStillGood(t *testing.T) {
	s := newScriptedService(t, nil)
	s.pool.Close()
	signed := s.keys.Sign(adasClaims(t), time.Now())
	for range 2 {
		r := s.knock(signed)
		require.Equal(t, 503, r.status, r.body)
		require.NotEmpty(t, r.header.Get(api.HeaderNotStarted))
	}
}

func TestPool_WhatIsSaidIsNotLogged(t *testing.T) {
	s := newScriptedService(t, nil)
	require.Equal(t, "reply to: private words", s.ask("ada", "private words", fields{"system": "private rules"}).text(t))
	s.ask("ada", "private failure [[exit]]", nil)
	s.ask("ada", "private refusal", fields{"model": "--private"})
	require.NotEmpty(t, s.logs.String())
	require.NotContains(t, s.logs.String(), "private")
}
