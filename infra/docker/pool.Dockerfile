# The pool's image: poold and the CLI it starts. Built from the root of the repository, with BuildKit
# (rewrite-timestamp needs a builder of its own: docker buildx create --use):
#
#   docker buildx build -f infra/docker/pool.Dockerfile --build-arg REVISION=$(git rev-parse HEAD) \
#     --build-arg SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) --output type=image,name=NAME,push=true,rewrite-timestamp=true .
#
# The same commit on the same base images and Debian packages gives the same image. Packages are not pinned, because a
# build has to bring in Debian's security updates; what an image holds, its scan and /var/lib/dpkg tell.
ARG GOLANG=golang:1.26-bookworm
ARG NODE=node:22-bookworm
ARG BASE=debian:bookworm-slim

FROM ${GOLANG} AS build
WORKDIR /src
# The image's own Go fetches the one that go.mod names: a module, which has to be what the checksum database says.
ENV CGO_ENABLED=0 GOTOOLCHAIN=auto
# Modules change more seldom than the code: they have a layer of their own.
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN go build -trimpath -buildvcs=false -ldflags="-s -w" -o out/ ./pool/cmd/poold

# npm is needed to fetch the CLI, not to run it. Only a changed pin runs this again.
FROM ${NODE} AS cli
WORKDIR /src
COPY infra/claude.env infra/claude.sh infra/
RUN infra/claude.sh out

FROM ${BASE} AS image
# The CLI itself needs nothing but libc. git, rg and ps are what its tools call, the certificates are for what they fetch.
# What differs between two installations of the same packages is removed: logs, caches, lists. Nobody here becomes somebody
# else by running a program.
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
      ca-certificates git procps ripgrep \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/cache/ldconfig/aux-cache \
      /var/log/apt /var/log/*.log \
 && find / -xdev -type f -perm /6000 -exec chmod a-s {} + \
 && install -d -m 0711 /workspaces
COPY --from=cli --chmod=0755 /src/out/claude /usr/local/bin/claude
COPY --from=build --chmod=0755 /src/out/poold /usr/local/bin/poold
ENV PORT=8080 WORKSPACES_ROOT=/workspaces CLAUDE_BIN=/usr/local/bin/claude
EXPOSE 8080
# Only root may give each child a uid of its own. poold is the container's first process: it reaps the orphans itself.
USER 0:0
ENTRYPOINT ["/usr/local/bin/poold"]
ARG REVISION
LABEL org.opencontainers.image.title="claudepool pool" \
      org.opencontainers.image.description="Pool instance: keeps a warm claude process for each conversation" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="debian:bookworm-slim" \
      org.opencontainers.image.revision="${REVISION}"
