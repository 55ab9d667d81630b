#!/usr/bin/env bash
# Prints the address of Go's vulnerability database for govulncheck: the live one, or where that can't be reached one made
# from its source, which the module proxy has at this version.
set -euo pipefail
cd "$(dirname "$0")/.."
version=v0.0.0-20261105234957-e22db6528018

if curl -fsS -m 10 -o /dev/null https://vuln.go.dev/index/db.json 2>/dev/null; then
  echo https://vuln.go.dev
  exit
fi
made=$PWD/.tools/vulndb-$version
if [ ! -e "$made/index/db.json" ]; then
  source=$(go mod download -json "golang.org/x/vulndb@$version" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
  go run "golang.org/x/vulndb/cmd/indexdb@$version" -vulns "$source/data/osv" -out "$made"
fi
echo "govulncheck: vuln.go.dev can't be reached, so the database is that of $version" >&2
echo "file://$made"
