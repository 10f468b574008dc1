# make          builds bin/xenchan and bin/xenchan-guest, static
# make demo     the main job, end to end, without Xen
# make test     everything, real Xen included; installs what it needs (as root)
GO      ?= go
PKGS    := ./...
FUZZTIME ?= 30s

# What the tests talk to: C clients of xenstore, a guest agent, socat, systemd, libvirt's parser; and
# what boots real Xen; a desktop for SPICE's agent. gcc is for the race detector alone.
DEBS := xenstore-utils qemu-guest-agent socat gcc libc6-dev qemu-system-x86 xz-utils systemd libvirt-clients libxml2-utils curl groff-base \
  python3-requests python3-serial python3-configobj python3-yaml spice-vdagent xvfb xclip x11vnc

# Installed, it would configure the machine that the tests run on.
DOWNLOAD := apt-get -q -o APT::Sandbox::User=root download
CLOUD_INIT := .cache/cloud-init/usr/bin/cloud-init

GOLANGCI := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

export CGO_ENABLED = 0
BUILD := $(GO) build -trimpath -ldflags '-s -w'

.PHONY: all demo deps debs check test test-fast test-xen xen-c xen-o agent-xen bench bench-once soak leaks hostile fuzz lint cross install install-guest clean man

all: bin/xenchan bin/xenchan-dm bin/xenchan-guest

bin/xenchan: FORCE
	$(BUILD) -o $@ ./cmd/xenchan

bin/xenchan-dm: FORCE
	@test ! -L $@ || rm $@ # a link to bin/xenchan in an older tree
	$(BUILD) -o $@ ./cmd/xenchan-dm

bin/xenchan-guest: FORCE
	$(BUILD) -o $@ ./cmd/xenchan-guest

bin/rigctl: FORCE
	$(BUILD) -o $@ ./internal/rig/rigctl

# testreport shows what go test -json says, and at the end once more what failed and
# why; the logs are in .cache/test.
bin/testreport: FORCE
	$(BUILD) -o $@ ./internal/testreport

FORCE:

demo: bin/xenchan
	bin/xenchan demo

deps: debs $(CLOUD_INIT)

# cloud-init is unpacked below .cache; what it needs of Python is installed.
$(CLOUD_INIT): | debs
	rm -rf .cache/cloud-init.new && mkdir -p .cache/cloud-init.new
	cd .cache/cloud-init.new && { $(DOWNLOAD) cloud-init || { apt-get -q update && $(DOWNLOAD) cloud-init; }; } && dpkg-deb -x cloud-init_*.deb . && rm cloud-init_*.deb
	rm -rf .cache/cloud-init && mv .cache/cloud-init.new .cache/cloud-init && touch $@

# debs installs Debian packages that are missing; anybody but root is told which.
debs:
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

test-fast: deps check bin/xenchan bin/testreport
	CGO_ENABLED=1 bin/testreport fast $(GO) test -json -race -timeout 15m $(PKGS)
	bin/testreport e2e $(GO) test -json -count=1 ./internal/e2e # the race detector is too slow for all of its bytes
	$(MAKE) bench-once

# test-xen runs the tests with the build tag xen inside dom0 of a real Xen. Two
# machines run at once, as one leaves half of the time unused: one with the C
# xenstored, and one with the OCaml xenstored. What depends on xenstored runs on both;
# each test of realhost on one: the second has those in XEN_O_HOST, so that the two
# take about the same time and each sees domains come, go and be saved, daemons killed
# and channels plugged.
IN_DOM0 = $(GO) test -tags xen -ldflags '-s -w' -p 1 -count=1 -timeout 40m -exec '$(CURDIR)/bin/rigctl test -with $(CURDIR)/bin/xenchan -with $(CURDIR)/bin/xenchan-dm -with $(CURDIR)/bin/xenchan-guest'
XEN_ANY = ./channel/xlcfg/xlcfgtest/ ./internal/rig/xlguest/
XEN_O = ./xen/xendev/ ./internal/rig/realstore/ $(XEN_ANY)
XEN_O_HOST = ^Test(DeviceModel|DeviceModel_alone|Helper|Agent_qemuGA|Guest_udevAlone|Guest_systemd|Daemon_restartsUnnoticed|StockChannel_besideOurs|Libvirt|Config|Destroy_leavesNothing)$$
XEN_C = $(filter-out $(XEN_ANY),$(sort $(dir $(shell find . -name '*_xen_test.go'))))
REPORT = bin/testreport -v -prefix

test-xen: deps bin/xenchan bin/xenchan-dm bin/xenchan-guest bin/rigctl bin/testreport
	bin/rigctl build
	@rm -f .cache/test/xen-*.failed
	@$(MAKE) -j2 xen-c xen-o || { bin/testreport -show xen-c xen-o xen-o-host; exit 1; }

# The emulated processor now and then lets a PVH guest go on with the registers of Xen, and
# the guest ends (docs/real-xen.md). When Xen says so, and all that failed are tests of
# realhost, these run once more.
again = failed=.cache/test/$(1).failed; n=$$(sed -n 's/^$(1) failed: \([0-9]*\) times.*/\1/p' $$failed); \
  run=$$(sed -n 's,^--- FAIL: internal/rig/realhost \(Test[A-Za-z0-9_]*\).*,\1,p' $$failed); \
  [ "$$(echo $$run | wc -w)" = "$$n" ] && grep -q 'Triple fault' .cache/test/$(1).log && grep -q 'cs: e008' .cache/test/$(1).log && \
  $(REPORT) $(1) $(IN_DOM0) -json -run "^($$(echo $$run | tr ' ' '|'))$$" ./internal/rig/realhost/

xen-c:
	@$(REPORT) xen-c $(IN_DOM0) -json -skip '$(XEN_O_HOST)' $(XEN_C) || { $(call again,xen-c); }; status=$$?; bin/rigctl down; exit $$status

xen-o: export XENCHAN_RIG_XENSTORED = o
xen-o:
	@$(REPORT) xen-o-host $(IN_DOM0) -json -run '$(XEN_O_HOST)' ./internal/rig/realhost/ || { $(call again,xen-o-host); }; host=$$?; \
	  $(REPORT) xen-o $(IN_DOM0) -json -skip '^TestGuest$$' $(XEN_O); status=$$?; bin/rigctl down; exit $$((host | status))

# agent-xen asks the real guest agent on real Xen, and copies 8 MiB each way.
agent-xen: export XENCHAN_COPY = 8388608
agent-xen: deps bin/xenchan bin/xenchan-dm bin/xenchan-guest bin/rigctl
	$(IN_DOM0) -v -run '^TestAgent_qemuGA$$' ./internal/rig/realhost/; status=$$?; bin/rigctl down; exit $$status

# bench measures the embedded host: the parts, and then the whole beside a plain relay
# (docs/performance.md). About five minutes. benchstat compares two runs of the first half.
bench: bin/xenchan
	$(GO) test -run '^$$' -bench . -benchmem -benchtime 0.3s ./ring ./spool ./xen/... ./xenstore
	$(GO) run ./internal/bench -json bin/bench.json

# bench-xen compares the daemon, xenchan-dm and QEMU in one boot of real Xen: a table,
# and bin/bench-xen.json. Its times are worth something on a machine that does nothing
# else.
bench-xen: deps bin/xenchan bin/xenchan-dm bin/xenchan-guest bin/rigctl
	@$(IN_DOM0) -v -run '^TestBench$$' ./internal/rig/benchhost/ > bin/bench-xen.log 2>&1; \
	  status=$$?; bin/rigctl down; sed -n 's/^bench-xen: //p' bin/bench-xen.log > bin/bench-xen.json; \
	  grep -v '^bench-xen: ' bin/bench-xen.log; exit $$status

# bench-once keeps the benchmarks from rotting.
bench-once: bin/xenchan
	$(GO) test -run '^$$' -bench . -benchtime 1x $(PKGS) > /dev/null
	$(GO) run ./internal/bench -quick > /dev/null

# soak kills KILLS daemons while clients and guests talk, with 256 MiB each way for a
# thousand kills. It prints its seed; SEED= is that again. `make test` has 50 kills.
soak: KILLS ?= 1000
soak:
	KILLS=$(KILLS) SEED=$(SEED) $(GO) test -count=1 -v -timeout 60m -run '^TestSoak' ./internal/e2e

# leaks does what must leave nothing behind as often as a large host does in years:
# about ten minutes.
leaks:
	XENCHAN_ATTACHES=24000 XENCHAN_CLIENTS=100000 $(GO) test -count=1 -v -timeout 60m -run '^TestLeaks' ./internal/daemon

# hostile shows how long an innocent guest's echo takes beside each way to break the
# protocol, in a table.
hostile:
	XENCHAN_ECHOES=200 $(GO) test -count=1 -v -run '^TestHostile' ./internal/daemon

# fuzz runs every fuzz target of every package for FUZZTIME.
fuzz:
	@for p in $$($(GO) list $(PKGS)); do \
	  for f in $$($(GO) test -list '^Fuzz' $$p | grep '^Fuzz'); do \
	    echo "== $$p $$f"; $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 2s $$p || exit 1; \
	  done; \
	done

lint:
	$(GO) run $(GOLANGCI) run

cross:
	GOARCH=amd64 $(BUILD) -o bin/xenchan-amd64 ./cmd/xenchan
	GOARCH=arm64 $(BUILD) -o bin/xenchan-arm64 ./cmd/xenchan
	GOARCH=amd64 $(BUILD) -o bin/xenchan-guest-amd64 ./cmd/xenchan-guest
	GOARCH=arm64 $(BUILD) -o bin/xenchan-guest-arm64 ./cmd/xenchan-guest

# install puts what make has built, and what runs it at boot, below DESTDIR; see
# docs/install.md. A configuration that is there stays.
PREFIX ?= /usr/local
SYSCONFDIR ?= /etc
BINARY ?= bin/xenchan
DM ?= bin/xenchan-dm
install:
	@for f in $(BINARY) $(DM); do test -x $$f || { echo "$$f is missing: run make first" >&2; exit 1; }; done
	install -D -m 755 $(BINARY) $(DESTDIR)$(PREFIX)/bin/xenchan
	install -D -m 755 $(DM) $(DESTDIR)$(PREFIX)/bin/xenchan-dm
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system
	sed '/^ExecStart=/s|/usr/bin|$(PREFIX)/bin|; s|/etc/xenchan|$(SYSCONFDIR)/xenchan|' packaging/xenchan.service > $(DESTDIR)$(PREFIX)/lib/systemd/system/xenchan.service
	chmod 644 $(DESTDIR)$(PREFIX)/lib/systemd/system/xenchan.service
	install -D -m 644 packaging/xenchan.sysusers $(DESTDIR)$(PREFIX)/lib/sysusers.d/xenchan.conf
	install -D -m 644 packaging/xenchan.rules $(DESTDIR)$(PREFIX)/lib/udev/rules.d/60-xenchan.rules
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/doc/xenchan/examples examples/*.cfg
	@if [ -d bin/man ]; then install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/man/man1 bin/man/*.1; fi
	@test -e $(DESTDIR)$(SYSCONFDIR)/xenchan/xenchan.toml || \
	  install -D -m 644 packaging/xenchan.toml $(DESTDIR)$(SYSCONFDIR)/xenchan/xenchan.toml

# install-guest is install for the root file system of a guest.
GUEST_BINARY ?= bin/xenchan-guest
install-guest:
	@test -x $(GUEST_BINARY) || { echo "$(GUEST_BINARY) is missing: run make first" >&2; exit 1; }
	install -D -m 755 $(GUEST_BINARY) $(DESTDIR)$(PREFIX)/bin/xenchan-guest
	install -d $(DESTDIR)$(PREFIX)/lib/udev/rules.d $(DESTDIR)$(PREFIX)/lib/systemd/system
	sed 's|/usr/bin|$(PREFIX)/bin|' packaging/xenchan-guest.rules > $(DESTDIR)$(PREFIX)/lib/udev/rules.d/60-xenchan-guest.rules
	chmod 644 $(DESTDIR)$(PREFIX)/lib/udev/rules.d/60-xenchan-guest.rules
	for u in xenchan-guest xenchan-qemu-ga xenchan-config; do \
	  sed '/^ExecStart=/s|/usr/bin|$(PREFIX)/bin|' packaging/$$u.service > $(DESTDIR)$(PREFIX)/lib/systemd/system/$$u.service && \
	  chmod 644 $(DESTDIR)$(PREFIX)/lib/systemd/system/$$u.service || exit 1; \
	done

# man writes a manual page for each command; install takes them along.
man:
	$(GO) run ./internal/manpages bin/man

clean:
	rm -rf bin
