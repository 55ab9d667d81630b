#!/usr/bin/env bash
# Fetches the pinned claude CLI into a folder: fetch-claude.sh DIR. What is there already is kept.
set -euo pipefail

version=2.1.330
package=@anthropic-ai/claude-code-linux-x64
# The hash that the registry gives for this version, in hexadecimal.
sha512=f469fe57b0ed27c3359f3b4ff42783565f60dd1b6b7a923bace153c8f4519d97bc0facde6c81ca982ecebc16aeb9cb803f45f493ce520cdfcb3d56728ec19ecd

target=$1
[ -x "$target/claude" ] && exit
command -v npm >/dev/null || { echo "fetch-claude: npm is needed: apt-get install npm" >&2; exit 1; }
echo "fetching $package@$version"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
file=$(cd "$work" && npm pack --silent --prefer-offline "$package@$version" 2>/dev/null)
echo "$sha512  $work/$file" | sha512sum --check --quiet || { echo "fetch-claude: $package@$version has the wrong hash" >&2; exit 1; }
tar -xzf "$work/$file" -C "$work"
mkdir -p "$target"
mv "$work/package/claude" "$target/claude.part"
chmod 755 "$target/claude.part"
mv "$target/claude.part" "$target/claude"
