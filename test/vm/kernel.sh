#!/bin/bash
# Unpacks one of Debian's kernels into build/vm/kernels/NAME, and installs nothing: kernel.sh 6.1|6.12. Prints the folder.
set -euo pipefail
top=$(cd "$(dirname "$0")/../.." && pwd)
case ${1:-} in
  6.1) meta=linux-image-cloud-amd64 ;;
  6.12) meta=linux-image-6.12-cloud-amd64 ;;
  *) echo "usage: kernel.sh 6.1|6.12" >&2; exit 2 ;;
esac
dir=$top/build/vm/kernels/$1
if [ ! -e "$dir/done" ]; then
  rm -rf "$dir"
  mkdir -p "$dir"
  apt-cache show "$meta" >/dev/null 2>&1 || apt-get -qq update >&2
  package=$(apt-cache depends "$meta" | sed -n 's/^ *Depends: \(linux-image-.*\)/\1/p' | head -n 1)
  [ -n "$package" ] || { echo "kernel.sh: apt knows no $meta: run apt-get update" >&2; exit 1; }
  (cd "$dir" && apt-get -qq -o APT::Sandbox::User=root download "$package") >&2
  dpkg-deb -x "$dir"/*.deb "$dir"
  rm "$dir"/*.deb
  depmod -b "$dir" "$(ls "$dir/lib/modules")"
  touch "$dir/done"
fi
echo "$dir"
