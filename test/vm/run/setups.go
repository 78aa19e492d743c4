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

// Modules that Debian's cloud kernel has outside and a host loads when they are asked for, which a sandbox may not do.
var modules = []string{"loop", "veth", "ext4"}

var setups = []*setup{
	{
		name: "apparmor", kernel: "6.1", what: "AppArmor, Landlock, cgroup v2 alone",
		cmdline: []string{"security=apparmor"},
		jobs:    suites,
	},
	{
		name: "selinux", kernel: "6.1", what: "SELinux enforcing, Landlock, cgroup v2 alone",
		cmdline: []string{"security=selinux", "selinux=1"},
		jobs:    suites,
	},
	{
		name: "new", kernel: "6.12", what: "the newest kernel for Debian 12, no AppArmor or SELinux, cgroup v2 alone",
		cmdline: []string{"lsm=landlock,yama,bpf"},
		jobs:    suites,
	},
}

// suites run in every set-up. A test that needs what the set-up has not is skipped by testenv, and makes no row of the table.
var suites = []job{
	{pkg: "internal/landlock", fast: []string{}},
	{pkg: "internal/launch", fast: []string{}},
	{pkg: "internal/cgroup", fast: []string{}},
	{pkg: "test/oci", fast: []string{"-test.run", "TestLifecycle|TestExec"}},
	{pkg: "test/attack", slow: true},
	{pkg: "test/script", slow: true},
}
