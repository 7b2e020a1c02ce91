# make demo    builds the binary and shows what it does
# make test    passes all tests, after installing what they need
# make check   the quick part of it: vet, staticcheck, the project's own rules
# make build   bin/faasm
# make bench   every bench, as a table

GO ?= go
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)

# Packages whose tests also run under the race detector: all but those that only time or
# start other processes.
RACE := ./client/... ./internal/... ./cmd/...

.PHONY: build demo test check race setup bench workloads clean

build:
	$(GO) build -o bin/faasm ./cmd/faasm

demo: build
	@bin/faasm demo

setup:
	@scripts/setup

check: setup
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	$(GO) test ./internal/archtest

race: setup
	$(GO) test -race $(RACE)

test: check race
	$(GO) test ./bench/... ./workloads/... ./test/...

bench: build
	@for b in fresh call chain interrupt compute; do bin/faasm bench $$b || exit 1; done

workloads:
	$(MAKE) -C guest/c
	$(MAKE) -C workloads

clean:
	rm -rf bin
	$(MAKE) -C guest/c clean
	$(MAKE) -C workloads clean
