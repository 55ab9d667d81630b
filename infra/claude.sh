#!/usr/bin/env bash
# Fetches the pinned CLI into the given folder, unless it is there. Whatever does not have the pinned hash is refused.
set -euo pipefail
target=${1:?folder}
package=@anthropic-ai/claude-code-linux-x64
. "$(dirname "$0")/claude.env"

[ ! -x "$target/claude" ] || exit 0
command -v npm >/dev/null || { echo "claude.sh: npm is needed to fetch the CLI: apt-get install npm" >&2; exit 1; }
echo "claude.sh: fetching $package@$CLAUDE_VERSION"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
file=$(cd "$work" && npm pack --silent --prefer-offline "$package@$CLAUDE_VERSION")
found=sha512-$(openssl dgst -sha512 -binary "$work/$file" | base64 -w0)
[ "$found" = "$CLAUDE_INTEGRITY" ] || { echo "claude.sh: $package@$CLAUDE_VERSION has the wrong hash: $found" >&2; exit 1; }
tar -xzf "$work/$file" -C "$work"
mkdir -p "$target"
mv "$work/package/claude" "$target/claude.part"
chmod 755 "$target/claude.part"
mv "$target/claude.part" "$target/claude"
