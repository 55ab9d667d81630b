# A pool instance: poold, the pinned CLI, and what its tools call. Build from the repository's root:
#   docker build -f infra/docker/pool.Dockerfile -t pool .
FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY . .
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags="-s -w" -o /out/poold ./pool/cmd/poold

# Its hash is checked where its version is pinned.
FROM node:22-bookworm-slim AS claude
COPY infra/fetch-claude.sh /fetch-claude.sh
RUN /fetch-claude.sh /out

FROM debian:bookworm-slim
ARG REVISION=unknown
LABEL org.opencontainers.image.title="claudepool pool" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="$REVISION"
# No log, cache or list of packages stays: they would differ from build to build.
RUN apt-get update \
 && apt-get install -y --no-install-recommends bash ca-certificates curl git procps ripgrep \
 && rm -rf /var/lib/apt/lists/* /var/log/* /var/cache/*
COPY --from=claude /out/claude /usr/local/bin/claude
COPY --from=build /out/poold /usr/local/bin/poold
# Nobody may list it: its folders' names are what tells them apart.
RUN mkdir -m 0711 /workspaces
ENV CLAUDE_BIN=/usr/local/bin/claude WORKSPACES_ROOT=/workspaces
EXPOSE 8080
# Root, but only to give each conversation's process a uid of its own. As PID 1 it reaps what its children leave.
USER 0:0
ENTRYPOINT ["/usr/local/bin/poold"]
