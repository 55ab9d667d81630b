#!/usr/bin/env bash
# Fetches the SDKs that infra/sdktest/node names, and the Node.js they run on, into .tools/sdktest, unless they are there.
# npm checks them against the hashes of the lock file. Optional parts are programs of hundreds of megabytes for other machines.
set -euo pipefail
cd "$(dirname "$0")"
target=../../.tools/sdktest

if cmp -s node/package-lock.json "$target/package-lock.json"; then exit; fi
command -v npm >/dev/null || { echo "fetch.sh: npm is needed to fetch the SDKs: apt-get install npm" >&2; exit 1; }
echo "fetch.sh: fetching the SDKs for infra/sdktest"
rm -rf "$target" "$target.part"
mkdir -p "$target.part"
cp node/package.json node/package-lock.json node/.npmrc "$target.part"
npm ci --prefix "$target.part" --loglevel=error --ignore-scripts --omit=optional --no-audit --no-fund --prefer-offline
mv "$target.part" "$target"
