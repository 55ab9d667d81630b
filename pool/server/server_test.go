package server_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/infra/hop"
	"claudepool/pool/api"
	"claudepool/pool/server"
)

func TestServer_AnErrorTellsTheFrontWhatToDoAndTheClientNoInternals(t *testing.T) {
	for name, test := range map[string]struct {
		err               error
		status            int
		says, started, in string
	}{
		"moved":         {errMoved, 503, "being moved", "1", ""},
		"draining":      {fmt.Errorf("%w: %w", errDraining, errSecret), 503, "being moved", "1", ""},
		"not the owner": {fmt.Errorf("%w: %w", errNotOwner, errSecret), 421, "not the owner", "", ""},
		"known":         {api.Overloaded(3*time.Second, "no room"), 529, "no room", "", ""},
		"known inside":  {fmt.Errorf("%w: %w", errSecret, api.RateLimited(0, "slow down")), 429, "slow down", "", ""},
		"unknown":       {errSecret, 503, "could not be made ready", "", "secret"},
	} {
		for _, disconnect := range []string{"", finish} {
			for where, fail := range map[string]func(*house){
				"acquiring": func(h *house) { h.meanwhile(func(context.Context) error { return test.err }) },
				"running":   func(h *house) { h.next(fails(test.err)) },
			} {
				t.Run(name+" "+where+disconnect, func(t *testing.T) {
					inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
						fail(h)
						r := h.send(ask{more: disconnect}).whole()
						require.Contains(t, r.refused(t, test.status), test.says)
						require.Equal(t, test.started, r.header.Get(api.HeaderNotStarted))
						require.Equal(t, "req_1", r.header.Get(api.HeaderRequestID))
						require.NotContains(t, r.body, "secret")
						require.Contains(t, h.logs.String(), test.in)
					})
				})
			}
		}
	}
}

func TestServer_AnErrorInAStreamIsAnEventBeforeTheEndMark(t *testing.T) {
	for _, more := range []string{"", finish} {
		for message, err := range map[string]error{"too bad": api.BadGateway("too bad"), "being moved": errMoved,
			"could not be made ready": errSecret} {
			inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
				turn := h.next(func(ctx context.Context, t *turn) error {
					return errors.Join(says("one")(ctx, t), err)
				})
				r := h.send(ask{more: more}).whole()
				require.Contains(t, r.failed(t, "one"), message)
				require.Equal(t, 1000.0, r.receipt.Get("total_ms").Num, "also when the turn fails")
				require.NotContains(t, r.body, "secret")
				h.server.Close()
				require.True(t, turn.isReleased())
			})
		}
	}
}

func TestServer_BodiesAreBoundedAndChecked(t *testing.T) {
	large := fmt.Sprintf(`,"model":%q`, strings.Repeat("m", 1000))
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		for _, path := range []string{api.PathMessages, api.PathResume, api.PathDelete} {
			h.send(ask{path: path, more: large}).whole().refused(t, 413)
			h.send(ask{path: path, body: "no json"}).whole().refused(t, 400)
			h.send(ask{path: path, body: "{}"}).whole().refused(t, 401)
		}
		h.send(ask{more: `,"session_id":"none"`}).whole().refused(t, 400)
		require.Zero(t, h.asked())
	})
}

func TestServer_TheBackendGetsTheRequestAndWhetherTheFrontVouches(t *testing.T) {
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		h.deletes = func(context.Context, *api.Request) (int, error) { return 0, nil }
		for _, path := range []string{api.PathMessages, api.PathDelete} {
			h.send(ask{path: path, more: `,"model":"haiku"`}).whole()
			h.send(ask{path: path, claims: func(c *hop.Claims) { c.Outage = true }}).whole()
		}
		require.Equal(t, []bool{false, true, false, true}, h.outages)
		require.Equal(t, token("ada"), h.acquired[0].Token())
		require.Equal(t, "haiku", h.acquired[0].Model)
	})
}

func TestServer_ADeletionIsAnsweredAndMayBeRepeated(t *testing.T) {
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		left := 3
		h.deletes = func(context.Context, *api.Request) (int, error) {
			deleted := left
			left = 0
			return deleted, nil
		}
		for _, want := range []string{`{"deleted":3}`, `{"deleted":0}`} {
			r := h.send(ask{path: api.PathDelete}).whole()
			require.Equal(t, 200, r.status)
			require.Equal(t, want+"\n", r.body)
			require.Equal(t, "application/json", r.header.Get("Content-Type"))
			require.Equal(t, "req_1", r.header.Get(api.HeaderRequestID))
		}
	})
}

func TestServer_ADeletionThatFailsIsAnError(t *testing.T) {
	none := error(api.NotFound("none"))
	for err, status := range map[error]int{errMoved: 503, errNotOwner: 421, errSecret: 503, none: 404} {
		inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
			h.deletes = func(context.Context, *api.Request) (int, error) { return 0, err }
			r := h.send(ask{path: api.PathDelete}).whole()
			require.NotContains(t, r.refused(t, status), "secret")
			require.Equal(t, errors.Is(err, errMoved), r.header.Get(api.HeaderNotStarted) != "")
		})
	}
}

func TestServer_WhoHangsUpEndsTheRun(t *testing.T) {
	inBubble(t, server.Tuning{}, func(t *testing.T, h *house) {
		turn := h.next(hangs)
		c := h.send(ask{})
		time.Sleep(time.Minute)
		require.False(t, turn.isReleased())
		c.hangUp()
		<-c.ended
		require.True(t, turn.isReleased())
		require.Contains(t, h.logs.String(), "client gone")
		require.NotContains(t, h.logs.String(), "ERROR", "it is nobody's fault")
	})
}
