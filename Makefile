# make demo    builds the binary and shows what it does
# make test    passes all tests, after installing what they need
# make check   the quick part of it: vet, staticcheck, the project's own rules
# make build   bin/faasm
# make bench   every bench, its report in bench/results
# make figures what is in bench/results, into README.md and docs/*.svg

GO ?= go
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)

# Packages whose tests also run under the race detector: all but those that only time or
# start other processes.
RACE := ./client/... ./internal/... ./cmd/...

.PHONY: build demo test check race setup bench figures workloads clean

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

BENCHES := fresh churn density call chain interrupt compute state

bench: build
	@for b in $(BENCHES); do echo "bench $$b"; bin/faasm bench $$b --json >bench/results/$$b.new || exit 1; \
		mv bench/results/$$b.new bench/results/$$b.json; done
	@echo "bench density --profile dense"; bin/faasm bench density --profile dense --json >bench/results/density_dense.new && \
		mv bench/results/density_dense.new bench/results/density_dense.json

figures:
	$(GO) run ./bench/figures

workloads:
	$(MAKE) -C guest/c
	$(MAKE) -C workloads

clean:
	rm -rf bin
	$(MAKE) -C guest/c clean
	$(MAKE) -C workloads clean
