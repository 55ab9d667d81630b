#!/usr/bin/env bash
# Writes the images that the builds run in and build on into terraform/pins.auto.tfvars.json, each by the digest that its tag
# has now. Commit it: the triggers take them from there. With the file of a build, prints that build's for
# `gcloud builds submit --substitutions`.
set -euo pipefail
cd "$(dirname "$0")/../.."
pins=terraform/pins.auto.tfvars.json
crane=github.com/google/go-containerregistry/cmd/crane@v0.22.1

if [ $# = 1 ]; then
  sed -nE 's/^ *"(_[A-Z]+)": "(.*)",?$/\1=\2/p' "$pins" | while IFS= read -r pin; do
    if grep -qF "\${${pin%%=*}}" "$1"; then echo "$pin"; fi
  done | paste -sd,
  exit
fi

work=$(mktemp)
trap 'rm -f "$work"' EXIT
{
  printf '{\n  "pins": {'
  comma=
  while read -r name image; do
    digest=$(go run "$crane" digest "$image" </dev/null)
    printf '%s\n    "%s": "%s@%s"' "$comma" "$name" "${image%:*}" "$digest"
    comma=,
  done <<'IMAGES'
_BUILDKIT moby/buildkit:buildx-stable-1
_DEBIAN debian:bookworm-slim
_DOCKER gcr.io/cloud-builders/docker:latest
_EMULATORS gcr.io/google.com/cloudsdktool/google-cloud-cli:emulators
_GOLANG golang:1.26-bookworm
_NODE node:22-bookworm
_SDK gcr.io/google.com/cloudsdktool/google-cloud-cli:slim
_STATIC gcr.io/distroless/static-debian12:nonroot
_TERRAFORM hashicorp/terraform:1.11
IMAGES
  printf '\n  }\n}\n'
} >"$work"
cp "$work" "$pins"
