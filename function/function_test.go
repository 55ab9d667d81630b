package function

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/infra/hop"
	"claudepool/pool/api"
	"claudepool/router"
)

func TestFront_PassesStreamsAndBodiesWhole(t *testing.T) {
	big := `data: {"text":"` + strings.Repeat("x", 4<<20) + "\"}\n\n"
	var got string
	_, url, _ := newFront(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = string(body)
		events(big, api.Done)(w, r)
	})
	sent := strings.Replace(question, `"hi"`, `"`+strings.Repeat("y", 8<<20)+`"`, 1)
	status, header, body := post(t, url, sent)
	require.Equal(t, 200, status)
	require.Equal(t, "7", header.Get(api.HeaderPID))
	require.True(t, body == big+api.Done)
	require.True(t, got == sent)
}

func TestFront_AsksAgainWhereNothingWasRun(t *testing.T) {
	_, url, r := newFront(t, refuse(421, false), events("data: {}\n\n", api.Done))
	status, _, body := post(t, url, question)
	require.Equal(t, 200, status, body)
	require.Equal(t, 1, r.misdirected)

	tries := 0
	_, url, r = newFront(t, func(w http.ResponseWriter, q *http.Request) {
		if tries++; tries < 3 {
			refuse(503, true)(w, q)
			return
		}
		events(api.Done)(w, q)
	})
	status, _, _ = post(t, url, question)
	require.Equal(t, 200, status)
	require.Equal(t, 3, tries)
	require.Equal(t, 2, r.misdirected, "a draining instance may have given the user up meanwhile: only Redis knows")
}

func TestFront_AConnectionThatBrokeIsTriedOnceMoreUnderTheSameID(t *testing.T) {
	var ids []string
	_, url, _ := newFront(t, func(w http.ResponseWriter, r *http.Request) {
		claims, _ := hop.ParseKeys("0123456789abcdef0123456789abcdef")
		c, err := claims.Verify(r.Header.Get(api.HeaderHop), time.Now())
		if err != nil {
			t.Error(err)
		}
		ids = append(ids, c.RequestID)
		if len(ids) == 1 {
			panic(http.ErrAbortHandler)
		}
		refuse(409, false)(w, r)
	})
	status, _, body := post(t, url, question)
	require.Equal(t, 502, status, "it may have run: it isn't run again")
	require.NotContains(t, body, "127.0.0.1")
	require.Len(t, ids, 2)
	require.Equal(t, ids[0], ids[1])
}

// The instance may have accepted the request before it went: another one must not get it, unless the instance has said
// that all it had accepted was answered.
func TestFront_ATurnIsNotRunElsewhereWhenItsInstanceBreaksAndIsGone(t *testing.T) {
	for _, answered := range []bool{false, true} {
		elsewhere := 0
		_, url, r := newFront(t, nil, asked(&elsewhere))
		r.answered = answered
		var gone *httptest.Server
		r.owners[0], gone = newInstanceServer(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			_ = gone.Listener.Close()
			panic(http.ErrAbortHandler)
		}))
		status, _, body := post(t, url, question)
		if answered {
			require.Equal(t, 200, status, body)
			require.Equal(t, 1, elsewhere)
			continue
		}
		require.Equal(t, 502, status, body)
		require.Zero(t, elsewhere)
		require.Zero(t, r.unreachable)
	}
}

// What an instance says of the hop is not about the client's credential.
func TestFront_AHopThatIsRefusedIsNotTheClientsFault(t *testing.T) {
	f, url, _ := newFront(t, func(w http.ResponseWriter, _ *http.Request) {
		api.WriteError(w, "", api.Authentication("this address is for fronts only"))
	})
	var log bytes.Buffer
	f.opts.Logger = slog.New(slog.NewTextHandler(&log, nil))
	status, _, body := post(t, url, question)
	require.Equal(t, 502, status)
	require.Contains(t, body, `"type":"api_error"`)
	require.NotContains(t, body, "fronts only")
	require.Contains(t, log.String(), "refuses this front's hop")
}

func TestFront_ACredentialThatTheAPIRefusedIsTheClients(t *testing.T) {
	_, url, _ := newFront(t, func(w http.ResponseWriter,
		_ *http.Request) {
		api.WriteError(w, "", api.CredentialRefused())
	})
	status, _, body := post(t, url, question)
	require.Equal(t, 401, status)
	require.Contains(t, body, `"type":"authentication_error"`)
	require.Contains(t, body, "doesn't accept this credential")
}

func TestFront_AnInstanceThatCantBeDialledIsReported(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	_, url, r := newFront(t)
	r.owners = []router.Owner{{Instance: "i1", Addr: listener.Addr().String()}}
	require.NoError(t, listener.Close())
	status, header, _ := post(t, url, question)
	require.Equal(t, 503, status)
	require.NotEmpty(t, header.Get("Retry-After"))
	require.Equal(t, 1, r.unreachable)
}

func TestFront_AStreamThatBreaksEndsExplicitly(t *testing.T) {
	_, url, _ := newFront(t, func(w http.ResponseWriter, r *http.Request) {
		events("data: {\"half\":")(w, r)
		panic(http.ErrAbortHandler)
	})
	status, _, body := post(t, url, question)
	require.Equal(t, 200, status)
	require.True(t, strings.HasSuffix(body, api.Done), body)
	require.Contains(t, body, "\n\ndata: {\"type\":\"error\"")
	require.NotContains(t, body, "panic")
}

func TestFront_TakesAStreamUpAgainWhenTheHopBreaks(t *testing.T) {
	begin := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(api.HeaderTurn, "t1")
		events("id: t1.1\ndata: {\"n\":1}\n\n", "id: t1.2\nda")(w, r)
		panic(http.ErrAbortHandler)
	}
	instance := func(goOn http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.URL.Path == api.PathMessages:
				begin(w, r)
			case r.Header.Get(api.HeaderLastEvent) != "t1.1":
				api.WriteError(w, "", api.NotFound("no such event"))
			default:
				w.Header().Set(api.HeaderTurn, "t1")
				goOn(w, r)
			}
		}
	}
	_, url, _ := newFront(t, instance(events("id: t1.2\ndata: {\"n\":2}\n\n", api.Done)))
	status, header, body := post(t, url, question)
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, "t1", header.Get(api.HeaderTurn))
	require.Equal(t, "id: t1.1\ndata: {\"n\":1}\n\nid: t1.2\ndata: {\"n\":2}\n\n"+api.Done, body,
		"no event twice, none in halves")

	_, url, _ = newFront(t, instance(events(": ping\n")))
	_, _, body = post(t, url, question)
	require.Equal(t, "id: t1.1\ndata: {\"n\":1}\n\n: ping\n"+string(api.ErrorEvent(errBroken))+api.Done, body,
		"without progress it is given up")
}

// A hop that stands still breaks like any other, and to take its stream up again costs the credential, not the body.
func TestFront_TakesAStreamUpAgainWhenTheHopIsSilent(t *testing.T) {
	var again []byte
	f, url, r := newFront(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(api.HeaderTurn, "t1")
		if r.URL.Path == api.PathMessages {
			hanging("id: t1.1\ndata: {\"n\":1}\n\n")(w, r)
			return
		}
		again, _ = io.ReadAll(r.Body)
		events("id: t1.2\ndata: {\"n\":2}\n\n", api.Done)(w, r)
	})
	f.hopSilence = time.Second
	_, _, body := post(t, url, replaced)
	require.Equal(t, "id: t1.1\ndata: {\"n\":1}\n\nid: t1.2\ndata: {\"n\":2}\n\n"+api.Done, body)
	sent, err := api.Decode([]byte(replaced))
	require.NoError(t, err)
	req, err := api.DecodeCredential(again)
	require.NoError(t, err)
	require.Equal(t, sent.UserID(), req.UserID())
	require.Empty(t, req.Messages)
	require.Len(t, r.together, 1, "who the user was is asked for when the turn begins, and not again")
}

// letters is a text without end.
type letters struct{}

func (letters) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'y'
	}
	return len(p), nil
}

func TestFront_TheBodyIsNotKeptForAsLongAsTheStreamLasts(t *testing.T) {
	const large = 4 << 20
	_, url, _ := newFront(t, hanging("data: {}\n\n"))
	heap := func() int64 {
		var stats runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&stats)
		return int64(stats.HeapAlloc)
	}
	before := heap()
	begin, end, _ := strings.Cut(question, "hi")
	// which keeps nothing either
	text := io.MultiReader(strings.NewReader(begin), io.LimitReader(letters{}, large), strings.NewReader(end))
	response, err := http.Post(url+"/v1/messages/pooled", "application/json", text)
	require.NoError(t, err)
	defer response.Body.Close()
	require.Eventually(t, func() bool { return heap() < before+large/2 }, 30*time.Second, 100*time.Millisecond)
}

func TestFront_ResumeNeedsAnEventAndACredential(t *testing.T) {
	_, url, _ := newFront(t, refuse(http.StatusTeapot, false))
	for _, bad := range [][2]string{{"t1.1", `{}`}, {"", question}, {"t1.", question}, {"t1.x", question}} {
		r, err := http.NewRequest(http.MethodPost, url+api.PathResume, strings.NewReader(bad[1]))
		require.NoError(t, err)
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set(api.HeaderLastEvent, bad[0])
		response, err := http.DefaultClient.Do(r)
		require.NoError(t, err)
		text, _ := io.ReadAll(response.Body)
		_ = response.Body.Close()
		require.Contains(t, []int{400, 401}, response.StatusCode, bad)
		require.Contains(t, string(text), `"type":"error"`)
	}
}

func TestFront_WhatCantBePlacedIsSaidSo(t *testing.T) {
	for err, want := range map[error]int{router.ErrFull: 529, router.ErrUnavailable: 503} {
		_, url, r := newFront(t)
		r.err = err
		status, header, _ := post(t, url, question)
		require.Equal(t, want, status)
		require.NotEmpty(t, header.Get("Retry-After"))
	}
}

func TestFront_AClientThatHangsUpEndsTheHop(t *testing.T) {
	ended := make(chan struct{})
	_, url, _ := newFront(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // the server notices the end of a connection only then
		events("data: {}\n\n")(w, r)
		<-r.Context().Done()
		close(ended)
	})
	ctx, hangUp := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/v1/messages/pooled", strings.NewReader(question))
	require.NoError(t, err)
	r.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer response.Body.Close()
	hangUp()
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Fatal("the hop goes on")
	}
}

func TestFront_DrainLetsStreamsEndAndTakesNoMore(t *testing.T) {
	finish := make(chan struct{})
	f, url, _ := newFront(t, func(w http.ResponseWriter, r *http.Request) {
		events("data: {}\n\n")(w, r)
		<-finish
		events(api.Done)(w, r)
	})
	answered := make(chan string)
	go func() {
		defer close(answered)
		_, _, body := post(t, url, question)
		answered <- body
	}()
	eventuallyRunning(t, f, 1)
	drained := make(chan struct{})
	go func() { f.Drain(time.Minute); close(drained) }()
	require.Eventually(t, func() bool { f.mu.Lock(); defer f.mu.Unlock(); return f.draining }, 30*time.Second,
		time.Millisecond)
	status, _, _ := post(t, url, question)
	require.Equal(t, 503, status)
	close(finish)
	require.True(t, strings.HasSuffix(<-answered, api.Done))
	<-drained
}

func TestFront_AnswersOddRequestsInTheEnvelope(t *testing.T) {
	_, url, _ := newFront(t)
	for _, c := range []struct {
		method, path, kind string
		status             int
	}{
		{http.MethodGet, "/nowhere", "", 404}, {http.MethodGet, "/v1/messages/pooled", "", 405}, {http.MethodDelete,
			"/health", "", 405},
		{http.MethodPost, "/v1/messages/pooled", "text/plain", 400}, {http.MethodPost, "/v1/messages/pooled",
			"application/json", 400},
		{http.MethodGet, "/health", "", 200}, {http.MethodGet, "/", "", 200}, {http.MethodGet, "/v1/pool/stats", "", 200},
	} {
		r, err := http.NewRequest(c.method, url+c.path, nil)
		require.NoError(t, err)
		r.Header.Set("Content-Type", c.kind)
		response, err := http.DefaultClient.Do(r)
		require.NoError(t, err)
		body, _ := io.ReadAll(response.Body)
		response.Body.Close()
		require.Equal(t, c.status, response.StatusCode, "%s %s", c.method, c.path)
		if c.status >= 400 {
			require.Contains(t, string(body), `"type":"error"`)
		}
		if c.status == 405 {
			require.NotEmpty(t, response.Header.Get("Allow"))
		}
	}
}

// What package api refuses never gets to an instance, and the client is told in the envelope which field it is.
func TestFront_BadInputIsToldAndGoesNowhere(t *testing.T) {
	passed := 0
	f, url, _ := newFront(t, asked(&passed))
	tooLarge := strings.Repeat("y", 33<<20)
	with := func(field string) string { return strings.TrimSuffix(question, "}") + "," + field + "}" }
	for _, c := range []struct {
		status    int
		kind, say string
		body      io.Reader
	}{
		{413, "request_too_large", "", strings.NewReader(tooLarge)},
		{413, "request_too_large", "", strings.NewReader(with(`"system":"` + tooLarge + `"`))},
		{400, "invalid_request_error", "", strings.NewReader("")},
		{400, "invalid_request_error", "", strings.NewReader(question[:40])},
		{400, "invalid_request_error", "", strings.NewReader(question + question)},
		{400, "invalid_request_error", "", strings.NewReader(strings.Repeat(`{"a":`, 100_000))},
		{400, "invalid_request_error", "credential", strings.NewReader(strings.Replace(question, "sk-ant-oat01-secret",
			`sk-ant-oat01-secret\nX-Evil: 1`, 1))},
		{401, "authentication_error", "", strings.NewReader(`{"messages":[{"role":"user","content":"hi"}]}`)},
		{400, "invalid_request_error", "messages", strings.NewReader(strings.Replace(question, `"user"`, `"system"`, 1))},
		{400, "invalid_request_error", "messages", strings.NewReader(strings.Replace(question, `"hi"`, `null`, 1))},
		{400, "invalid_request_error", "model", strings.NewReader(with(`"model":"--dangerously-skip-permissions"`))},
		{400, "invalid_request_error", "session_id", strings.NewReader(with(`"session_id":"../../etc/passwd"`))},
		{400, "invalid_request_error", "permission_mode", strings.NewReader(with(`"permission_mode":"yolo"`))},
		{400, "invalid_request_error", "mcp_servers",
			strings.NewReader(with(`"mcp_servers":{"x":{"type":"http","url":"file:///etc/passwd"}}`))},
	} {
		response, err := http.Post(url+api.PathMessages, "application/json", c.body)
		require.NoError(t, err)
		text, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.Equal(t, c.status, response.StatusCode, string(text))
		require.Contains(t, string(text), `"type":"error"`)
		require.Contains(t, string(text), `"type":"`+c.kind+`"`)
		require.Contains(t, string(text), c.say)
		require.NotContains(t, string(text), "sk-ant")
	}
	eventuallyRunning(t, f, 0)
	require.Zero(t, passed)
}

func TestFront_AClientMayUseARequestIDAgain(t *testing.T) {
	seen := map[string]bool{}
	keys, err := hop.ParseKeys("0123456789abcdef0123456789abcdef")
	require.NoError(t, err)
	_, url, _ := newFront(t, func(w http.ResponseWriter, r *http.Request) {
		claims, _ := keys.Verify(r.Header.Get(api.HeaderHop), time.Now())
		if seen[claims.RequestID] {
			refuse(409, false)(w, r)
			return
		}
		seen[claims.RequestID] = true
		events(api.Done)(w, r)
	})
	for range 2 {
		r, err := http.NewRequest(http.MethodPost, url+"/v1/messages/pooled", strings.NewReader(question))
		require.NoError(t, err)
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set(api.HeaderRequestID, "always-the-same")
		response, err := http.DefaultClient.Do(r)
		require.NoError(t, err)
		response.Body.Close()
		require.Equal(t, 200, response.StatusCode)
		require.Equal(t, "always-the-same", response.Header.Get(api.HeaderRequestID))
	}
}
