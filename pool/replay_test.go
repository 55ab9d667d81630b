package pool_test

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"claudepool/infra/hop"
	"claudepool/pool/api"
)

var finish = fields{"on_disconnect": "finish"}

// takeUp asks for what follows an event.
func (s *service) takeUp(ctx context.Context, user, lastEvent string) *http.Response {
	s.t.Helper()
	body := fmt.Sprintf(`{"oauth_credentials":{"access_token":%q}}`, token(user))
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url+api.PathResume, strings.NewReader(body))
	require.NoError(s.t, err)
	r.Header.Set(api.HeaderLastEvent, lastEvent)
	r.Header.Set(api.HeaderHop, s.keys.Sign(hop.Claims{Instance: "i1", User: userID(user), RequestID: uuid.NewString(),
		Path: api.PathResume}, time.Now()))
	response, err := http.DefaultClient.Do(r)
	require.NoError(s.t, err)
	return response
}

// some reads at most n events, then hangs up. It returns them, and the id of the last; ended says that there are no
// more.
func some(response *http.Response, n int) (events []string, last string, ended bool) {
	defer response.Body.Close()
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, 1<<20)
	for len(events) < n && lines.Scan() {
		if id, ok := strings.CutPrefix(lines.Text(), "id: "); ok {
			last = id
		}
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if data == "[DONE]" {
			return events, last, true
		}
		if ok {
			events = append(events, data)
		}
	}
	return events, last, false
}

func TestReplay_AStreamThatIsCutTenTimesArrivesWholeAndItsTurnRanOnce(t *testing.T) {
	s := newService(t, nil)
	s.ask("ada", "warm", nil).text(t)
	before := len(s.api.Calls())
	response, err := s.start(t.Context(), "ada", "long [[words=40]][[delay=20ms]]", finish)
	require.NoError(t, err)
	require.NotEmpty(t, response.Header.Get(api.HeaderTurn))
	events, last, ended := some(response, 3)
	for range 10 {
		require.False(t, ended)
		var more []string
		more, last, ended = some(s.takeUp(t.Context(), "ada", last), 3)
		events = append(events, more...)
	}
	rest := read(s.takeUp(t.Context(), "ada", last))
	require.True(t, rest.done)
	require.Len(t, rest.of("result"), 1, rest.body)
	require.Contains(t, rest.body, ": receipt ")
	require.Len(t, s.api.Calls(), before+1, "the turn ran once")

	whole := read(s.takeUp(t.Context(), "ada", strings.Split(last, ".")[0]+".0"))
	require.Len(t, whole.events, len(events)+len(rest.events))
	for i, event := range append(events, texts(rest.events)...) {
		require.Equal(t, whole.events[i].Raw, event, "byte for byte and in order")
	}
	require.Equal(t, "reply to: two", s.ask("ada", "two", nil).text(t))
	require.Len(t, s.lastCall().Messages(), 5, "the conversation holds the turn")
}

func texts(events []gjson.Result) (all []string) {
	for _, e := range events {
		all = append(all, e.Raw)
	}
	return all
}

func TestReplay_WithoutOnDisconnectAHangUpInterrupts(t *testing.T) {
	s := newScriptedService(t, nil)
	response, err := s.start(t.Context(), "ada", "one", fields{"on_disconnect": "interrupt"})
	require.NoError(t, err)
	require.Empty(t, response.Header.Get(api.HeaderTurn))
	require.NotContains(t, read(response).body, "id: ")
	s.occupy("bob", nil)()
	require.Equal(t, "reply to: next", s.ask("bob", "next", nil).text(t))
	require.Equal(t, []string{"user: next"}, s.lastCall().Messages())
}
