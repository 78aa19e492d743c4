#!/bin/bash
# Runs every fuzzer of the tree for the given time each.
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:-20s}
grep -rl --include='*_test.go' '^func Fuzz' internal | while read -r file; do
  grep -o '^func Fuzz[A-Za-z0-9_]*' "$file" | sed 's/^func //' | while read -r name; do
    echo "== $name in $(dirname "$file")"
    go test -run '^$' -fuzz "^$name\$" -fuzztime "$time" "./$(dirname "$file")"
  done
done
