#!/usr/bin/env bash
# Installs Anthropic's SDK for Python with the Python it needs, in a folder of its own, from Debian's unstable suite: PyPI
# isn't asked. A mirror may be older than that suite's signatures last. The folder gets a program `python` that runs in there.
set -euo pipefail
dir=$1
if [ -x "$dir/python" ]; then exit; fi
rm -rf "$dir"
mkdir -p "$dir"
mmdebstrap --quiet --mode=root --variant=minbase --dpkgopt=force-unsafe-io \
  --aptopt='Acquire::Check-Valid-Until "false"' --include=python3-anthropic,ca-certificates \
  sid "$dir/root" "${DEBIAN_MIRROR:-http://deb.debian.org/debian}"
cat >"$dir/python" <<'SH'
#!/bin/sh
exec chroot "$(dirname "$0")/root" /usr/bin/python3 "$@"
SH
chmod +x "$dir/python"
chroot "$dir/root" dpkg-query -W python3-anthropic python3
