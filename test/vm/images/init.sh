#!/bin/sh
# The first process of the guest. Its last line says how it went.
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in /modules/*; do insmod "$module"; done
uname -r
mount -t ext4 -o loop /ext4 /mnt || exit 1
mkdir /mnt/tmp
result=failed
# The two tests of the kernel's own fs-verity must not end with "has none".
TMPDIR=/tmp erofs.test -test.v -test.parallel 2 -test.run 'TestKernel|TestLarge|TestSparse|TestGolden' &&
	TMPDIR=/mnt/tmp fsverity.test -test.v -test.run 'TestKernel|TestShort' >/tmp/fsverity.log 2>&1 &&
	! grep -q 'has no fs-verity' /tmp/fsverity.log &&
	TMPDIR=/mnt/tmp BRIG_TEST_DISK=/ext4 image.test -test.v -test.run 'TestVerity|TestUse|TestLoop|TestPrunePastDamage' >/tmp/image.log 2>&1 &&
	grep -q '^--- PASS: TestVerity' /tmp/image.log && result=passed
cat /tmp/image.log
cat /tmp/fsverity.log
dmesg | grep -i erofs | grep -vi mounted
echo "images test: $result"
poweroff -f
