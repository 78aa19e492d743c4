// Package policy says what a sandbox may do in a person's terms, and turns that into a spec.
//
// Its place on the road: flags, a policy file and a preset are merged here, contradictions are refused with the line
// that made them, and Spec writes the OCI spec that everything below works from.
package policy

// Policy is what a sandbox may do: the document of `brig run --policy`. Everything that is not set comes from the
// preset.
type Policy struct {
	Version   int    `json:"version,omitempty" yaml:"version,omitempty" jsonschema:"enum=1" jsonschema_description:"Version of this format: 1."`
	Preset    string `json:"preset,omitempty" yaml:"preset,omitempty" jsonschema:"enum=default,enum=strict,enum=compat" jsonschema_description:"What everything else is measured from. default: every layer on, real programs run. strict: smaller filter, hidden /sys, Landlock without write anywhere. compat: Docker's default filter and capabilities, for programs that break."`
	Isolation string `json:"isolation,omitempty" yaml:"isolation,omitempty" jsonschema:"enum=native,enum=gvisor" jsonschema_description:"Which kernel serves the system calls. native: the host's, filtered; gvisor: one in user space, behind the same layers."`

	Image       string   `json:"image,omitempty" yaml:"image,omitempty" jsonschema_description:"The container image that is the root file system: alpine:3.22, registry.example/team/app@sha256:…. It is never written to; its environment, user, working directory and program hold where the policy says nothing else."`
	Pull        string   `json:"pull,omitempty" yaml:"pull,omitempty" jsonschema:"enum=missing,enum=always,enum=never" jsonschema_description:"When the image is fetched from its registry: missing (the default), always, never."`
	Platform    string   `json:"platform,omitempty" yaml:"platform,omitempty" jsonschema_description:"Which of an image's platforms, as OS/ARCH[/VARIANT]. The machine's own by default."`
	Verify      []string `json:"verify,omitempty" yaml:"verify,omitempty" jsonschema_description:"Files of public keys: the image must have a signature of one of them."`
	VerifyImage string   `json:"verifyImage,omitempty" yaml:"verifyImage,omitempty" jsonschema:"enum=always,enum=changed" jsonschema_description:"When the whole image is held against its digest: changed (the default), if size, inode or times of its file are not what they were, or always."`

	Root       *Root    `json:"root,omitempty" yaml:"root,omitempty" jsonschema_description:"The root file system. Without one and without an image: a read-only view of the host's programs, and nothing else of the host."`
	Entrypoint []string `json:"entrypoint,omitempty" yaml:"entrypoint,omitzero" jsonschema_description:"Words that go before args. An empty list undoes the image's."`
	Args       []string `json:"args,omitempty" yaml:"args,omitempty" jsonschema_description:"The program and its arguments."`
	Env        []string `json:"env,omitempty" yaml:"env,omitempty" jsonschema_description:"Environment variables, KEY=VALUE. The host's environment is never passed on."`
	Workdir    string   `json:"workdir,omitempty" yaml:"workdir,omitempty" jsonschema_description:"Working directory inside."`
	User       string   `json:"user,omitempty" yaml:"user,omitempty" jsonschema_description:"User inside, as UID[:GID] or NAME[:GROUP] of the root file system. Whoever it is, outside it is nobody."`
	Hostname   string   `json:"hostname,omitempty" yaml:"hostname,omitempty" jsonschema_description:"Host name inside."`
	Terminal   *bool    `json:"terminal,omitempty" yaml:"terminal,omitempty" jsonschema_description:"A terminal of the sandbox's own."`
	Init       *bool    `json:"init,omitempty" yaml:"init,omitempty" jsonschema_description:"A process at pid 1 that reaps orphans and forwards signals."`

	Mounts  []Mount  `json:"mounts,omitempty" yaml:"mounts,omitempty" jsonschema_description:"What of the host is visible inside, and where."`
	Devices []string `json:"devices,omitempty" yaml:"devices,omitempty" jsonschema_description:"Device nodes of the host, as PATH[:PATH INSIDE][:rwm]."`

	Capabilities  *Capabilities `json:"capabilities,omitempty" yaml:"capabilities,omitempty" jsonschema_description:"Capabilities inside the user namespace. None by default."`
	Seccomp       string        `json:"seccomp,omitempty" yaml:"seccomp,omitempty" jsonschema_description:"System-call filter: default, strict, compat, unconfined, or the path of a profile in Docker's or the OCI format."`
	Landlock      *Landlock     `json:"landlock,omitempty" yaml:"landlock,omitempty" jsonschema_description:"File, TCP and scope rules of the kernel's Landlock."`
	AppArmor      string        `json:"apparmor,omitempty" yaml:"apparmor,omitempty" jsonschema_description:"auto: a profile written from this policy where the host has AppArmor. unconfined, or the name of a loaded profile."`
	SELinux       string        `json:"selinux,omitempty" yaml:"selinux,omitempty" jsonschema_description:"auto: a label of a domain of Brig's own, with categories that no other sandbox has, where the host has SELinux: brig_t, which has no sockets but Unix ones, with the strict filter, else brig_net_t. One of the two names: that one. unconfined: none. Or an SELinux process label."`
	NoNewPrograms *bool         `json:"noNewPrograms,omitempty" yaml:"noNewPrograms,omitempty" jsonschema_description:"The program may execute no other: every later execve fails."`

	Network    string            `json:"network,omitempty" yaml:"network,omitempty" jsonschema:"enum=none,enum=host" jsonschema_description:"none: a network of its own with nothing but loopback. host: the host's network; before Linux 6.12 without Unix sockets, for its abstract ones would be open."`
	Namespaces *Namespaces       `json:"namespaces,omitempty" yaml:"namespaces,omitempty" jsonschema_description:"Namespaces beside those that every sandbox has."`
	Sysctls    map[string]string `json:"sysctls,omitempty" yaml:"sysctls,omitempty" jsonschema_description:"Sysctls of the sandbox's own namespaces."`

	Limits      *Limits           `json:"limits,omitempty" yaml:"limits,omitempty" jsonschema_description:"What the sandbox may use up."`
	StopTimeout string            `json:"stopTimeout,omitempty" yaml:"stopTimeout,omitempty" jsonschema_description:"How long stop waits between SIGTERM and SIGKILL: 10s."`
	Labels      map[string]string `json:"labels,omitempty" yaml:"labels,omitempty" jsonschema_description:"Words of your own that ps and inspect show."`

	AllowMissing []string `json:"allowMissing,omitempty" yaml:"allowMissing,omitempty" jsonschema_description:"Layers that may be absent where the host cannot give them. What is missing stands in inspect."`
}

// Root is the root file system.
type Root struct {
	Path     string `json:"path,omitempty" yaml:"path,omitempty" jsonschema_description:"A folder."`
	ReadOnly *bool  `json:"readOnly,omitempty" yaml:"readOnly,omitempty" jsonschema_description:"true by default, unless writable says where it goes what is written."`
	// Writable and WritableSize are of the place that is laid over the root. With one of them it is not read-only.
	Writable     string `json:"writable,omitempty" yaml:"writable,omitempty" jsonschema:"enum=ram,enum=disk" jsonschema_description:"Where it goes what is written to the root: ram (the default with an image) or disk. Image and folder stay as they are, and what was written ends with the sandbox. A folder without this is written to itself."`
	WritableSize string `json:"writableSize,omitempty" yaml:"writableSize,omitempty" jsonschema_description:"How much may be written there: 256m, 4g. 1g by default."`
}

// Mount is one thing of the host that is visible inside, or a file system in RAM.
type Mount struct {
	Type     string   `json:"type,omitempty" yaml:"type,omitempty" jsonschema:"enum=bind,enum=tmpfs" jsonschema_description:"bind (of a file or folder of the host) or tmpfs (in RAM)."`
	Source   string   `json:"source,omitempty" yaml:"source,omitempty" jsonschema_description:"The file or folder of the host; relative to the working directory of brig."`
	Target   string   `json:"target" yaml:"target" jsonschema_description:"Where it is inside."`
	ReadOnly *bool    `json:"readOnly,omitempty" yaml:"readOnly,omitempty" jsonschema_description:"false by default."`
	Options  []string `json:"options,omitempty" yaml:"options,omitempty" jsonschema_description:"Further mount options, as mount(8) has them: noexec, size=64m, mode=1777, …"`
}

// Capabilities are what is added to the preset's and dropped from it; ALL is every one.
type Capabilities struct {
	Add  []string `json:"add,omitempty" yaml:"add,omitempty" jsonschema_description:"Capabilities to add, with or without CAP_."`
	Drop []string `json:"drop,omitempty" yaml:"drop,omitempty" jsonschema_description:"Capabilities to drop."`
}

// Landlock is that layer.
type Landlock struct {
	Mode    string   `json:"mode,omitempty" yaml:"mode,omitempty" jsonschema:"enum=on,enum=strict,enum=off" jsonschema_description:"on: what the mounts allow. strict: no write anywhere but devices; before Linux 6.2, which cannot stop truncation, it is refused with a writable root or volume. off."`
	Bind    []string `json:"bind,omitempty" yaml:"bind,omitzero" jsonschema_description:"TCP ports that may be listened on; * for any."`
	Connect []string `json:"connect,omitempty" yaml:"connect,omitzero" jsonschema_description:"TCP ports that may be connected to; * for any."`
}

// Namespaces are the choices there are.
type Namespaces struct {
	User string `json:"user,omitempty" yaml:"user,omitempty" jsonschema:"enum=auto,enum=host" jsonschema_description:"auto: a user namespace with 65,536 host ids of its own. host: none; root inside is root outside."`
	Time *bool  `json:"time,omitempty" yaml:"time,omitempty" jsonschema_description:"A time namespace of its own."`
}

// Limits are what a sandbox may use up.
type Limits struct {
	Memory         string   `json:"memory,omitempty" yaml:"memory,omitempty" jsonschema_description:"Memory: 512m, 2g. Half of the host's by default."`
	MemorySwap     string   `json:"memorySwap,omitempty" yaml:"memorySwap,omitempty" jsonschema_description:"Memory and swap together, as docker has it. The same as memory by default: no swap."`
	CPUs           string   `json:"cpus,omitempty" yaml:"cpus,omitempty" jsonschema_description:"Processors: 0.5, 2."`
	CPUSet         string   `json:"cpusetCpus,omitempty" yaml:"cpusetCpus,omitempty" jsonschema_description:"Which processors: 0-1,3."`
	Pids           string   `json:"pids,omitempty" yaml:"pids,omitempty" jsonschema_description:"Processes and threads: 512 by default."`
	BlkioWeight    string   `json:"blkioWeight,omitempty" yaml:"blkioWeight,omitempty" jsonschema_description:"Share of disk time, 10 to 1000."`
	DeviceReadBps  []string `json:"deviceReadBps,omitempty" yaml:"deviceReadBps,omitempty" jsonschema_description:"Read rates, /dev/sda:1mb."`
	DeviceWriteBps []string `json:"deviceWriteBps,omitempty" yaml:"deviceWriteBps,omitempty" jsonschema_description:"Write rates, /dev/sda:1mb."`
	DeviceReadIOps []string `json:"deviceReadIops,omitempty" yaml:"deviceReadIops,omitempty" jsonschema_description:"Reads a second, /dev/sda:100."`
	DeviceWriteIO  []string `json:"deviceWriteIops,omitempty" yaml:"deviceWriteIops,omitempty" jsonschema_description:"Writes a second, /dev/sda:100."`
	Ulimits        []string `json:"ulimits,omitempty" yaml:"ulimits,omitempty" jsonschema_description:"Resource limits of processes, nofile=1024:2048."`
	Timeout        string   `json:"timeout,omitempty" yaml:"timeout,omitempty" jsonschema_description:"Wall-clock time: 30s, 5m."`
	Output         string   `json:"output,omitempty" yaml:"output,omitempty" jsonschema_description:"Bytes of standard output and error: 10m."`
}

// The presets.
const (
	Default = "default"
	Strict  = "strict"
	Compat  = "compat"
)

// The words for an AppArmor profile or an SELinux label of Brig's own, and for none.
const (
	Auto       = "auto"
	Unconfined = "unconfined"
)

// Preset gives the whole policy of a preset, or an error that names the ones there are.
func Preset(name string) (*Policy, error) {
	p := &Policy{
		Version: 1, Preset: Default, Isolation: "native", Hostname: "brig", Seccomp: Default, AppArmor: Auto, SELinux: Auto,
		Landlock: &Landlock{Mode: "on"}, Network: "none", Namespaces: &Namespaces{User: "auto"}, Limits: &Limits{Pids: "512"}, StopTimeout: "10s",
	}
	switch name {
	case "", Default:
	case Strict:
		p.Preset, p.Seccomp, p.Landlock.Mode, p.Limits.Pids = Strict, Strict, "strict", "128"
	case Compat:
		p.Preset, p.Seccomp = Compat, Compat
		p.Capabilities = &Capabilities{Add: dockerCaps()}
	default:
		return nil, &Error{Path: "preset", Msg: "unknown preset " + quote(name) + nearest(name, Default, Strict, Compat)}
	}
	return p, nil
}

// dockerCaps are the capabilities of a container of Docker's (its documentation, "Runtime privilege and Linux
// capabilities").
func dockerCaps() []string {
	return []string{"AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "NET_RAW", "SETFCAP",
		"SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"}
}
