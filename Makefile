# make help lists the targets. What they download or build goes to .cache and bin.

export WEFT_CACHE ?= $(CURDIR)/.cache
TOOLS    := $(WEFT_CACHE)/bin
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
KILLS    ?= 25
ROWS     ?= 1000000
# The Google Cloud clients leave out what only a machine in Google's cloud can use, a tenth of the program's size:
# https://pkg.go.dev/cloud.google.com/go/storage
export GOFLAGS := $(strip $(shell go env GOFLAGS) -tags=disable_grpc_modules)
# A number of runs: with a time, go test sometimes fails at its end (https://go.dev/issue/75804).
FUZZTIME ?= 20000x
# The race detector needs a C compiler; without one the tests run without it.
RACE     := $(if $(filter 1,$(shell go env CGO_ENABLED)),$(if $(shell command -v $$(go env CC)),-race))

.DEFAULT_GOAL := help
.PHONY: help build test lint fuzz go-test bench bench-short bench-snapshot bench-mongodb bench-polling bench-spanner bench-archive profile profile-mongodb chaos large install clean FORCE

help: ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

build: ## build bin/weft
	go build -ldflags "-X main.version=$(VERSION)" -o bin/weft ./cmd/weft

# Fuzzing compiles all that a package imports anew, so here it is of those that import little. The seeds of all targets are tests.
test: install lint $(TOOLS)/bench ## install what the tests need, then run every check and test
	integration/fuzz.sh $(FUZZTIME) sink/envelope sources/mongodb/extjson sources/postgres/pgoutput sources/postgres/visibility
	$(TOOLS)/services run -- $(MAKE) --no-print-directory go-test
	$(TOOLS)/services run -- sh -c '$(TOOLS)/bench -short && $(TOOLS)/bench -snapshot -short && { $(TOOLS)/bench -mongodb -short & m=$$!; $(TOOLS)/bench -spanner -short & s=$$!; $(TOOLS)/bench -polling -short && wait $$m && wait $$s; }'
	$(MAKE) --no-print-directory bench-archive ROWS=100000

install: $(TOOLS)/services $(TOOLS)/golangci-lint ## install what the tests need, without running them
	integration/install-tools.sh
	$(TOOLS)/services install

lint: $(TOOLS)/golangci-lint ## gofmt, and golangci-lint: go vet, staticcheck and others, and the rule on imports
	@files=$$(gofmt -l .); [ -z "$$files" ] || { echo "not formatted by gofmt:"; echo "$$files"; exit 1; }
	$(TOOLS)/golangci-lint run ./...
	cd integration && $(TOOLS)/golangci-lint run --config ../.golangci.yml ./...

fuzz: ## run every fuzz target for FUZZTIME
	integration/fuzz.sh $(FUZZTIME)

# Expects the servers' addresses in the environment: see services run. More at a time than there are processors, and the sources'
# packages first, since they wait most of the time. Vet is golangci-lint's.
go-test:
	go test $(RACE) -vet=off -p 4 -parallel 4 -timeout 20m ./sources/... ./...
	go -C integration test -vet=off -parallel 4 -count=1 -timeout 20m ./...

bench: $(TOOLS)/services $(TOOLS)/bench ## drain a backlog of 500,000 changes against a bare reader, in turns; latency
	integration/install-tools.sh
	$(TOOLS)/services run -- $(TOOLS)/bench

bench-short: $(TOOLS)/services $(TOOLS)/bench ## the same with 100,000 changes, in under a minute
	integration/install-tools.sh
	$(TOOLS)/services run -- $(TOOLS)/bench -short

bench-snapshot: $(TOOLS)/services $(TOOLS)/bench ## read a table of 1,000,000 rows into the log, against COPY into nothing, in turns
	integration/install-tools.sh
	$(TOOLS)/services run -- $(TOOLS)/bench -snapshot

bench-mongodb: $(TOOLS)/services $(TOOLS)/bench ## what a change of a MongoDB collection costs, against a loop of the driver, in turns
	integration/install-tools.sh
	$(TOOLS)/services run -- $(TOOLS)/bench -mongodb

bench-polling: $(TOOLS)/services $(TOOLS)/bench ## read tables of ROWS rows of PostgreSQL and MariaDB by polls, and look for deleted rows in them
	integration/install-tools.sh
	$(TOOLS)/services run -- $(TOOLS)/bench -polling -rows $(ROWS)

bench-spanner: $(TOOLS)/services $(TOOLS)/bench ## what a change of a Spanner table costs, against a loop of the client, in turns
	integration/install-tools.sh
	$(TOOLS)/services run -- $(TOOLS)/bench -spanner

bench-archive: ## archive and replay a table of ROWS rows, in rows a second, with the peak of memory
	WEFT_BENCH_ROWS=$(ROWS) go test -run '^$$' -bench '^BenchmarkArchiveAndReplay$$' -benchtime 1x -timeout 2h ./snapshot/replay

profile: $(TOOLS)/services $(TOOLS)/bench ## CPU and allocation profiles of a drain, to .cache/profile
	integration/install-tools.sh
	mkdir -p $(WEFT_CACHE)/profile
	$(TOOLS)/services run -- $(TOOLS)/bench -rounds 1 -latency 0 -profile $(WEFT_CACHE)/profile
	go tool pprof -top -nodecount 40 $(WEFT_CACHE)/profile/cpu.pprof
	go tool pprof -top -nodecount 20 -sample_index=alloc_space $(WEFT_CACHE)/profile/heap.pprof

profile-mongodb: $(TOOLS)/services $(TOOLS)/bench ## the same of a MongoDB collection's drain
	integration/install-tools.sh
	mkdir -p $(WEFT_CACHE)/profile
	$(TOOLS)/services run -- $(TOOLS)/bench -mongodb -rounds 1 -profile $(WEFT_CACHE)/profile
	go tool pprof -top -nodecount 40 $(WEFT_CACHE)/profile/cpu.pprof
	go tool pprof -top -nodecount 20 -sample_index=alloc_space $(WEFT_CACHE)/profile/heap.pprof

chaos: $(TOOLS)/services ## kill the daemon KILLS times under load, once at each failpoint, and find every built-in fault
	integration/install-tools.sh
	KILLS=$(KILLS) $(TOOLS)/services run -- go -C integration test -count=1 -timeout 24h -run '^(TestKill|TestFailpoints|TestFaults)$$' -v .

large: $(TOOLS)/services ## pass a transaction of two million rows, killed in its middle, in bounded memory
	integration/install-tools.sh
	LARGE_ROWS=2000000 $(TOOLS)/services run -- go -C integration test -count=1 -timeout 1h -run '^TestLargeTransaction$$' -v .

clean: ## remove what was built and downloaded
	rm -rf bin $(WEFT_CACHE)

$(TOOLS)/services: FORCE
	go -C integration build -o $@ ./cmd/services

$(TOOLS)/bench: FORCE
	go -C integration build -o $@ ./cmd/bench

$(TOOLS)/golangci-lint: integration/tools/go.mod integration/tools/go.sum
	go -C integration/tools build -o $@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint
