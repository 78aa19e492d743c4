# Targets for people: build, test, ci. See README.md.

GO ?= go

.PHONY: build test ci
build:
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '-s -w -buildid=' -o bin/ ./cmd/...

test:
	$(GO) test -timeout 10m ./...

ci:
	$(GO) vet ./...
	$(GO) test -timeout 20m ./...
