# The CLI and the SDKs are fetched into .tools/, which git ignores; infra/setup.sh has what else is needed.
include infra/claude.env
CLAUDE_BIN     := $(CURDIR)/.tools/claude-$(CLAUDE_VERSION)/claude
STATICCHECK    := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOSEC          := github.com/securego/gosec/v2/cmd/gosec@v2.30.0
GOVULNCHECK    := golang.org/x/vuln/cmd/govulncheck@v1.9.0

# The toolchain that go.mod names, where the one at hand is older: that one has known vulnerabilities.
export GOTOOLCHAIN := auto
# Everything is compiled as for the images, so that it is compiled once; what looks for races needs cgo besides.
export CGO_ENABLED := 0
export GOFLAGS := $(GOFLAGS) -trimpath

.PHONY: help setup run demo build check test audit bench density chaos hostile turns keyed billed parked page python fuzz pins clean

help: ## Show this text
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: ## Fetch the pinned CLI, redis-server, mmdebstrap, Chromium and SDKs, tell how to get the Firestore emulator
	@./infra/setup.sh

run: setup ## Serve on 127.0.0.1:8080; ARGS=-offline for a stand-in API
	@go build -o .tools/bin/local ./infra/local
	@CLAUDE_BIN=$(CLAUDE_BIN) exec .tools/bin/local $(ARGS)

demo: setup ## Watch three users talk to two instances, offline
	@go build -o .tools/bin/local ./infra/local
	@CLAUDE_BIN=$(CLAUDE_BIN) exec .tools/bin/local -addr 127.0.0.1:0 -demo

build: ## Build front and pool into .tools/bin
	go build -o .tools/bin/ ./function/cmd/front ./pool/cmd/poold

check: ## gofmt, lines of at most 120 columns, vet, staticcheck
	@unformatted=$$(gofmt -l $$(go list -f '{{.Dir}}' ./...) infra/sdktest/go); test -z "$$unformatted" || { echo "gofmt: $$unformatted"; exit 1; }
	@find . -path ./.tools -prune -o -name '*.go' -print | xargs awk \
	  'length($$0) > 120 { print FILENAME ":" FNR ": over 120 columns"; bad = 1 } END { exit bad }'
	go vet ./...
	go run $(STATICCHECK) ./...

# A program with the race detector waits for so many milliseconds before it ends, for a second unless it is told.
test: setup check ## check, then all tests with the real CLI, redis-server and the Firestore emulator
	GORACE=atexit_sleep_ms=100 CLAUDE_BIN=$(CLAUDE_BIN) CGO_ENABLED=1 go test -race -shuffle=on -vet=off -ldflags=-w -timeout 40m ./pool ./infra/local ./infra/sdktest ./infra/docker ./router ./function ./infra/bench ./pool/confine ./... # what takes longest begins first

# G104 asks that the errors of closing what was only read be looked at. What only developers run is left out.
audit: ## gosec and govulncheck
	go run $(GOSEC) -quiet -tests=false -exclude=G104 -exclude-dir=.tools -exclude-dir=infra/bench -exclude-dir=infra/scale \
	  -exclude-dir=infra/chaos -exclude-dir=infra/testkit -exclude-dir=pool/pooltest ./...
	@db=$$(infra/vulndb.sh) && go run $(GOVULNCHECK) -db "$$db" ./...

bench: setup ## Measure everything and write BENCH.md, in a quarter of an hour; BASE=COMMIT compares with that instead
	CLAUDE_BIN=$(CLAUDE_BIN) go run ./infra/bench $(if $(BASE),-base '$(BASE)')

density: setup ## Have 300 users share 40 processes of this tree and of BASE=COMMIT, FOR=20m at each of two rates
	CLAUDE_BIN=$(CLAUDE_BIN) go run ./infra/bench -base '$(BASE)' -density $(or $(FOR),20m)

chaos: setup ## Break one thing after the other for twenty minutes and write infra/chaos/README.md
	CLAUDE_BIN=$(CLAUDE_BIN) go run ./infra/chaos -report infra/chaos/README.md

hostile: setup ## Let strangers flood a front and two instances for minutes, and measure what known users notice
	HOSTILE=long CGO_ENABLED=0 go test -count=1 -v -timeout 30m -run TestHostile ./infra/hostile ./function/cmd/front

turns: setup ## Walk through 50 random conversations with the real CLI and 300 without; TURNS_SEED=SEED/N repeats one
	CLAUDE_BIN=$(CLAUDE_BIN) TURNS=50 go test -count=1 -v -timeout 30m -run TestTurns ./pool

keyed: setup ## Send 1000 requests twice under keys, while fronts are killed and owners drained
	KEYED=1000 CGO_ENABLED=0 go test -count=1 -v -timeout 30m -run TestKeyed ./infra/local

billed: setup ## Have 50 users take 10,000 turns while CLIs, fronts and owners go, and compare what they are told with the bill
	BILLED="10000 50" CGO_ENABLED=0 go test -count=1 -v -timeout 60m -run TestBilled ./infra/local

parked: setup ## Have 10,000 users claim parked processes, 300 those of the real CLI, and kill services meanwhile
	CLAUDE_BIN=$(CLAUDE_BIN) CLAIMS=10000 CLAIMS_REAL=300 KILLED=30 CGO_ENABLED=0 go test -count=1 -v -timeout 60m \
	  -run 'TestParked_(NobodyGets|NothingIsLeftOfAService)' ./pool/standby ./pool

page: setup ## Take the pictures of the pages that README.md and infra/OPERATIONS.md show
	TZ=UTC CGO_ENABLED=0 go test -count=1 -run TestScreenshots ./infra/pagetest -screenshots $(CURDIR)/infra

python: setup ## Run the README's lines in Python with the SDK that Debian's unstable suite has
	@infra/sdktest/python.sh .tools/python
	CLAUDE_BIN=$(CLAUDE_BIN) PYTHON=$(CURDIR)/.tools/python/python CGO_ENABLED=0 go test -count=1 -v -timeout 10m -run TestSDKs/README/Python ./infra/sdktest

# A bare "context deadline exceeded" after the minute is go.dev/issue/75804, which Go 1.27 mends, and no finding.
fuzz: ## Run each fuzz target for a minute
	@for p in $$(git grep -l '^func Fuzz' -- '*_test.go' | xargs -n1 dirname | sort -u); do \
	  for f in $$(grep -ho '^func Fuzz[A-Za-z_]*' $$p/*_test.go | sed 's/func //'); do \
	    go test -run '^$$' -fuzz "^$$f$$" -fuzztime 60s ./$$p || exit 1; done; done

pins: ## Look up the images of the deployment's builds and write their digests to terraform/pins.auto.tfvars.json
	@./infra/cloudbuild/pins.sh

clean: ## Remove what setup fetched
	rm -rf .tools
