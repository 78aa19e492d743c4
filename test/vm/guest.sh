#!/bin/bash
# Makes the root file system of the guests: Debian 12 with what the suites and the security modules need, as one EROFS image.
# Prints its name. It is made again when this file or guest.cil changes. About a minute.
set -euo pipefail
top=$(cd "$(dirname "$0")/../.." && pwd)
packages=(
  apparmor                                    # the parser of profiles
  policycoreutils selinux-policy-default selinux-utils attr # SELinux: the policy is built by its package
  systemd systemd-sysv libpam-systemd dbus    # a boot by systemd
  busybox-static iproute2 kmod procps util-linux e2fsprogs uidmap
  curl gcc git libc6-dev make nodejs openssl perl python3 xz-utils # what the suites' scripts run
)
mirror=$(sed -nE 's,^(URIs: |deb )(http://[^ ]*/debian)/? ?.*,\2,p' /etc/apt/sources.list /etc/apt/sources.list.d/*.sources 2>/dev/null | head -n 1 || true)
dir=$top/build/vm
module=$top/test/vm/guest.cil
image=$dir/guest-$(cat "$0" "$module" | sha256sum | cut -c 1-12).erofs
if [ ! -e "$image" ]; then
  mkdir -p "$dir"
  find "$dir" -name 'guest-*.erofs' -mtime +1 -delete # of other recipes
  work=$(mktemp -d "$dir/root.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  debootstrap --variant=minbase --include="$(IFS=,; echo "${packages[*]}")" bookworm "$work/root" "$mirror" >"$work/log" 2>&1 ||
    { tail -20 "$work/log" >&2; exit 1; }
  rm -rf "$work"/root/var/cache/apt/archives/*.deb "$work"/root/var/lib/apt/lists/* "$work"/root/usr/share/{doc,man,locale}
  inside() { # the tools of SELinux want /proc
    unshare --mount --pid --fork --mount-proc="$work/root/proc" chroot "$work/root" "$@" >>"$work/log" 2>&1 ||
      { tail -20 "$work/log" >&2; exit 1; }
  }
  echo '127.0.0.1 localhost' >"$work/root/etc/hosts"
  cp "$module" "$work/root/root/"
  inside semodule -s default -n -i /root/guest.cil
  # SELinux has its labels from the files, and the host that writes them need not have SELinux.
  inside setfiles -F -e /proc /etc/selinux/default/contexts/files/file_contexts /
  mkfs.erofs --quiet "$image.new" "$work/root" >"$work/log" 2>&1 || { tail -20 "$work/log" >&2; exit 1; }
  mv "$image.new" "$image"
fi
echo "$image"
