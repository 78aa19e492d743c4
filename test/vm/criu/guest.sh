#!/bin/sh
# The test, as process 1 of the guest.
/bin/busybox mkdir -p /usr/bin
/bin/busybox --install -s /usr/bin
export PATH=/sbin:/bin:/usr/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs run /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ip link set lo up
for m in /modules/*; do insmod "$m"; done
mkdir -p /etc/criu
echo "network-lock nftables" >/etc/criu/default.conf

failed=0
say() { echo "criu test: $*"; }
fail() {
	say "FAILED: $*"
	failed=1
}
# ok WHAT COMMAND...: the command succeeds.
ok() {
	what=$1
	shift
	if timeout 60 "$@" >/tmp/said 2>&1; then say "ok: $what"; else
		fail "$what: $(cat /tmp/said)"
		for l in /img*/*.log; do grep -B3 Error "$l"; done
	fi
}
# refused WHAT TEXT COMMAND...: it fails, and says the text.
refused() {
	what=$1 text=$2
	shift 2
	if "$@" >/tmp/said 2>&1; then fail "$what: it succeeds"; else
		if grep -q -- "$text" /tmp/said; then say "ok: $what"; else fail "$what: $(cat /tmp/said)"; fi
	fi
}
# above WHAT N: the counter gets beyond N within some seconds, and goes on from there instead of from the beginning.
above() {
	i=0
	while [ $i -lt 60 ]; do
		now=$(cat /data/n 2>/dev/null)
		if [ "${now:-0}" -gt "$2" ]; then
			say "ok: $1 ($2, then $now)"
			return
		fi
		usleep 100000
		i=$((i + 1))
	done
	fail "$1: it is at ${now:-nothing}, and was at $2"
}
status() { brig-oci state "$1" 2>/dev/null | sed -n 's/.*"status": "\(.*\)".*/\1/p'; }
pid() { brig-oci state "$1" | sed -n 's/.*"pid": \(.*\),/\1/p'; }
same() { if [ "$2" = "$3" ]; then say "ok: $1"; else fail "$1: $2, and not $3"; fi; }

mkdir -p /b/rootfs/bin /data
cp /bin/busybox /bin/counter /b/rootfs/bin/
cd /b || exit
mkdir rootfs/data rootfs/ro rootfs/proc rootfs/sys rootfs/dev
brig-oci spec
sed -i -e 's/"terminal": true/"terminal": false/' -e 's#"sh"#"/bin/counter", "/data/n"#' \
	-e 's#"mounts": \[#"mounts": [{"destination":"/data","type":"bind","source":"/data","options":["bind","rw"]},{"destination":"/ro","type":"bind","source":"/data","options":["bind","ro"]},#' \
	-e 's#"linux": {#"linux": {"seccomp":{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["reboot"],"action":"SCMP_ACT_ERRNO"}]},#' config.json

say "criu $(criu --version | head -n 1), kernel $(uname -r)"
ok "criu check" criu check

# Pipes for output, and the host's /dev/null for input.
run() {
	rm -f /data/n
	brig-oci run -d "$1" </dev/null 2>&1 | cat >"/out.$1" &
}
restore() { # IMAGES ID
	(timeout 60 brig-oci restore -d --image-path "$1" --empty-ns network --pid-file /pid "$2" </dev/null 2>&1; echo "exit $?" >/tmp/exit) | cat >"/out.$2" &
	i=0
	while [ ! -e /tmp/exit ] && [ $i -lt 600 ]; do
		usleep 100000
		i=$((i + 1))
	done
	same "restore $2" "$(cat /tmp/exit)" "exit 0"
	grep -q "exit 0" /tmp/exit || { cat "/out.$2"; grep -B3 Error "$1"/restore.log; }
	rm -f /tmp/exit
}

run c
above "the counter counts" 5
ok "checkpoint --leave-running" brig-oci checkpoint --leave-running --image-path /img1 --empty-ns network c
same "it runs still" "$(status c)" running
above "it counts still" "$(cat /data/n)"
ok "checkpoint" brig-oci checkpoint --image-path /img2 --empty-ns network c
same "it is gone" "$(status c)" ""
n=$(cat /data/n)
usleep 500000
same "it does not count" "$(cat /data/n)" "$n"

restore /img2 c
same "it runs again" "$(status c)" running
above "the counter goes on" "$n"
same "with its output" "$(head -n 1 /out.c)" $((n + 1))
same "pid file" "$(cat /pid)" "$(pid c)"
same "its cgroup" "$(cat /proc/"$(pid c)"/cgroup)" "0::/brig/c"
same "seccomp" "$(grep Seccomp: /proc/"$(pid c)"/status)" "$(printf 'Seccomp:\t2')"
same "no new privileges" "$(grep NoNewPrivs /proc/"$(pid c)"/status)" "$(printf 'NoNewPrivs:\t1')"
refused "the root is read-only" "Read-only file system" brig-oci exec c /bin/busybox touch /x
refused "a bind mount is read-only" "Read-only file system" brig-oci exec c /bin/busybox touch /ro/x
same "a mask" "$(brig-oci exec c /bin/busybox cat /proc/keys)" ""
same "no mount is left" "$(grep -c brig-oci /proc/mounts)" 0

ok "pause" brig-oci pause c
ok "checkpoint of a paused container" brig-oci checkpoint --image-path /img3 --empty-ns network c
n=$(cat /data/n)
restore /img3 d
above "the counter goes on under another id" "$n"
same "its cgroup" "$(cat /proc/"$(pid d)"/cgroup)" "0::/brig/d"
ok "delete" brig-oci delete --force d

# What the images hold may not be weaker than the configuration.
cp config.json config.keep
sed -i 's/"CAP_KILL",//' config.json
refused "more capabilities than config.json has" "CAP_KILL" brig-oci restore -d --image-path /img3 --empty-ns network e </dev/null
same "nothing is left of it" "$(status e)$(ls -d /sys/fs/cgroup/brig/e /run/brig-oci/e 2>/dev/null)" ""
same "no counter runs" "$(pidof counter)" ""
cp config.keep config.json

# In two parts; with hooks, which make the network; in the foreground, with the program's exit code.
sed -i 's#"linux": {#"hooks": {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", "cat >/hooked"]}]}, "linux": {#' config.json
run f
above "the counter of f counts" 3
ok "checkpoint --pre-dump" brig-oci checkpoint --pre-dump --image-path /img4 --empty-ns network f
same "it runs still" "$(status f)" running
ok "checkpoint --parent-path" brig-oci checkpoint --parent-path ../img4 --image-path /img5 --empty-ns network f
n=$(cat /data/n)
rm -f /hooked
(timeout 120 brig-oci restore --image-path /img5 --empty-ns network f >/out.f 2>&1 </dev/null; echo "exit $?" >/tmp/exit) &
above "the counter goes on in the foreground" "$n"
same "with its output in a file" "$(head -n 1 /out.f)" $((n + 1))
same "the hook has the process" "$(sed -n 's/.*"pid":\([0-9]*\).*/\1/p' /hooked)" "$(pid f)"
ok "kill" brig-oci kill f KILL
wait $!
same "the exit code" "$(cat /tmp/exit)" "exit 137"
same "it is deleted" "$(status f)" ""
rm -f /tmp/exit
sed -i 's#"createRuntime": .*"cat >/hooked"\]}\]#"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", "exit 9"]}]#' config.json
refused "a hook that fails" "createRuntime hook #0" brig-oci restore -d --image-path /img5 --empty-ns network f </dev/null
same "nothing is left of it" "$(status f)$(ls -d /sys/fs/cgroup/brig/f /run/brig-oci/f 2>/dev/null)$(pidof counter)" ""

# A network namespace that is joined, a terminal, and a root file system as engines make it.
mkdir -p /ov/upper /ov/work /ov/root
mount -t overlay -o lowerdir=/b/rootfs,upperdir=/ov/upper,workdir=/ov/work overlay /ov/root
sed -e 's/"terminal": false/"terminal": true/' -e 's#"path": "rootfs"#"path": "/ov/root"#' config.keep >config.json
unshare -n sleep 1000 &
holder=$!
usleep 500000
sed -i 's#"type": "network"#"type": "network", "path": "/proc/'$holder'/ns/net"#' config.json
rm -f /data/n
brig-oci run t </dev/null >/out.t 2>&1 &
above "the counter of t counts" 3
ok "checkpoint with a terminal" brig-oci checkpoint --image-path /img6 t
n=$(cat /data/n)
brig-oci restore --image-path /img6 t </dev/null >/out.t2 2>&1 &
above "the counter goes on in a terminal" "$n"
same "with its output" "$(grep -m 1 "^[0-9]" /out.t2 | tr -d '\r')" $((n + 1))
same "in the network namespace" "$(readlink /proc/"$(pid t)"/ns/net)" "$(readlink /proc/$holder/ns/net)"
ok "delete" brig-oci delete --force t

# What could not come back.
sed '/"namespaces": \[/{n;N;N;d}' config.keep >config.json
run p
above "the counter of p counts" 3
refused "a container without a pid namespace" "linux.namespaces without pid" brig-oci checkpoint --image-path /img7 p
same "it runs still" "$(status p)" running
ok "delete" brig-oci delete --force p
ln -s /data /b/rootfs/link
sed 's#"mounts": \[#"mounts": [{"destination":"/link","type":"tmpfs","source":"tmpfs"},#' config.keep >config.json
sed -i 's#/data/n"#/n"#; s/"readonly": true/"readonly": false/' config.json
run l
i=0
while [ "$(status l)" != running ] && [ $i -lt 100 ]; do
	usleep 100000
	i=$((i + 1))
done
refused "a mount behind a link" "nothing is mounted on /link" brig-oci checkpoint --image-path /img8 l
same "it runs still" "$(status l)" running
ok "delete" brig-oci delete --force l
if [ $failed = 0 ]; then say passed; fi
sync
poweroff -f
