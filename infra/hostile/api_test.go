package hostile

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"claudepool/pool/pooltest"
)

// honest is how the tokens begin that the API accepts.
const honest = "sk-ant-oat01-honest-"

// api is the Messages API, which refuses whom it doesn't know.
type api struct {
	url     string
	refused atomic.Int64
}

func newAPI(t *testing.T) *api {
	answers, err := pooltest.NewAPI(nil)
	require.NoError(t, err)
	t.Cleanup(answers.Close)
	a := &api{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.Header.Get("Authorization"), "Bearer "+honest) {
			a.refused.Add(1)
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = w.Write([]byte(`{"type":"error","error":{"type":"authentication_error","message":"invalid bearer token"}}`))
			return
		}
		answers.ServeHTTP(w, r)
		answers.Forget()
	}))
	t.Cleanup(server.Close)
	a.url = server.URL
	return a
}
