#!/bin/bash
# Runs every fuzzer of the tree for the given time each, as many at once as there are processors. Each starts from the corpus that
# is kept in testdata/fuzz. More than 4 GiB of memory is a failure, as a panic or a hang is.
set -euo pipefail
cd "$(dirname "$0")/.."
export FUZZTIME=${1:-20s}
ulimit -d $((4 << 20))

one() {
  local dir=$1 name=$2 log
  log=$(mktemp)
  trap 'rm -f "$log"' EXIT
  if go test -run '^$' -fuzz "^$name\$" -fuzztime "$FUZZTIME" -fuzzminimizetime 2s -parallel 1 "./$dir" >"$log" 2>&1; then
    echo "== $dir $name: $(grep '^fuzz: elapsed' "$log" | tail -1)"
  else
    echo "== $dir $name: FAIL"
    cat "$log"
    return 1
  fi
}
export -f one

# shellcheck disable=SC2016 # the inner shell expands them
grep -r --include='*_test.go' -o '^func Fuzz[A-Za-z0-9_]*' internal | sed -E 's,/[^/]*:func , ,' | sort -u |
  xargs -P "$(nproc)" -L 1 bash -c 'one "$1" "$2"' fuzz
