#!/bin/sh
# Boots a virtual machine under software emulation and has its kernel, which is older than those that mount a file without a loop
# device, judge the images that are written; and has it measure fs-verity, which the machine that tests Brig may not have, and
# hold a store to it. The guest is Debian's kernel and an initramfs of busybox-static and the tests of three packages. It takes a minute.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../../.." && pwd)
work=$top/build/images
mkdir -p "$work"

missing=
command -v qemu-system-x86_64 >/dev/null || missing="$missing qemu-system-x86"
command -v cpio >/dev/null || missing="$missing cpio"
command -v kmod >/dev/null || missing="$missing kmod"
command -v mkfs.ext4 >/dev/null || missing="$missing e2fsprogs"
[ -e /usr/bin/busybox ] || missing="$missing busybox-static"
if [ -n "$missing" ]; then
	# shellcheck disable=SC2086 # a list of packages
	DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing
fi

# The kernel, unpacked and not installed.
if [ ! -e "$work/kernel/done" ]; then
	rm -rf "$work/kernel"
	mkdir -p "$work/kernel"
	package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-.*\)/\1/p' | head -n 1)
	(cd "$work/kernel" && apt-get -o APT::Sandbox::User=root download "$package")
	dpkg-deb -x "$work"/kernel/*.deb "$work/kernel"
	depmod -b "$work/kernel" "$(ls "$work/kernel/lib/modules")"
	touch "$work/kernel/done"
fi
kernel=$(echo "$work"/kernel/boot/vmlinuz-*)
version=${kernel##*/vmlinuz-}

root=$work/root
rm -rf "$root"
mkdir -p "$root/bin" "$root/proc" "$root/sys" "$root/dev" "$root/tmp" "$root/modules" "$root/mnt"
cp /usr/bin/busybox "$root/bin/busybox"
ln -s busybox "$root/bin/sh"
for package in erofs fsverity; do
	(cd "$top" && CGO_ENABLED=0 go test -c -o "$root/bin/$package.test" "./internal/$package")
done
(cd "$top" && CGO_ENABLED=0 go test -tags vm -c -o "$root/bin/image.test" ./internal/image)
for name in loop erofs; do
	modprobe -d "$work/kernel" -S "$version" --show-depends "$name"
done | sed -n 's/^insmod //p' | awk '!seen[$1]++ {print $1}' >"$work/modules"
n=100
while read -r module; do
	n=$((n + 1))
	cp "$module" "$root/modules/$n-$(basename "$module")"
done <"$work/modules"
truncate -s 128M "$root/ext4"
mkfs.ext4 -q -b 4096 -O verity "$root/ext4"
cp "$here/init.sh" "$root/init"
chmod 755 "$root/init"
(cd "$root" && find . | cpio -o -H newc --quiet | gzip -1) >"$work/initramfs"

log=$work/console.log
timeout "${BRIG_VM_TIMEOUT:-400}" qemu-system-x86_64 -accel tcg,thread=multi -M q35 -smp 2 -m 1536 -cpu max,la57=off \
	-kernel "$kernel" -initrd "$work/initramfs" -append "console=ttyS0 panic=-1 quiet" \
	-display none -serial stdio -monitor none -nic none -no-reboot </dev/null | tee "$log"
grep -q '^images test: passed' "$log"
