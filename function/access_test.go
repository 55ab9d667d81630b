package function

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/infra/snapshot"
	"claudepool/pool/api"
)

// do makes a request with the headers, given as names and values, and returns the answer and its body.
func do(t *testing.T, method, url, body string, headers ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequest(method, url, strings.NewReader(body))
	require.NoError(t, err)
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	response, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response, string(text)
}

func apiKeysOf(t *testing.T, keys ...string) APIKeys {
	t.Helper()
	var list []string
	for _, key := range keys {
		digest := sha256.Sum256([]byte(key))
		list = append(list, strings.ToUpper(hex.EncodeToString(digest[:])))
	}
	parsed, err := ParseAPIKeys(strings.Join(list, " , "))
	require.NoError(t, err)
	return parsed
}

func TestFront_ClientsNeedOneOfTheAPIKeys(t *testing.T) {
	served := 0
	f, url, _ := newFront(t, asked(&served))
	f.opts.APIKeys = apiKeysOf(t, "key-of-one", "key-of-two")
	digest := sha256.Sum256([]byte("key-of-one"))
	for _, c := range []struct {
		name, header, value string
		status              int
	}{
		{"none", "X-Other", "key-of-one", 401}, {"wrong", "x-api-key", "key-of-three", 401}, {"empty", "x-api-key", "", 401},
		{"the digest", "x-api-key", hex.EncodeToString(digest[:]), 401}, {"longer", "x-api-key", "key-of-one2", 401},
		{"no scheme", "Authorization", "key-of-one", 401}, {"another scheme", "Authorization", "Basic key-of-one", 401},
		{"wrong bearer", "Authorization", "Bearer key-of-three", 401}, {"nothing", "Authorization", "Bearer ", 401},
		{"x-api-key", "x-api-key", "key-of-one", 200}, {"bearer", "Authorization", "Bearer key-of-two", 200},
		{"bearer in small letters", "authorization", "bearer key-of-one", 200},
	} {
		response, body := do(t, http.MethodPost, url+"/v1/messages/pooled", question, c.header, c.value)
		require.Equal(t, c.status, response.StatusCode, c.name)
		if c.status == 401 {
			require.Contains(t, body, `"type":"authentication_error"`, c.name)
			require.Equal(t, "Bearer", response.Header.Get("WWW-Authenticate"))
		}
		stats, _ := do(t, http.MethodGet, url+"/v1/pool/stats", "", c.header, c.value)
		require.Equal(t, c.status, stats.StatusCode, "stats: %s", c.name)
	}
	require.Equal(t, 3, served)
	health, _ := do(t, http.MethodGet, url+"/health", "")
	require.Equal(t, 200, health.StatusCode)
}

func TestParseAPIKeys_RefusesWhatIsNoDigest(t *testing.T) {
	for _, list := range []string{"x", strings.Repeat("a", 63), strings.Repeat("a", 66), strings.Repeat("z", 64)} {
		_, err := ParseAPIKeys(list)
		require.Error(t, err)
		require.NotContains(t, err.Error(), list)
	}
	keys, err := ParseAPIKeys("")
	require.NoError(t, err)
	require.Empty(t, keys)
}

func TestClientAddr_IsWhatTheOutermostProxyOfOursSaw(t *testing.T) {
	for _, c := range []struct {
		remote, forwarded string
		proxies           int
		want              string
	}{
		{"192.0.2.1:5", "203.0.113.9", 0, "192.0.2.1"},
		{"169.254.1.1:5", "203.0.113.9", 1, "203.0.113.9"},
		{"169.254.1.1:5", "1.1.1.1, 2.2.2.2,203.0.113.9", 1, "203.0.113.9"},
		{"169.254.1.1:5", "1.1.1.1, 203.0.113.9, 34.1.1.1", 2, "203.0.113.9"},
		{"169.254.1.1:5", "203.0.113.9", 2, "203.0.113.9"},
		{"169.254.1.1:5", "", 1, "unknown"},
		{"169.254.1.1:5", "not an address", 1, "unknown"},
		{"[2001:db8:1:2:3:4:5:6]:5", "", 0, "2001:db8:1:2::/64"},
		{"[2001:db8:1:2::9%eth0]:5", "", 0, "2001:db8:1:2::/64"},
		{"169.254.1.1:5", "::ffff:203.0.113.9", 1, "203.0.113.9"},
	} {
		r := &http.Request{RemoteAddr: c.remote, Header: http.Header{}}
		if c.forwarded != "" {
			r.Header.Add("X-Forwarded-For", c.forwarded)
		}
		addr, site := clientAddr(r, c.proxies)
		require.Equal(t, c.want, addr, "%+v", c)
		require.Equal(t, strings.HasPrefix(c.remote, "["), site == "2001:db8:1::/48", "%+v", c)
	}
	r := &http.Request{Header: http.Header{"X-Forwarded-For": {"1.1.1.1", "203.0.113.9"}}}
	addr, _ := clientAddr(r, 1)
	require.Equal(t, "203.0.113.9", addr, "also when the client sends a header of its own before")
}

func TestFront_LetsNoOtherSitesPagesIn(t *testing.T) {
	f, url, _ := newFront(t, events(api.Done))
	origin := []string{"Origin", "https://evil.example", "Access-Control-Request-Method", "POST",
		"Access-Control-Request-Headers", "x-api-key"}
	for range 2 {
		for _, path := range []string{"/", "/health", "/v1/pool/stats", "/v1/messages/pooled", "/nowhere"} {
			for _, method := range []string{http.MethodOptions, http.MethodGet, http.MethodPost} {
				response, _ := do(t, method, url+path, question, origin...)
				for name := range response.Header {
					require.NotContains(t, name, "Access-Control", "%s %s", method, path)
				}
				if method == http.MethodOptions {
					require.GreaterOrEqual(t, response.StatusCode, 400, "a preflight is not granted")
				}
			}
		}
		f.opts.APIKeys = apiKeysOf(t, "key")
	}
}

// slowly sends the request's head, then a byte of the body from time to time.
func slowly(t *testing.T, addr string) (answer string) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "POST /v1/messages/pooled HTTP/1.1\r\nHost: x\r\nContent-Type: "+
		"application/json\r\nContent-Length: 1000000\r\n\r\n")
	require.NoError(t, err)
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		for tick := time.NewTicker(20 * time.Millisecond); ; {
			select {
			case <-stop:
				return
			case <-tick.C:
				_, _ = conn.Write([]byte(" "))
			}
		}
	}()
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
	head := make([]byte, 64)
	n, err := conn.Read(head)
	require.NoError(t, err, "still held open")
	return string(head[:n])
}

// A body that the end of the front cuts off was not wrong.
func TestFront_DrainAnswersWhoseBodyIsStillToComeThatItEnds(t *testing.T) {
	f, url, _ := newFront(t)
	answer := make(chan string, 1)
	go func() { answer <- slowly(t, strings.TrimPrefix(url, "http://")) }()
	eventuallyRunning(t, f, 1)
	f.Drain(0)
	require.Contains(t, <-answer, "HTTP/1.1 503")
}

// unread asks for stats that don't fit into the connection, and reads nothing of them.
// The channel is closed when the front is done with the request.
func unread(t *testing.T, f *Front) <-chan struct{} {
	t.Helper()
	store, large := snapshot.NewMemory(), snapshot.Instance{ID: strings.Repeat("i", 64<<10),
		ExpiresAt: time.Now().Add(time.Hour)}
	for i := range 160 {
		large.Users = append(large.Users, snapshot.User{ID: fmt.Sprintf("%016x", i)})
	}
	require.NoError(t, store.Put(t.Context(), large))
	f.opts.View = snapshot.NewView(store, f.opts.Logger)
	done := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(done)
		f.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	_, err = io.WriteString(conn, "GET /v1/pool/stats HTTP/1.1\r\nHost: x\r\n\r\n")
	require.NoError(t, err)
	return done
}

func requireSoon(t *testing.T, done <-chan struct{}, otherwise string) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatal(otherwise)
	}
}

func TestFront_WhoReadsNothingOfTheStatsIsHungUpOn(t *testing.T) {
	f, _, _ := newFront(t)
	f.clientTimeout = 500 * time.Millisecond
	requireSoon(t, unread(t, f), "the request goes on")
}

func TestFront_DrainDoesNotWaitForWhoReadsNothing(t *testing.T) {
	f, _, _ := newFront(t)
	done := unread(t, f)
	eventuallyRunning(t, f, 1)
	f.Drain(0)
	requireSoon(t, done, "the request goes on")
}

func TestFront_ABodyThatComesSlowlyIsRefused(t *testing.T) {
	f, _, _ := newFront(t)
	f.clientTimeout = 300 * time.Millisecond
	server := httptest.NewServer(f)
	defer server.Close()
	require.Contains(t, slowly(t, server.Listener.Addr().String()), "HTTP/1.1 408")
}

// While a large body is on its way, another large one is turned away at once, and a small one is served.
func TestFront_OfLargeBodiesOnlyAsManyAreTakenAsMemoryHolds(t *testing.T) {
	come, pass := make(chan struct{}), make(chan struct{})
	f, url, _ := newFront(t, func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength > 1<<20 {
			close(come)
			<-pass
		}
		events(api.Done)(w, r)
	})
	const most = 4 << 20
	f.intake = api.NewIntake(most, 0)
	large := strings.Replace(question, "hi", strings.Repeat("x", most-1000), 1)
	first := make(chan int)
	go func() {
		status, _, _ := post(t, url, large)
		first <- status
	}()
	<-come
	status, header, body := post(t, url, large)
	require.Equal(t, http.StatusTooManyRequests, status, body)
	require.NotEmpty(t, header.Get("Retry-After"))
	status, _, _ = post(t, url, question)
	require.Equal(t, http.StatusOK, status)
	close(pass)
	require.Equal(t, http.StatusOK, <-first)
}

// A client that reads nothing of its stream must not keep an instance's turn and its own place for ever.
func TestFront_AClientThatStopsReadingIsHungUpOn(t *testing.T) {
	ended := make(chan struct{})
	f, _, _ := newFront(t, func(w http.ResponseWriter, r *http.Request) {
		defer close(ended)
		_, _ = io.Copy(io.Discard, r.Body)
		flood := []byte(`data: {"text":"` + strings.Repeat("x", 1<<20) + "\"}\n\n")
		for r.Context().Err() == nil {
			_, _ = w.Write(flood)
		}
	})
	f.clientTimeout = 500 * time.Millisecond
	server := httptest.NewServer(f)
	defer server.Close()
	response, err := http.Post(server.URL+"/v1/messages/pooled", "application/json", strings.NewReader(question))
	require.NoError(t, err)
	defer response.Body.Close()
	requireSoon(t, ended, "the stream goes on")
}
