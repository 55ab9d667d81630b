# The front's image: one static binary that runs as nobody. Built from the root of the repository, with BuildKit
# (rewrite-timestamp needs a builder of its own: docker buildx create --use):
#
#   docker buildx build -f infra/docker/front.Dockerfile --build-arg REVISION=$(git rev-parse HEAD) \
#     --build-arg SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) --output type=image,name=NAME,push=true,rewrite-timestamp=true .
#
# The same commit on the same base images gives the same image. Whoever wants the bases fixed as well gives them by digest.
ARG GOLANG=golang:1.26-bookworm
ARG BASE=gcr.io/distroless/static-debian12:nonroot

FROM ${GOLANG} AS build
WORKDIR /src
# The image's own Go fetches the one that go.mod names: a module, which has to be what the checksum database says.
ENV CGO_ENABLED=0 GOTOOLCHAIN=auto
# Modules change more seldom than the code: they have a layer of their own.
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN go build -trimpath -buildvcs=false -ldflags="-s -w" -o out/ ./function/cmd/front

FROM ${BASE}
COPY --from=build --chmod=0755 /src/out/front /usr/local/bin/front
ENV PORT=8080
EXPOSE 8080
# Of the base's own user, stated so that a base of another kind can't make it root.
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/front"]
ARG REVISION
LABEL org.opencontainers.image.title="claudepool front" \
      org.opencontainers.image.description="Stateless front: routes each user to the pool instance that owns it" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="gcr.io/distroless/static-debian12:nonroot" \
      org.opencontainers.image.revision="${REVISION}"
