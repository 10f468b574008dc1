# make          builds bin/xenchan, static
# make demo     the main job, end to end, without Xen
# make test     everything, real Xen included; installs what it needs (as root)
GO      ?= go
PKGS    := ./...
FUZZTIME ?= 30s

# What the tests talk to: C clients of xenstore, a guest agent, socat; and what
# boots real Xen. gcc is for the race detector alone.
DEBS := xenstore-utils qemu-guest-agent socat gcc libc6-dev qemu-system-x86 xz-utils

GOLANGCI := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

export CGO_ENABLED = 0
BUILD := $(GO) build -trimpath -ldflags '-s -w'

.PHONY: all demo deps check test test-fast test-xen bench bench-once fuzz lint cross clean

all: bin/xenchan

bin/xenchan: FORCE
	$(BUILD) -o $@ ./cmd/xenchan

bin/rigctl: FORCE
	$(BUILD) -o $@ ./internal/rig/rigctl

FORCE:

demo: bin/xenchan
	bin/xenchan demo

# deps installs Debian packages that are missing; anybody but root is told which.
deps:
	@for p in $(DEBS); do \
	  dpkg-query -W -f '$${db:Status-Abbrev}' $$p 2>/dev/null | grep -q '^ii' || missing="$$missing $$p"; \
	done; \
	[ -z "$$missing" ] && exit 0; \
	if [ "$$(id -u)" = 0 ]; then \
	  apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends $$missing; \
	else echo "missing Debian packages; as root: apt-get install --no-install-recommends$$missing" >&2; exit 1; fi

test: test-fast test-xen

# check is what needs no run: format, vet, both architectures, the tests of real Xen compile.
check:
	@test -z "$$(gofmt -l . | tee -a /dev/stderr)" || { echo "gofmt these files" >&2; exit 1; }
	$(GO) vet $(PKGS)
	$(GO) vet -tags xen $(PKGS)
	GOARCH=arm64 $(GO) vet $(PKGS)

test-fast: deps check bin/xenchan
	CGO_ENABLED=1 $(GO) test -race -timeout 15m $(PKGS)
	$(GO) test -count=1 ./internal/e2e # the race detector is too slow for all of its bytes
	$(MAKE) bench-once

# test-xen runs the tests with the build tag xen inside dom0 of a real Xen, all
# with the C xenstored, and what depends on it most with the OCaml one too.
IN_DOM0 = $(GO) test -tags xen -p 1 -count=1 -timeout 15m -exec '$(CURDIR)/bin/rigctl test -with $(CURDIR)/bin/xenchan'
XEN_PKGS = $(sort $(dir $(shell find . -name '*_xen_test.go')))

test-xen: deps bin/xenchan bin/rigctl
	bin/rigctl build
	$(IN_DOM0) $(XEN_PKGS) && \
	  XENCHAN_RIG_XENSTORED=o $(IN_DOM0) ./xen/xendev ./internal/rig/realstore; \
	  status=$$?; bin/rigctl down; exit $$status

bench:
	$(GO) test -run '^$$' -bench . -benchmem $(PKGS)

# bench-once keeps the benchmarks from rotting.
bench-once:
	$(GO) test -run '^$$' -bench . -benchtime 1x $(PKGS) > /dev/null

# fuzz runs every fuzz target of every package for FUZZTIME.
fuzz:
	@for p in $$($(GO) list $(PKGS)); do \
	  for f in $$($(GO) test -list '^Fuzz' $$p | grep '^Fuzz'); do \
	    echo "== $$p $$f"; $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) $$p || exit 1; \
	  done; \
	done

lint:
	$(GO) run $(GOLANGCI) run

cross:
	GOARCH=amd64 $(BUILD) -o bin/xenchan-amd64 ./cmd/xenchan
	GOARCH=arm64 $(BUILD) -o bin/xenchan-arm64 ./cmd/xenchan

clean:
	rm -rf bin
