package api

import (
	"errors"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The official SDKs try again by themselves unless they are told not to.
func TestWriteError_TellsSDKsWhetherToTryAgain(t *testing.T) {
	for name, c := range map[string]struct {
		err   error
		retry string
	}{
		"a queue is full":       {RateLimited(time.Second, "m"), "true"},
		"no room":               {Overloaded(time.Second, "m"), "true"},
		"nobody could be asked": {Unavailable(time.Second, "m"), "true"},
		"it may have run":       {&Error{Status: 503, RetryAfter: time.Second, Begun: true}, "false"},
		"its answer was lost":   {BadGateway("m"), "false"},
		"nobody foresaw it":     {errors.New("m"), "false"},
		"the request is wrong":  {Invalid("m"), "false"},
	} {
		w := httptest.NewRecorder()
		WriteError(w, "req_1", c.err)
		require.Equal(t, c.retry, w.Header().Get("x-should-retry"), name)
		require.Equal(t, "req_1", w.Header().Get("request-id"), name)
		require.Equal(t, "req_1", w.Header().Get("x-request-id"), name)
		if c.retry == "true" {
			require.Equal(t, "1", w.Header().Get("retry-after"), name)
		}
	}
}
