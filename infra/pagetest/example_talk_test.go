package pagetest_test

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/pool/api"
)

// exampleTurn is what comes of a turn that has done something and now asks.
//
//go:embed testdata/turn.jsonl
var exampleTurn []byte

// newExample serves the page at a front whose user's conversations are made up.
func newExample(t *testing.T) string {
	t.Helper()
	_, address := newFront(t)
	front, err := url.Parse(address)
	require.NoError(t, err)
	mux := http.NewServeMux()
	mux.Handle("/", httputil.NewSingleHostReverseProxy(front))
	mux.HandleFunc("GET "+api.PathConversations, func(w http.ResponseWriter, _ *http.Request) {
		var all api.Conversations
		for i, title := range []string{"Why does the build fail on Sundays?", "A letter to the landlord",
			"Draw the wiring of the old lamp", "Plan three days in Lisbon", "Compare the two quotes for the roof"} {
			all.Conversations = append(all.Conversations, api.Conversation{ID: fmt.Sprint(i), Title: title,
				LastUsed: time.Now().Add(-time.Duration(i*i*50) * time.Minute), Pending: []json.RawMessage{}})
		}
		_ = json.NewEncoder(w).Encode(all)
	})
	mux.HandleFunc("POST "+api.PathMessages, func(w http.ResponseWriter, r *http.Request) {
		for line := range bytes.Lines(exampleTurn) {
			fmt.Fprintf(w, "data: %s\n", line)
		}
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL
}

// asks has the page of the example come to where it asks.
func asks(t *testing.T, b *tab) {
	t.Helper()
	b.giveToken(talker)
	b.shows("#send", "Send")
	b.says("Why does the build fail on Sundays? Please mend it.")
	b.shows(".ask", "Always allow")
}
