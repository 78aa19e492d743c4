# The targets that people use: build, test, bench, fuzz, lint, doc. See README.md.

GO ?= go
VERSION ?= 0.1.0-dev
BUILD = CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '-s -w -buildid= -X brig/internal/version.Version=$(VERSION)'
LINT = $(GO) tool -modfile=tools/go.mod golangci-lint
ARCHES = amd64 arm64 riscv64 arm
FUZZTIME ?= 20s
KILLS = ^Test(Warm|Checkpoint|RunInTheForeground|RunWithATerminalAndInit|Detached|DetachedTwice|Exec|Remove|EachProcess|AProcessIsStopped|BrigIsKilledWhileItRuns|OCI(Create|Run|Start|Exec|Delete|StandIn|ExecStandIn)Killed|OCIAProcessIsStopped)$$/^(plain|stopped|paused|.+,_(KILL|TERM|delete))?$$

.PHONY: build gvisor test-gvisor test-kills build-all reproducible setup test unit race judge lint fuzz bench doc ci clean test-criu test-images test-vm test-vm-ci test-vm-doc test-vm-all test-isolation test-isolation-doc

build: ## the binaries, static, into bin/
	$(BUILD) -o bin/ ./cmd/...

# The release of gVisor that gvisor/go.mod pins: a checkpoint names it, and only its like restores it.
GVISOR = $(shell cd gvisor && $(GO) list -m -f '{{.Version}}' gvisor.dev/gvisor)

gvisor: ## brig-gvisor, for --isolation gvisor, into bin/ (two minutes the first time)
	cd gvisor && CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '-s -w -buildid= -X gvisor.dev/gvisor/runsc/version.version=$(GVISOR)' -o ../bin/brig-gvisor .

test-gvisor: ## the tests of brig-gvisor itself: its kernel, file server, checkpoints, pods, network, warm starts
	cd gvisor && CGO_ENABLED=0 $(GO) test -timeout 10m ./...

test-isolation: ## suites under --isolation gvisor beside native, held against the differences in the docs
	BRIG_TEST_STRICT=1 $(GO) run ./test/isolation -page docs/differences-gvisor.md

test-kills: ## kill brig at each point, each process of a sandbox, and have many at once, under --isolation gvisor
	BRIG_TEST_ISOLATION=gvisor BRIG_TEST_STRICT=1 $(GO) test -timeout 10m -count=1 -tags faults -run '$(KILLS)' ./test/fault
	BRIG_TEST_ISOLATION=gvisor BRIG_TEST_STRICT=1 $(GO) test -timeout 10m -count=1 ./test/load

test-isolation-doc: ## write that page
	$(GO) run ./test/isolation -page docs/differences-gvisor.md -write

build-all: ## every architecture
	for a in $(ARCHES); do GOARCH=$$a $(BUILD) -o build/$$a/ ./cmd/... || exit 1; done

reproducible: ## two builds from two folders are one
	scripts/reproducible.sh

setup: ## what the tests need (apt, as root)
	scripts/setup.sh

unit: ## tests that need neither root nor packages skip the rest
	$(GO) test -timeout 10m ./...

test: setup build ## everything that CI proves
	mkdir -p build
	test/vm/kernel.sh 6.1
	$(GO) run ./test/clean snapshot build/before.json
	BRIG_TEST_STRICT=1 $(GO) test -timeout 20m ./...
	cat build/validation.txt
	BRIG_TEST_STRICT=1 $(GO) test -timeout 20m -count=1 -tags faults ./test/fault ./internal/image
	$(MAKE) test-kills
	BRIG_TEST_STRICT=1 $(GO) test -timeout 20m -count=1 -tags fallback ./test/fallback
	$(GO) test -timeout 10m -tags libseccomp ./internal/seccomp/judge
	cd gvisor && CGO_ENABLED=0 BRIG_TEST_STRICT=1 $(GO) test -timeout 10m ./...
	BRIG_TEST_STRICT=1 $(GO) run ./test/isolation -native=false -page docs/differences-gvisor.md
	$(GO) run ./test/vm/run -ci -table docs/layers.md
	$(GO) run ./test/clean check build/before.json

test-criu: ## checkpoint and restore, in a virtual machine whose kernel CRIU works with
	test/vm/criu/run.sh

test-images: ## images and fs-verity, judged by the kernel of a virtual machine
	test/vm/images/run.sh

test-vm: ## tests in a virtual machine: make test-vm SETUP=apparmor|selinux|new|systemd ARGS='test/oci -test.run TestLifecycle'
	$(GO) run ./test/vm/run $(if $(SETUP),-setup $(SETUP)) $(ARGS)

test-vm-ci: ## the fast part in every set-up, held against the table in the docs
	$(GO) run ./test/vm/run -ci -table docs/layers.md

test-vm-doc: ## write that table
	$(GO) run ./test/vm/run -ci -table docs/layers.md -write

test-vm-all: ## every suite in every set-up
	$(GO) run ./test/vm/run

race: ## the race detector where it applies
	$(GO) test -race -timeout 20m ./internal/...

lint: ## gofmt, vet, staticcheck and the rest of .golangci.yml
	test -z "$$(gofmt -l .)" || { gofmt -l .; exit 1; }
	$(GO) vet ./...
	$(LINT) run ./...
	cd gvisor && CGO_ENABLED=0 $(GO) tool -modfile=../tools/go.mod golangci-lint run --config ../.golangci.yml ./...
	shellcheck scripts/*.sh test/vm/*.sh test/vm/*/*.sh .ci/run

fuzz: ## every fuzzer for FUZZTIME
	scripts/fuzz.sh $(FUZZTIME)

bench: setup build ## Brig beside bubblewrap, crun and runc; writes docs/bench
	$(GO) run ./test/bench

doc: ## man pages, completions and the policy reference
	$(GO) generate ./internal/policy
	$(GO) run ./internal/cli/gendoc docs

ci: FUZZTIME = 20s
ci: lint test race build-all reproducible fuzz

clean:
	rm -rf bin build dist
