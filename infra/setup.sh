#!/usr/bin/env bash
# Fetches what a fresh Debian machine with Go lacks to run and test claudepool. Running it again costs nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

version=${CLAUDE_VERSION:?}
package=@anthropic-ai/claude-code-linux-x64
# The hash that the registry gives for this version; npm refuses a package that differs.
integrity=sha512-9Gn+V7DtJ8M1nztP9CeDVl9g3RtrepI7rOFTyPRRnZe8D6zebIHKmC7OvBauucuAP0X0k85SDN/LPVZyjsGezQ==
target=.tools/claude-$version

if [ ! -x "$target/claude" ]; then
  command -v npm >/dev/null || { echo "setup: npm is needed to fetch the CLI: apt-get install npm" >&2; exit 1; }
  echo "setup: fetching $package@$version"
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  file=$(cd "$work" && npm pack --silent --prefer-offline "$package@$version" 2>/dev/null)
  found=sha512-$(openssl dgst -sha512 -binary "$work/$file" | base64 -w0)
  [ "$found" = "$integrity" ] || { echo "setup: $package@$version has the wrong hash: $found" >&2; exit 1; }
  tar -xzf "$work/$file" -C "$work"
  mkdir -p "$target"
  mv "$work/package/claude" "$target/claude.part"
  chmod 755 "$target/claude.part"
  mv "$target/claude.part" "$target/claude"
fi

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
