#!/usr/bin/env bash
# Of a value of the wrong type, encoding/json's UnmarshalTypeError says in Field where it stands, "the full path from the root
# struct to the value". Where the field is one of an embedded struct, that path has the Go name of the struct in it, which no
# key of the JSON has: a service that repeats Field to its clients tells them of a "Request.messages.role" that they never
# sent, and renaming a Go type changes its public error texts.
#
# Seen with go1.26.11, linux/amd64; of a struct that isn't embedded the path is that of the keys.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export GOTOOLCHAIN=go1.26.11 GOFLAGS=-mod=mod CGO_ENABLED=0
cat >go.mod <<'GO'
module finding
go 1.26
GO
cat >main.go <<'GO'
package main

import (
	"encoding/json"
	"errors"
	"fmt"
)

type Request struct {
	Messages []struct {
		Role string `json:"role"`
	} `json:"messages"`
}

func field(v any) string {
	var wrong *json.UnmarshalTypeError
	errors.As(json.Unmarshal([]byte(`{"messages":[{"role":1}]}`), v), &wrong)
	return wrong.Field
}

func main() {
	fmt.Println("itself:", field(&Request{}))
	fmt.Println("embedded:", field(&struct {
		Request
		Other string `json:"other"`
	}{}))
}
GO
go run . | tee said
diff said - <<'SAID'
itself: messages.role
embedded: Request.messages.role
SAID
echo "as seen"
