package function

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"claudepool/pool/api"
)

// asked counts its requests.
func asked(n *int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		*n++
		events(api.Done)(w, r)
	}
}

func TestFront_AnInstanceWithAnotherCertificateGetsNothing(t *testing.T) {
	impostor, real := 0, 0
	_, url, r := newFront(t, asked(&impostor), asked(&real))
	published, other := r.owners[0].Fingerprint, "0"
	if published[0] == '0' {
		other = "1"
	}
	for _, fingerprint := range []string{r.owners[1].Fingerprint, "", published[:63], other + published[1:]} {
		r.owners[0].Fingerprint = fingerprint
		owners := r.owners
		status, _, body := post(t, url, question)
		require.Equal(t, 200, status, body)
		r.owners = owners
	}
	require.Zero(t, impostor)
	require.Equal(t, 4, real)
	require.Equal(t, 4, r.unreachable)
}

// An address can be another instance's from one request to the next.
func TestFront_AConnectionIsNotUsedForAnotherInstanceAtTheSameAddress(t *testing.T) {
	former := 0
	_, url, r := newFront(t, asked(&former))
	for range 2 {
		status, _, body := post(t, url, question)
		require.Equal(t, 200, status, body)
	}
	successor := r.owners[0]
	successor.Fingerprint = newInstance(t, asked(&former)).Fingerprint
	r.owners = append(r.owners[:0], successor)
	status, _, _ := post(t, url, question)
	require.Equal(t, 503, status, "the former's connection, which is still open, must not serve the successor's requests")
	require.Equal(t, 2, former)
}

func TestFront_StreamsHaveAConnectionEachAndAreKeptForTheNext(t *testing.T) {
	seen, versions := map[string]int{}, map[int]int{}
	_, url, _ := newFront(t, func(w http.ResponseWriter, r *http.Request) {
		versions[r.ProtoMajor]++
		seen[r.RemoteAddr]++
		events(api.Done)(w, r)
	})
	for range 20 {
		status, _, _ := post(t, url, question)
		require.Equal(t, 200, status)
	}
	require.Equal(t, map[int]int{1: 20}, versions)
	require.Less(t, len(seen), 10, "few handshakes for twenty requests: now and then a connection is dropped")
}

func TestClient_WhoWasReachedHasAConnectionForTheNextRequest(t *testing.T) {
	var seen []string
	f, url, r := newFront(t, func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.URL.Path+" "+r.RemoteAddr)
		if r.URL.Path == api.PathMessages {
			events(api.Done)(w, r)
		}
	})
	require.NoError(t, f.opts.Client.Reach(t.Context(), r.owners[0]))
	status, _, _ := post(t, url, question)
	require.Equal(t, 200, status)
	require.Len(t, seen, 2)
	reached, found := strings.CutPrefix(seen[0], "/health ")
	require.True(t, found)
	require.Equal(t, api.PathMessages+" "+reached, seen[1])
}
