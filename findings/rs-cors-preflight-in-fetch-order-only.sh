#!/usr/bin/env bash
# rs/cors answers a preflight as allowed only if Access-Control-Request-Headers names the headers as the Fetch standard has
# browsers write them: lower case, sorted, at most one blank beside a comma. The same allowed names in another order, or in
# capitals, which HTTP takes for equal, are a 204 without any Access-Control header, as if the origin weren't allowed, though
# the option AllowedHeaders itself may be written in any case and order.
#
# Seen with github.com/rs/cors v1.11.1, go1.26.11, linux/amd64.
#
# What follows: what isn't a browser (a gateway's probe, a test written by hand, a proxy that rewrites names) is refused where
# a browser is served; a preflight by curl that fails proves nothing, and one that works has to be sorted.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export GOTOOLCHAIN=go1.26.11 GOFLAGS=-mod=mod CGO_ENABLED=0
cat >go.mod <<'GO'
module finding
go 1.26
require github.com/rs/cors v1.11.1
GO
cat >main.go <<'GO'
package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/rs/cors"
)

func main() {
	handler := cors.New(cors.Options{
		AllowedOrigins: []string{"https://page.example"},
		AllowedMethods: []string{http.MethodPost},
		AllowedHeaders: []string{"Content-Type", "Authorization"},
	}).Handler(http.NotFoundHandler())
	for _, names := range []string{"authorization,content-type", "authorization, content-type", "content-type,authorization",
		"Authorization,Content-Type", "authorization,  content-type"} {
		r := httptest.NewRequest(http.MethodOptions, "/", nil)
		r.Header.Set("Origin", "https://page.example")
		r.Header.Set("Access-Control-Request-Method", http.MethodPost)
		r.Header.Set("Access-Control-Request-Headers", names)
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		fmt.Println(w.Code, w.Header().Get("Access-Control-Allow-Origin") != "", names)
	}
}
GO
go run . 2>/dev/null | tee said
diff said - <<'SAID'
204 true authorization,content-type
204 true authorization, content-type
204 false content-type,authorization
204 false Authorization,Content-Type
204 false authorization,  content-type
SAID
echo "as seen"
