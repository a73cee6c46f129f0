# `make` alone prints the documented targets. Tools are pinned: protobuf generators by the tool directives of go.mod,
# the linter by tools/go.mod.

SHELL     := /bin/bash
GO        ?= go
BIN       := bin/godwit
VERSION   := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS   := -s -w -X main.version=$(VERSION)
# Two test binaries at a time: the suites that start guests share two cores with everything else.
TESTFLAGS ?= -timeout 25m -p 2

.DEFAULT_GOAL := help
.PHONY: help deps build test fuzz check unit fmt vet lint arch generate generated-in-sync tidy demo bench drill hooks clean

help: ## print this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | awk -F'\t' '{printf "  make %-18s %s\n", $$1, $$2}'

deps: ## install the Debian packages that building, testing and the lab need (root)
	@scripts/install-deps.sh

build: ## build bin/godwit
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN) ./cmd/godwit

test: deps build ## all tests, real migrations included (root; installs what it needs)
	$(GO) vet ./...
	$(GO) test $(TESTFLAGS) ./test/e2e ./... # the longest first: the others run beside it
	$(MAKE) fuzz

# How long each decoder is fuzzed.
FUZZTIME ?= 3s

fuzz: ## fuzz each decoder for FUZZTIME
	@scripts/fuzz.sh $(FUZZTIME)

check: fmt vet lint arch generated-in-sync tidy unit ## what every commit must pass

unit: ## the tests that need neither root nor a lab
	$(GO) test -short -timeout 10m ./...

fmt: ## fail when a file is not gofmt-clean
	@out=$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go')); [ -z "$$out" ] || { echo "run gofmt -w on:"; echo "$$out"; exit 1; }

vet: ## go vet
	$(GO) vet ./...

lint: ## golangci-lint, pinned in tools/go.mod
	$(GO) tool -modfile=tools/go.mod golangci-lint run ./...

arch: ## the import law and the other laws of arch_test.go
	$(GO) test -count=1 .

generate: ## regenerate protobuf code and generated documents
	$(GO) generate ./...

generated-in-sync: ## fail when generated files are not what `make generate` makes
	$(GO) generate ./...
	@git diff --exit-code -- '*.pb.go' docs || { echo "commit what 'make generate' changed"; exit 1; }

tidy: ## fail when go.mod is not tidy
	$(GO) mod tidy -diff

demo: deps build ## the walk-through: three hosts, stock clients, live block migration, a table of results
	$(GO) run ./test/demo -godwit $(BIN)

# BENCH chooses sections and rounds: make bench BENCH='-only nbd,copy -rounds 10'
BENCH ?=

bench: deps build ## measure against the named peers and rewrite docs/benchmarks.md
	@scripts/install-bench-deps.sh
	$(GO) run ./test/bench -godwit $(BIN) -o docs/benchmarks.md $(BENCH)

# How often the matrices are repeated; each round lands its blows at other instants.
DRILLS ?= 5

drill: deps build ## longer fault drills: every fault at every moment on the real lab, DRILLS times over
	GODWIT_DRILL=1 $(GO) test -timeout 180m -count=$(DRILLS) -run 'Kill|Power|Drill|DeadHosts|Partitioned|HostThatLives|KeepsFailing|WhoseDiskFails' ./test/e2e
	GODWIT_DRILL=1 $(GO) test -timeout 60m -count=1 ./test/partition
	GODWIT_DRILL=1 $(GO) test -timeout 60m -count=$(DRILLS) -run PostCopyOnRealHosts ./internal/hostagent
	$(GO) test -tags drill -timeout 20m -count=1 ./test/sharedmoves
	$(GO) test -tags drill -timeout 60m -count=1 ./test/deadhosts
	$(GO) test -tags drill -timeout 30m -count=$(DRILLS) ./test/arranging
	GODWIT_DRILL=1 $(GO) test -timeout 60m -count=$(DRILLS) ./test/gluster

hooks: ## install the git hooks of .githooks
	git config core.hooksPath .githooks

clean: ## remove build products
	rm -rf bin .cache
