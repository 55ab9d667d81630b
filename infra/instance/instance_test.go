package instance

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// metadataServer makes the handler the platform's metadata server for the length of a test.
func metadataServer(t *testing.T, handler http.HandlerFunc) {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	t.Setenv("GCE_METADATA_HOST", strings.TrimPrefix(server.URL, "http://"))
}

func answer(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		known := r.URL.Path == "/computeMetadata/v1/instance/network-interfaces/0/ip"
		if !known || r.Header.Get("Metadata-Flavor") != "Google" {
			http.Error(w, "not so", http.StatusForbidden)
			return
		}
		w.Header().Set("Metadata-Flavor", "Google")
		_, _ = w.Write([]byte(body))
	}
}

func TestAddr_ConfiguredOneAsksNobody(t *testing.T) {
	metadataServer(t, func(http.ResponseWriter, *http.Request) { t.Error("asked") })
	addr, err := Addr(t.Context(), "10.1.2.3:9000", 8080)
	require.NoError(t, err)
	require.Equal(t, "10.1.2.3:9000", addr)
}

func TestAddr_IsThePlatformsWithOurPort(t *testing.T) {
	for body, want := range map[string]string{"10.1.2.3": "10.1.2.3:8080", "10.1.2.3\n": "10.1.2.3:8080",
		"fd00::1": "[fd00::1]:8080"} {
		metadataServer(t, answer(body))
		addr, err := Addr(t.Context(), "", 8080)
		require.NoError(t, err)
		require.Equal(t, want, addr)
	}
}

func TestAddr_RefusesWhatIsNoAddress(t *testing.T) {
	for _, body := range []string{"", "localhost", "10.1.2", "0.0.0.0", "::", "<html>" + strings.Repeat("x", 1000)} {
		metadataServer(t, answer(body))
		_, err := Addr(t.Context(), "", 8080)
		require.ErrorContains(t, err, "ADVERTISE_ADDR is not set", "%q", body)
		require.Less(t, len(err.Error()), 200)
	}
}

func TestAddr_MissingEntryIsAnError(t *testing.T) {
	metadataServer(t, http.NotFound)
	_, err := Addr(t.Context(), "", 8080)
	require.ErrorContains(t, err, "ADVERTISE_ADDR is not set")
}

func TestAddr_DoesNotHangWhereNothingAnswers(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	t.Setenv("GCE_METADATA_HOST", listener.Addr().String())
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	begun := time.Now()
	_, err = Addr(ctx, "", 8080)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Less(t, time.Since(begun), metadataTimeout)
}
