#!/usr/bin/env bash
# Fetches what a fresh Debian machine with Go lacks to run and test claudepool. Running it again costs nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

. infra/claude.env
infra/claude.sh ".tools/claude-$CLAUDE_VERSION"
infra/sdktest/fetch.sh || echo "setup: the SDKs are missing (tests need them, the local service doesn't)" >&2

for package in redis-server mmdebstrap chromium-headless-shell; do
  fonts=
  [ "$package" != chromium-headless-shell ] || fonts=fonts-dejavu-core # without any it writes nothing
  if PATH=$PATH:/usr/sbin command -v "$package" >/dev/null; then
    continue
  elif [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "setup: installing $package"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package" $fonts >/dev/null
  else
    echo "setup: $package is missing and this is not root: apt-get install $package (tests need it, the local service doesn't)" >&2
  fi
done

sdk=$(dirname "$(dirname "$(readlink -f "$(command -v gcloud || echo /usr/lib/google-cloud-sdk/bin/gcloud)")")")
if [ ! -f "$sdk/platform/cloud-firestore-emulator/cloud-firestore-emulator.jar" ]; then
  echo "setup: the Firestore emulator is missing (tests need it): gcloud components install cloud-firestore-emulator" >&2
fi
