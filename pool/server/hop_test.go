package server_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/infra/hop"
	"claudepool/pool/api"
	"claudepool/pool/server"
)

func TestServer_RefusesEveryHopThatIsNotForThisRequest(t *testing.T) {
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		others, err := hop.ParseKeys(strings.Repeat("x", 32))
		require.NoError(t, err)
		good := hop.Claims{Instance: "i1", User: userID("ada"), RequestID: "r", Path: api.PathMessages}
		now := time.Now()
		signed := h.keys.Sign(good, now)
		parts := strings.Split(signed, ".")
		with := func(change func(*hop.Claims)) string { return h.sign(ask{claims: change}) }
		for name, test := range map[string]struct {
			token  string
			status int
		}{
			"expired":              {h.keys.Sign(good, now.Add(-hop.Window-time.Second)), 401},
			"of the future":        {h.keys.Sign(good, now.Add(hop.Window+time.Second)), 401},
			"another key's":        {others.Sign(good, now), 401},
			"another payload's":    {parts[0] + "." + strings.Split(with(nil), ".")[1] + "." + parts[2], 401},
			"without signature":    {parts[0] + "." + parts[1], 401},
			"with an empty one":    {parts[0] + "." + parts[1] + ".", 401},
			"with half of it":      {signed[:len(signed)-22], 401},
			"without its last":     {signed[:len(signed)-1], 401},
			"without its first":    {signed[1:], 401},
			"longer":               {signed + "A", 401},
			"relabelled":           {"v9" + signed[2:], 401},
			"as a bearer":          {"Bearer " + signed, 401},
			"none":                 {" ", 401},
			"another release's":    {with(func(c *hop.Claims) { c.Version = hop.Version() + 2 }), 503},
			"another instance's":   {with(func(c *hop.Claims) { c.Instance = "i2" }), 421},
			"no instance's":        {with(func(c *hop.Claims) { c.Instance = "" }), 421},
			"another path's":       {with(func(c *hop.Claims) { c.Path = api.PathDelete }), 401},
			"another user's":       {with(func(c *hop.Claims) { c.User = userID("bob") }), 401},
			"no user's":            {with(func(c *hop.Claims) { c.User = "" }), 401},
			"a user's in capitals": {with(func(c *hop.Claims) { c.User = strings.ToUpper(c.User) + "A" }), 401},
		} {
			r := h.send(ask{hop: test.token}).whole()
			r.refused(t, test.status)
			require.Equal(t, test.status == 503, r.header.Get("Retry-After") == "10", name)
			require.Empty(t, r.header.Get(api.HeaderNotStarted), name)
		}
		require.Zero(t, h.asked())
		require.NotContains(t, h.logs.String(), parts[2], "a token does not reach the log")
		h.send(ask{hop: signed}).whole().answered(t, "hello") // none of them has spoilt the good one
	})
}

// Who has seen a hop can neither repeat what it asked for nor ask for something else.
func TestServer_AHopIsForOnePathAndOneUserAndServedOnceThere(t *testing.T) {
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		h.deletes = func(context.Context, *api.Request) (int, error) { return 0, nil }
		turn := h.send(ask{more: finish}).whole().header.Get(api.HeaderTurn)
		require.NotEmpty(t, turn)
		for _, path := range []string{api.PathResume, api.PathDelete} {
			send := func(change func(*hop.Claims)) reply {
				return h.send(ask{path: path, lastEvent: turn + ".0", claims: change}).whole()
			}
			send(func(c *hop.Claims) { c.Path = "" }).refused(t, 401)
			send(func(c *hop.Claims) { c.Path = api.PathMessages }).refused(t, 401)
			send(func(c *hop.Claims) { c.User = userID("bob") }).refused(t, 401)
			again := func(c *hop.Claims) { c.RequestID = path }
			require.Equal(t, 200, send(again).status, path)
			send(again).refused(t, 409)
		}
		require.Equal(t, 2, h.asked(), "one turn and one deletion")
	})
}

func TestServer_AnEarlierFrontsHopSaysNoPath(t *testing.T) {
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		h.send(ask{claims: func(c *hop.Claims) { c.Path = "" }}).whole().answered(t, "hello")
	})
}

func TestOnce_AHopIsServedOnceHoweverItWent(t *testing.T) {
	for name, test := range map[string]struct {
		script script
		status int
	}{"well": {says("hello"), 200}, "badly": {fails(errSecret), 503}, "not now": {fails(errDraining), 503}} {
		inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
			signed := h.sign(ask{})
			h.next(test.script)
			require.Equal(t, test.status, h.send(ask{hop: signed}).whole().status, name)
			for range 3 {
				h.send(ask{hop: signed}).whole().refused(t, 409)
			}
			require.Equal(t, 1, h.asked(), name)
		})
	}
}

func TestOnce_AHopIsNotServedAgainWhileItsTurnRuns(t *testing.T) {
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		signed := h.sign(ask{})
		h.next(says("one", "two"))
		first := h.send(ask{hop: signed})
		synctest.Wait()
		r := h.send(ask{hop: signed}).whole()
		r.refused(t, 409)
		require.Empty(t, r.header.Get(api.HeaderNotStarted))
		first.whole().answered(t, "one", "two")
	})
}

// It comes again while the first still waits for its conversation: it must not be queued behind it.
func TestOnce_AHopThatWaitsIsNotQueuedAgain(t *testing.T) {
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		h.meanwhile(func(context.Context) error { time.Sleep(time.Second); return nil })
		signed := h.sign(ask{})
		const n = 8
		clients := make([]*client, n)
		for i := range clients {
			clients[i] = h.send(ask{hop: signed})
		}
		synctest.Wait()
		served := 0
		for _, c := range clients {
			if !c.isOver() {
				served++
				c.whole().answered(t, "hello")
				continue
			}
			require.Contains(t, c.soFar().refused(t, 503), "waiting already")
			require.Equal(t, "1", c.soFar().header.Get(api.HeaderNotStarted), "the front may try again: nothing was run")
		}
		require.Equal(t, 1, served)
		require.Equal(t, 1, h.asked())
		h.send(ask{hop: signed}).whole().refused(t, 409)
	})
}

// What was not begun may be tried again under the same id: fronts do so.
func TestOnce_AHopThatWasNotBegunIsStillGood(t *testing.T) {
	for name, before := range map[string]func(*house, string){
		"its user was being moved": func(h *house, signed string) {
			h.meanwhile(func(context.Context) error { return errMoved })
			h.send(ask{hop: signed}).whole().refused(h.t, 503)
		},
		"its connection broke while it waited": func(h *house, signed string) {
			h.meanwhile(func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) })
			c := h.send(ask{hop: signed})
			synctest.Wait()
			c.hangUp()
			<-c.ended
		},
		"its body was cut": func(h *house, signed string) {
			h.send(ask{hop: signed, body: `{"oauth`}).whole().refused(h.t, 400)
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
				signed := h.sign(ask{})
				for range 2 {
					before(h, signed)
				}
				h.meanwhile(nil)
				h.send(ask{hop: signed}).whole().answered(t, "hello")
			})
		})
	}
}

func TestServer_HealthIsForEverybodyAndNothingElseIsThere(t *testing.T) {
	h := newHouse(t, server.Tuning{})
	for request, status := range map[string]int{
		"GET /health": 200, "POST /health": 404, "GET /": 404, "GET " + api.PathMessages: 404, "PUT " + api.PathDelete: 404,
		"POST " + api.PathMessages: 401, "POST " + api.PathResume: 401, "POST " + api.PathDelete: 401,
		"POST " + api.PathAnswer: 401,
	} {
		var method, path string
		_, err := fmt.Sscan(request, &method, &path)
		require.NoError(t, err)
		w := httptest.NewRecorder()
		h.server.ServeHTTP(w, httptest.NewRequest(method, path, http.NoBody))
		require.Equal(t, status, w.Code, request)
		require.Equal(t, status == 200, w.Body.Len() == 0, request)
	}
}
