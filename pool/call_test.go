package pool

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"claudepool/pool/api"
	"claudepool/pool/broker"
)

func TestRefusal_IsTheAPIsErrorInThisServicesWords(t *testing.T) {
	for body, want := range map[string]*api.Error{
		`{"error":{"type":"not_found_error","message":"no such model"}}`: {Type: "not_found_error", Message: "no such model"},
		`{"error":{"type":"x\"y","message":"m"}}`:                        {Type: "api_error", Message: "m"},
		`{"error":"odd"}`: {Type: "api_error", Message: "the API refuses the call"},
		`[]`:              {Type: "api_error", Message: "the API refuses the call"},
		`{"error":{"type":"a","message":"` + strings.Repeat("x", maxReason+1) + `"}}`: {Type: "a",
			Message: "the API refuses the call"},
	} {
		want.Status = http.StatusNotFound
		answer := broker.Answer{Status: http.StatusNotFound, Body: []byte(body), RetryAfter: "9"}
		require.Equal(t, want, refusal(answer), body)
	}
}

func TestRefusal_SaysWhenToComeAgain(t *testing.T) {
	for retry, want := range map[string]time.Duration{
		"7": 7 * time.Second, "": callRetry, "0": callRetry, "-1": callRetry, "99999999999": time.Hour,
		"Fri, 27 Nov 2026 00:00:00 GMT": callRetry,
	} {
		for _, status := range []int{429, 500, 503, 529} {
			answer := broker.Answer{Status: status, RetryAfter: retry, Body: []byte("{}")}
			require.Equal(t, want, refusal(answer).RetryAfter, retry)
		}
	}
	answer := broker.Answer{Status: http.StatusUnauthorized, Body: []byte("{}")}
	require.True(t, refusal(answer).Credential, "it is about the credential, not the hop")
}
