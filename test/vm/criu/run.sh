#!/bin/sh
# Boots a virtual machine under software emulation and proves checkpoint and restore in it: CRIU works with the kernel that it is
# packaged with, and the machine that tests Brig may have a newer one. The guest is Debian's kernel and an initramfs of
# busybox-static, criu with its libraries, and brig-oci. It takes a minute or two.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../../.." && pwd)
work=$top/build/criu
mkdir -p "$work"

missing=
command -v qemu-system-x86_64 >/dev/null || missing="$missing qemu-system-x86"
command -v criu >/dev/null || missing="$missing criu"
command -v cpio >/dev/null || missing="$missing cpio"
command -v kmod >/dev/null || missing="$missing kmod"
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

(cd "$top" && CGO_ENABLED=0 go build -trimpath -o "$work/brig-oci" ./cmd/brig-oci)
(cd "$here" && CGO_ENABLED=0 go build -trimpath -o "$work/counter" ./counter)

root=$work/root
rm -rf "$root"
mkdir -p "$root/bin" "$root/sbin" "$root/lib64" "$root/proc" "$root/sys" "$root/dev" "$root/run" "$root/tmp" "$root/modules"
cp /usr/bin/busybox "$root/bin/busybox"
for name in sh mount umount mkdir cp ls cat switch_root; do ln -s busybox "$root/bin/$name"; done
cp "$work/brig-oci" "$work/counter" "$root/bin/"
# criu packs what is in a tmpfs with tar.
for program in criu tar; do
	cp "$(command -v $program)" "$root/sbin/"
	ldd "$(command -v $program)" | sed -n 's/.*[ \t]\(\/[^ ]*\) (.*/\1/p' | while read -r lib; do
		mkdir -p "$root$(dirname "$lib")"
		cp -L "$lib" "$root$lib"
	done
done
# What criu asks the kernel about sockets with, and the file system that engines use.
for name in inet_diag tcp_diag udp_diag unix_diag netlink_diag af_packet_diag overlay tun veth nf_tables nf_conntrack_netlink; do
	modprobe -d "$work/kernel" -S "$version" --show-depends "$name" 2>/dev/null || true
done | sed -n 's/^insmod //p' | awk '!seen[$1]++ {print $1}' >"$work/modules"
n=100
while read -r module; do
	n=$((n + 1))
	cp "$module" "$root/modules/$n-$(basename "$module")"
done <"$work/modules"
cp "$here/init.sh" "$root/init"
cp "$here/guest.sh" "$root/guest.sh"
chmod 755 "$root/init" "$root/guest.sh"
(cd "$root" && find . | cpio -o -H newc --quiet | gzip -1) >"$work/initramfs"

log=$work/console.log
timeout "${BRIG_CRIU_TIMEOUT:-400}" qemu-system-x86_64 -accel tcg,thread=multi -M q35 -smp 2 -m 1024 -cpu max,la57=off \
	-kernel "$kernel" -initrd "$work/initramfs" -append "console=ttyS0 panic=-1 quiet" \
	-display none -serial stdio -monitor none -nic none -no-reboot </dev/null | tee "$log"
grep -q '^criu test: passed' "$log"
