package main

// setup is one machine to prove things on.
type setup struct {
	name   string
	kernel string // of test/vm/kernel.sh
	what   string // for the table
	// cmdline chooses the security modules, modules are the kernel's that the tests need.
	cmdline []string
	// before runs in the machine ahead of the tests.
	before string
	// policy is SELinux's with Brig's module, as /brig/bin/policy.
	policy bool
	// as is put before a test's program.
	as []string
	// init is process 1, "" for the agent.
	init []string
	jobs []job
}

// job is one package's tests.
type job struct {
	pkg  string
	fast []string // the flags of CI's part; nil: not in it
	full []string // of test-vm-all
	slow bool     // not in CI
}

// Modules that Debian's cloud kernel has outside and a host loads when they are asked for, which a sandbox may not do; and a
// scheduler for disks.
var modules = []string{"loop", "veth", "ext4", "erofs", "overlay", "bfq"}

var setups = []*setup{
	{
		name: "apparmor", kernel: "6.1", what: "AppArmor, Landlock, cgroup v2 alone",
		cmdline: []string{"security=apparmor"},
		jobs:    append([]job{{pkg: "test/vm/apparmor", fast: []string{}}}, suites...),
	},
	{
		name: "selinux", kernel: "6.1", what: "SELinux enforcing, Landlock, cgroup v2 alone",
		cmdline: []string{"security=selinux", "selinux=1"},
		before:  enforce,
		policy:  true,
		as:      []string{"runcon", "unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023"},
		jobs:    append([]job{{pkg: "test/vm/selinux", fast: []string{"-test.short"}}}, suites...),
	},
	{
		name: "new", kernel: "6.12", what: "the newest kernel for Debian 12, AppArmor, no BPF LSM, cgroup v2 alone",
		cmdline: []string{"lsm=landlock,yama,apparmor"},
		// What of AppArmor is another on this kernel: it is asked about move_mount(2).
		jobs: append([]job{
			{pkg: "test/vm/apparmor", fast: []string{"-test.run", "TestProfileOfPolicy/movemount|TestLifeOfProfile|TestProgramsRun"}},
			{pkg: "test/vm/cgroup", slow: true},
		}, suites...),
	},
	systemd,
}

// systemd is a boot by it, for what it alone can do.
var systemd = &setup{
	name: "systemd", kernel: "6.1", what: "systemd as process 1, AppArmor, cgroup v2 alone",
	cmdline: []string{"security=apparmor", "systemd.getty_auto=0"},
	before:  "until [ -S /run/dbus/system_bus_socket ]; do sleep 0.2; done; systemctl is-system-running --wait || systemctl --failed",
	init:    []string{"/sbin/init"},
	jobs:    []job{{pkg: "test/vm/cgroup", fast: []string{"-test.short"}}},
}

// enforce loads the policy and gives labels to what has none yet: /tmp's disk, what is in memory, and the folder of programs, which
// is read-only and was mounted before there was a policy.
const enforce = `
mv /etc/selinux/default/policy/policy.33 /etc/selinux/default/policy/without-brig
cp /brig/bin/policy /etc/selinux/default/policy/policy.33
load_policy
restorecon /
restorecon -R /dev /run /tmp
disk=$(findmnt -no SOURCE /brig/bin)
umount /brig/bin
mount -o ro,context=system_u:object_r:bin_t:s0 "$disk" /brig/bin
setenforce 1
`

// suites run in every set-up. A test that needs what the set-up has not is skipped by testenv, and makes no row of the table.
var suites = []job{
	{pkg: "test/vm/landlock", fast: []string{}},
	{pkg: "test/vm/mac", fast: []string{}},
	{pkg: "test/vm/death", fast: []string{}},
	{pkg: "test/vm/gvisor", fast: []string{}},
	{pkg: "internal/launch", fast: []string{}},
	{pkg: "internal/cgroup", fast: []string{}},
	{pkg: "test/oci", fast: []string{"-test.run", "TestLifecycle|TestExec"}},
	{pkg: "test/attack", fast: []string{"-test.run", "^(TestAttacks|TestOldArchitecture)$/^(oom-score|CVE-2022-0492-cgroup|abstract-datagram-host|io-uring)$"}},
	{pkg: "test/script", slow: true},
	{pkg: "test/fault", slow: true},
	{pkg: "test/load", slow: true, full: []string{"-test.short"}}, // five hundred at once do not fit into the machine's memory
}
