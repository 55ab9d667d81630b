#!/usr/bin/env bash
# Anthropic's SDK for Go makes a request again whose answer was a 200, if the body of that answer breaks off: the status doesn't
# count then, and the messages of a POST are sent, and paid for, up to three times. Only the header `x-should-retry: false` on
# the 200 itself keeps it from that. Anthropic's SDK for TypeScript doesn't do it.
#
# Seen with github.com/anthropics/anthropic-sdk-go/v2 v2.15.0 (shouldRetryDroppedBody in internal/requestconfig), linux/amd64.
# The server answers each POST /v1/messages with 200 and half a message, and closes the connection.
#
# What follows: whoever serves the Messages API and has run something for a request says `x-should-retry: false` on the good
# answer too.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export GOTOOLCHAIN=go1.26.11 GOFLAGS="-mod=mod -trimpath" CGO_ENABLED=0
cat >go.mod <<'GO'
module finding
go 1.26
require github.com/anthropics/anthropic-sdk-go/v2 v2.15.0
GO
cat >main.go <<'GO'
package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/anthropics/anthropic-sdk-go/v2"
	"github.com/anthropics/anthropic-sdk-go/v2/option"
)

// ask asks once, and returns how many requests that made.
func ask(header string) (requests int) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests++
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", "1000")
		if header != "" {
			w.Header().Set("X-Should-Retry", header)
		}
		fmt.Fprint(w, `{"type":"message","content":[`)
	}))
	defer server.Close()
	client := anthropic.NewClient(option.WithBaseURL(server.URL), option.WithAPIKey("nobody"))
	_, err := client.Messages.New(context.Background(), anthropic.MessageNewParams{Model: "m", MaxTokens: 10,
		Messages: []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock("hello"))}})
	fmt.Printf("x-should-retry %q: %d requests, %v\n", header, requests, err)
	return requests
}

func main() {
	if ask("") != 3 || ask("false") != 1 {
		panic("not as seen")
	}
}
GO
go mod tidy >/dev/null 2>&1
go run .
echo "as seen"
