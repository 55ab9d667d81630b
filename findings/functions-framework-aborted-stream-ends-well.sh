#!/usr/bin/env bash
# Under functions-framework-go a handler can't abort its response: panic(http.ErrAbortHandler), which net/http documents for
# that and httputil.ReverseProxy uses when its upstream dies in the middle of a body, is recovered there like any other panic.
#
# Seen with v1.9.2 and go1.26, linux/amd64. A handler writes half of a body, flushes, and panics with http.ErrAbortHandler.
# With net/http alone the client sees a broken connection (curl: 18). Under the framework the body goes on with a sentence of
# the framework's, "A panic occurred during user function execution…", and ends as a whole one does (curl: 0, status 200).
#
# What follows: a proxy that runs as a function must not let httputil.ReverseProxy stream, or clients take half an answer for
# all of it. It has to notice the upstream's end itself and say so in the body.
set -euo pipefail
work=$(mktemp -d)
trap 'kill "${pid:-}" 2>/dev/null || true; rm -rf "$work"' EXIT
cd "$work"
export GOFLAGS=-mod=mod CGO_ENABLED=0
cat >go.mod <<'GO'
module finding
go 1.26
require github.com/GoogleCloudPlatform/functions-framework-go v1.9.2
GO
cat >main.go <<'GO'
package main

import (
	"log"
	"net/http"
	"os"

	"github.com/GoogleCloudPlatform/functions-framework-go/funcframework"
	"github.com/GoogleCloudPlatform/functions-framework-go/functions"
)

func half(w http.ResponseWriter, _ *http.Request) {
	_, _ = w.Write([]byte("half of it\n"))
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

func main() {
	if os.Args[1] == "plain" {
		log.Fatal(http.ListenAndServe("127.0.0.1:18099", http.HandlerFunc(half)))
	}
	functions.HTTP("half", half)
	log.Fatal(funcframework.StartHostPort("127.0.0.1", "18099"))
}
GO
go mod tidy >/dev/null 2>&1
go build -o program .

# ask starts the program in a way, and says how the client's request for its answer ended.
ask() {
	FUNCTION_TARGET=half ./program "$1" >/dev/null 2>&1 &
	pid=$!
	until (: >/dev/tcp/127.0.0.1/18099) 2>/dev/null; do sleep 0.05; done
	code=0
	curl -s http://127.0.0.1:18099/ >"$1.body" || code=$?
	kill "$pid"
	wait "$pid" 2>/dev/null || true
	echo "$1: curl ends with $code, the body is: $(tr '\n' '|' <"$1.body")"
}
ask plain
[ "$code" = 18 ]
ask framework
[ "$code" = 0 ]
grep -q "A panic occurred" framework.body
echo "as seen"
