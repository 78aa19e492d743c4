#!/bin/sh
# The first process of the guest: pivot_root(2) needs a root that is not the initramfs, so all of it moves to a tmpfs.
mount -t tmpfs -o size=600m,mode=755 root /tmp
cp -a /bin /sbin /lib /lib64 /usr /modules /guest.sh /tmp/ 2>/dev/null
cd /tmp && mkdir -p proc sys dev run tmp etc
exec switch_root /tmp /guest.sh
