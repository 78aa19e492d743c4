#!/bin/bash
# Builds the tree in two folders of different names and compares the binaries byte for byte.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for name in one another; do
  mkdir "$work/$name"
  git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' f; do
    if [ -e "$f" ]; then printf '%s\0' "$f"; fi
  done | tar -c --null -T - | tar -x -C "$work/$name"
  make -s -C "$work/$name" build
done
for f in "$work"/one/bin/*; do
  cmp "$f" "$work/another/bin/$(basename "$f")"
done
echo "reproducible: $(cd "$work/one/bin" && sha256sum ./* | tr '\n' ' ')"
