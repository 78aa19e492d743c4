#!/bin/bash
# Makes Debian's SELinux policy with Brig's module in it, beside one that has container-selinux's names: policy.sh GUEST.erofs. Prints the file. To build it takes ten seconds here and
# minutes in a guest under emulation. Needs root.
set -euo pipefail
top=$(cd "$(dirname "$0")/../.." && pwd)
image=$1
cil=$top/internal/mac/selinux/brig.cil
container=$top/test/vm/container.cil
policy=$top/build/vm/policy-$({ echo "$image"; cat "$cil" "$container"; } | sha256sum | cut -c 1-12)
if [ ! -e "$policy" ]; then
  work=$(mktemp -d "$top/build/vm/policy.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  # The mounts are of a namespace that ends with it.
  # shellcheck disable=SC2016 # the inner shell expands them
  unshare --mount --propagation private bash -euc '
    work=$1 image=$2
    shift 2
    mkdir "$work/lower" "$work/over" "$work/root"
    mount -t erofs -o ro,loop "$image" "$work/lower"
    mount -t tmpfs none "$work/over"
    mkdir "$work/over/upper" "$work/over/work"
    mount -t overlay -o "lowerdir=$work/lower,upperdir=$work/over/upper,workdir=$work/over/work" none "$work/root"
    cp "$@" "$work/root"
    chroot "$work/root" semodule -n -X 400 -i /brig.cil /container.cil 2>"$work/log" || { cat "$work/log" >&2; exit 1; }
    cp "$work"/root/etc/selinux/default/policy/policy.* "$work/policy"
  ' bash "$work" "$image" "$cil" "$container"
  mv "$work/policy" "$policy"
fi
echo "$policy"
