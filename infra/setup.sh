#!/usr/bin/env bash
# Fetches what a fresh Debian machine with Go lacks to run and test claudepool. Running it again costs nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

. infra/claude.env
infra/claude.sh ".tools/claude-$CLAUDE_VERSION"

if ! command -v redis-server >/dev/null; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "setup: installing redis-server"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends redis-server >/dev/null
  else
    echo "setup: redis-server is missing and this is not root: apt-get install redis-server (tests need it, the local service doesn't)" >&2
  fi
fi

sdk=$(dirname "$(dirname "$(readlink -f "$(command -v gcloud || echo /usr/lib/google-cloud-sdk/bin/gcloud)")")")
if [ ! -f "$sdk/platform/cloud-firestore-emulator/cloud-firestore-emulator.jar" ]; then
  echo "setup: the Firestore emulator is missing (tests need it): gcloud components install cloud-firestore-emulator" >&2
fi
