# Everything here works in a fresh clone, without standard input, as root and as anybody else.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help test tools check build mutants fuzz big bench bench-wipe

# Debian keeps veritysetup where only root's PATH looks.
export PATH := $(PATH):/usr/sbin:/sbin

# How long one package's tests may take.
TEST_TIMEOUT ?= 40m
BIG_TIMEOUT ?= 6h

# A fuzz target is left when so long a time brought no new coverage, and after FUZZTIME if that is set.
QUIET ?= 10m
FUZZTIME ?=

# Tests of thousands of cases alike, of which they take a part when the race detector makes them slow.
WHOLE := ^(TestBursts|TestMendGrid|TestExactnessWithParity)$$

# The pattern ./... leaves out folders that begin with a dot.
PACKAGES := ./... ./.ci/fuzz ./.ci/layers ./.ci/removals ./.ci/tools

# Real and hostile images of other projects, which the tests read where they are to be had.
ifeq ($(SALLYPORT_CORPUS),)
ifneq ($(wildcard ../shared/corpus/.),)
SALLYPORT_CORPUS := $(abspath ../shared/corpus)
endif
endif
ifneq ($(SALLYPORT_CORPUS),)
export SALLYPORT_CORPUS
else
WITHOUT_CORPUS := NOT RUN: the tests over the corpus. Set SALLYPORT_CORPUS to its folder, see docs/development.md.
endif

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 18

test: tools check ## install what is missing, check the sources, run all tests with the race detector
	@# The guests take longest, and mostly one processor: they run beside all others, which are nice to them.
	set -m; nice -n 5 go test -race -count=1 -timeout $(TEST_TIMEOUT) $$(go list $(PACKAGES) | grep -vx sallyport/qemu-tests) & others=$$!; set +m; \
	trap "kill -INT -- -$$others 2>/dev/null || :" EXIT; \
	guests=0; go test -race -count=1 -timeout $(TEST_TIMEOUT) ./qemu-tests || guests=$$?; wait $$others; exit $$guests
	go test -count=1 -timeout $(TEST_TIMEOUT) -run '$(WHOLE)' ./bundle
	@$(if $(WITHOUT_CORPUS),echo; echo '*** $(WITHOUT_CORPUS)'; echo;)
	@echo 'make test: all checks and tests passed$(if $(WITHOUT_CORPUS),; those over the corpus were not run)'

tools: ## install the tools that the tests need and that are missing, with apt-get
	@.ci/tools/install.sh

check: ## gofmt, go vet, staticcheck, import layers, table of removals, module files
	@unformatted=$$("$$(go env GOROOT)/bin/gofmt" -l .); \
	if [ -n "$$unformatted" ]; then printf 'gofmt would change:\n%s\n' "$$unformatted" >&2; exit 1; fi
	go vet $(PACKAGES)
	go tool -modfile=tools.mod staticcheck $(PACKAGES)
	go run ./.ci/layers
	go run ./.ci/removals -check
	go mod tidy -diff
	go mod verify
	go mod verify -modfile=tools.mod

build: ## bin/sallyport
	CGO_ENABLED=0 go build -trimpath -o bin/sallyport ./cmd/sallyport

mutants: tools ## take out each check of the table of removals and see its test fail (ONLY=ID,ID for some)
	go run ./.ci/removals $(if $(ONLY),-only $(ONLY))
	go run ./.ci/removals -rows

fuzz: tools ## run every fuzz target until QUIET (10m) brought nothing new (FUZZTIME=60s for so long each, ONLY=TARGET,TARGET)
	@go run ./.ci/fuzz -quiet $(QUIET) $(if $(FUZZTIME),-time $(FUZZTIME)) $(if $(ONLY),-only $(ONLY))

big: tools ## the tests that need hours or much disk as well
	@$(if $(WITHOUT_CORPUS),echo '*** $(WITHOUT_CORPUS)')
	SALLYPORT_BIG=1 go test -p 1 -count=1 -timeout $(BIG_TIMEOUT) ./...

bench: tools ## measure sallyport beside stock tools, see docs/performance.md (BENCH='-size 200 -runs 3' for a trial)
	go run ./bundle/bench $(BENCH)

bench-wipe: ## measure wiping beside dd, as root (BENCH='-device /dev/sdX' wipes a stick)
	go run ./media/wipe/bench $(BENCH)
