package cli

import (
	"brig/internal/annotation"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"brig/internal/host"
	"brig/internal/image"
	"brig/internal/inspect"
	"brig/internal/policy"
	"brig/internal/sandbox"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// policyFlags are the flags that `run`, `explain` and `policy show` share: each fills a field of a policy that is laid
// over the preset and the file. Names and meanings are docker's where docker has them.
type policyFlags struct {
	file, preset                                  string
	rootfs, workdir, user, hostname, network      string
	isolation, entrypoint, memory, memorySwap     string
	cpus, cpuset, pids, blkioWeight, timeout      string
	outputLimit, stopTimeout, userns              string
	pull, platform, verifyImage                   string
	writable, writableSize                        string
	volumes, mounts, tmpfs, env, envFiles, labels []string
	capAdd, capDrop, securityOpt, ulimits         []string
	devices, readBps, writeBps, readIOps          []string
	writeIOps, sysctls, allowMissing              []string
	landlockBind, landlockConnect, verify         []string
	readOnly, tty, init, noNewPrograms            bool
	passFDs                                       int
}

func (f *policyFlags) register(s *pflag.FlagSet) {
	s.StringVar(&f.file, "policy", "", "policy `FILE`, YAML or JSON; flags are laid over it")
	s.StringVar(&f.preset, "preset", "", "default, strict or compat")
	s.StringVar(&f.isolation, "isolation", "", "native or gvisor: which kernel serves the system calls")
	s.StringVar(&f.rootfs, "rootfs", "", "`FOLDER` that is the root; without it, a read-only view of the host's programs")
	s.BoolVar(&f.readOnly, "read-only", true, "read-only root file system; =false lets an image be written over, in RAM, and a --rootfs be written to")
	s.StringVar(&f.writable, "writable", "", "ram or disk: where it goes what is written to the root; image and folder stay as they are")
	s.StringVar(&f.writableSize, "writable-size", "", "how much may be written to the root, as in 4g (default 1g)")
	s.StringVar(&f.pull, "pull", "", "fetch the image when it is missing, always or never (default missing)")
	s.StringVar(&f.platform, "platform", "", "which of an image's platforms, `OS/ARCH[/VARIANT]`")
	s.StringArrayVar(&f.verify, "verify", nil, "`FILE` of a public key; the image must be signed by one of them")
	s.StringVar(&f.verifyImage, "verify-image", "", "always: hold the whole image against its digest before it is used")
	s.StringVarP(&f.workdir, "workdir", "w", "", "working directory inside")
	s.StringVarP(&f.user, "user", "u", "", "user inside, `UID[:GID]` or a name of the root file system")
	s.StringVar(&f.userns, "userns", "", "auto: host ids of its own; host: none")
	s.StringVar(&f.hostname, "hostname", "", "host name inside")
	s.StringVar(&f.entrypoint, "entrypoint", "", "`PROGRAM` that the arguments go to")
	s.StringArrayVarP(&f.env, "env", "e", nil, "environment `KEY=VALUE`, or KEY to pass on the caller's")
	s.StringArrayVar(&f.envFiles, "env-file", nil, "`FILE` of environment variables")
	s.StringArrayVarP(&f.volumes, "volume", "v", nil, "file or folder of the host, `SOURCE:TARGET[:ro]`")
	s.StringArrayVar(&f.mounts, "mount", nil, "mount, `type=bind,source=…,target=…[,readonly]`")
	s.StringArrayVar(&f.tmpfs, "tmpfs", nil, "file system in RAM, `TARGET[:size=64m,mode=1777]`")
	s.StringArrayVar(&f.devices, "device", nil, "device of the host, `PATH[:INSIDE][:rwm]`")
	s.StringVar(&f.network, "network", "", "none: loopback only; host: the host's network")
	s.StringArrayVar(&f.capAdd, "cap-add", nil, "add a `CAPABILITY`, or ALL")
	s.StringArrayVar(&f.capDrop, "cap-drop", nil, "drop a `CAPABILITY`, or ALL")
	s.StringArrayVar(&f.securityOpt, "security-opt", nil, "seccomp=FILE|default|strict|compat|unconfined, apparmor=auto|unconfined|NAME, label=auto|LABEL, landlock=on|strict|off")
	s.StringArrayVar(&f.landlockBind, "tcp-bind", nil, "TCP `PORT` that may be listened on, and no other")
	s.StringArrayVar(&f.landlockConnect, "tcp-connect", nil, "TCP `PORT` that may be connected to, and no other")
	s.StringArrayVar(&f.sysctls, "sysctl", nil, "sysctl of the sandbox's namespaces, `KEY=VALUE`")
	s.StringVarP(&f.memory, "memory", "m", "", "memory, as in 512m")
	s.StringVar(&f.memorySwap, "memory-swap", "", "memory and swap together; the same as memory by default")
	s.StringVar(&f.cpus, "cpus", "", "processors, as in 1.5")
	s.StringVar(&f.cpuset, "cpuset-cpus", "", "which processors, as in 0-2,4")
	s.StringVar(&f.pids, "pids-limit", "", "processes and threads; -1 for no limit")
	s.StringVar(&f.pids, "pids", "", "short for --pids-limit")
	s.StringVar(&f.blkioWeight, "blkio-weight", "", "share of disk time, 10 to 1000")
	s.StringArrayVar(&f.readBps, "device-read-bps", nil, "read rate, `/dev/NAME:1mb`")
	s.StringArrayVar(&f.writeBps, "device-write-bps", nil, "write rate, `/dev/NAME:1mb`")
	s.StringArrayVar(&f.readIOps, "device-read-iops", nil, "reads a second, `/dev/NAME:100`")
	s.StringArrayVar(&f.writeIOps, "device-write-iops", nil, "writes a second, `/dev/NAME:100`")
	s.StringArrayVar(&f.ulimits, "ulimit", nil, "resource limit, `nofile=1024:2048`")
	s.StringVar(&f.timeout, "timeout", "", "end it after this time, as in 30s; exit code 124")
	s.StringVar(&f.outputLimit, "output-limit", "", "end it when it has written this much, as in 10m")
	s.StringVar(&f.stopTimeout, "stop-timeout", "", "how long stop waits before it kills (default 10s)")
	s.StringArrayVarP(&f.labels, "label", "l", nil, "label, `KEY=VALUE`")
	s.BoolVarP(&f.tty, "tty", "t", false, "a terminal of the sandbox's own")
	s.BoolVar(&f.init, "init", false, "a process at pid 1 that reaps orphans and forwards signals")
	s.BoolVar(&f.noNewPrograms, "no-new-programs", false, "the program may execute no other")
	s.StringSliceVar(&f.allowMissing, "allow-missing", nil, "layers that may be absent where the host cannot give them")
	s.IntVar(&f.passFDs, "pass-fd", 0, "pass this many file descriptors, from 3 on")
}

// complete offers the words that a flag takes.
func (f *policyFlags) complete(c *cobra.Command) {
	choices(c, "preset", policy.Default, policy.Strict, policy.Compat)
	choices(c, "network", "none", "host")
	choices(c, "userns", "auto", "host")
	choices(c, "isolation", "native", "gvisor")
	choices(c, "writable", "ram", "disk")
	choices(c, "pull", "missing", "always", "never")
	choices(c, "verify-image", "changed", "always")
	choices(c, "security-opt", "seccomp=", "apparmor=", "label=", "landlock=")
}

// overlay is the policy that flags and words alone say, beside what file says. A wrong value is an error that names the flag.
func (f *policyFlags) overlay(c *cobra.Command, args []string, file *policy.Policy) (*policy.Policy, error) {
	name, args := f.imageAndProgram(c, args, file)
	p := &policy.Policy{
		Image:  name,
		Preset: f.preset, Isolation: f.isolation, Workdir: f.workdir, User: f.user, Hostname: f.hostname, Network: f.network,
		Devices: f.devices, AllowMissing: f.allowMissing, StopTimeout: f.stopTimeout,
		Pull: f.pull, Platform: f.platform, Verify: f.verify, VerifyImage: f.verifyImage,
	}
	if len(args) > 0 {
		p.Args = args
	}
	changed := c.Flags().Changed
	if f.rootfs+f.writable+f.writableSize != "" || changed("read-only") {
		p.Root = &policy.Root{Path: f.rootfs, Writable: f.writable, WritableSize: f.writableSize}
		if changed("read-only") {
			p.Root.ReadOnly = &f.readOnly
		}
	}
	switch {
	case f.entrypoint != "":
		p.Entrypoint = []string{f.entrypoint}
	case changed("entrypoint"):
		p.Entrypoint = []string{} // none, not the image's either
	}
	if f.tty {
		p.Terminal = &f.tty
	}
	if f.init {
		p.Init = &f.init
	}
	if f.noNewPrograms {
		p.NoNewPrograms = &f.noNewPrograms
	}
	if f.userns != "" {
		p.Namespaces = &policy.Namespaces{User: f.userns}
	}
	if f.capAdd != nil || f.capDrop != nil {
		p.Capabilities = &policy.Capabilities{Add: f.capAdd, Drop: f.capDrop}
	}
	p.Limits = &policy.Limits{
		Memory: f.memory, MemorySwap: f.memorySwap, CPUs: f.cpus, CPUSet: f.cpuset, Pids: f.pids, BlkioWeight: f.blkioWeight,
		DeviceReadBps: f.readBps, DeviceWriteBps: f.writeBps, DeviceReadIOps: f.readIOps, DeviceWriteIO: f.writeIOps,
		Ulimits: f.ulimits, Timeout: f.timeout, Output: f.outputLimit,
	}
	return p, errors.Join(f.places(p), f.environment(p), f.security(p), f.words(p))
}

// imageAndProgram parts the words into the image and the program. The first is the image, unless "--" came before it, as for a program of the
// host's, or flag or file say already what the root is. A "--" behind the image may be left out.
func (f *policyFlags) imageAndProgram(c *cobra.Command, args []string, file *policy.Policy) (name string, program []string) {
	given := f.rootfs != "" || file.Image != "" || file.Root != nil && file.Root.Path != ""
	if given || len(args) == 0 || c.ArgsLenAtDash() == 0 {
		return "", args
	}
	name, program = args[0], args[1:]
	if len(program) > 0 && program[0] == "--" {
		program = program[1:]
	}
	return name, program
}

func (f *policyFlags) places(p *policy.Policy) error {
	for _, kind := range []struct {
		flag  string
		list  []string
		parse func(string) (policy.Mount, error)
	}{{"--volume", f.volumes, policy.ParseVolume}, {"--mount", f.mounts, policy.ParseMount}, {"--tmpfs", f.tmpfs, policy.ParseTmpfs}} {
		for _, text := range kind.list {
			m, err := kind.parse(text)
			if err != nil {
				return fmt.Errorf("%s %w", kind.flag, err)
			}
			p.Mounts = append(p.Mounts, m)
		}
	}
	return nil
}

func (f *policyFlags) environment(p *policy.Policy) error {
	for _, name := range f.envFiles {
		data, err := os.ReadFile(name)
		if err != nil {
			return fmt.Errorf("--env-file: %w", err)
		}
		env, err := policy.ParseEnvFile(name, data, os.LookupEnv)
		if err != nil {
			return fmt.Errorf("--env-file: %w", err)
		}
		p.Env = append(p.Env, env...)
	}
	for _, text := range f.env {
		entry, ok, err := policy.ParseEnv(text, os.LookupEnv)
		if err != nil {
			return fmt.Errorf("--env: %w", err)
		}
		if ok {
			p.Env = append(p.Env, entry)
		}
	}
	return nil
}

func (f *policyFlags) security(p *policy.Policy) error {
	if f.landlockBind != nil || f.landlockConnect != nil {
		p.Landlock = &policy.Landlock{Bind: f.landlockBind, Connect: f.landlockConnect}
	}
	for _, text := range f.securityOpt {
		key, value, _ := strings.Cut(text, "=")
		switch {
		case key == "no-new-privileges" && (value == "" || value == "true"): // always so
		case value == "":
			return fmt.Errorf("--security-opt %q: write KEY=VALUE with seccomp, apparmor, label or landlock", text)
		case key == "seccomp":
			p.Seccomp = value
		case key == "apparmor":
			p.AppArmor = value
		case key == "label":
			p.SELinux = value
		case key == "landlock":
			if p.Landlock == nil {
				p.Landlock = &policy.Landlock{}
			}
			p.Landlock.Mode = value
		default:
			return fmt.Errorf("--security-opt %q: there are seccomp, apparmor, label and landlock", text)
		}
	}
	return nil
}

func (f *policyFlags) words(p *policy.Policy) error {
	for _, kind := range []struct {
		flag string
		list []string
		to   *map[string]string
	}{{"--label", f.labels, &p.Labels}, {"--sysctl", f.sysctls, &p.Sysctls}} {
		for _, text := range kind.list {
			key, value, ok := strings.Cut(text, "=")
			if key == "" || !ok && kind.flag == "--sysctl" {
				return fmt.Errorf("%s %q: write KEY=VALUE", kind.flag, text)
			}
			if *kind.to == nil {
				*kind.to = map[string]string{}
			}
			(*kind.to)[key] = value
		}
	}
	return nil
}

// merged lays preset, file and flags over each other.
func (f *policyFlags) merged(c *cobra.Command, args []string) (*policy.Policy, error) {
	file := &policy.Policy{}
	if f.file != "" {
		var err error
		if file, err = policy.Load(f.file); err != nil {
			return nil, err
		}
	}
	over, err := f.overlay(c, args, file)
	if err != nil {
		return nil, err
	}
	preset := file.Preset
	if over.Preset != "" {
		preset = over.Preset
	}
	base, err := policy.Preset(preset)
	if err != nil {
		return nil, err
	}
	p := policy.Merge(policy.Merge(base, file), over)
	return p, p.Validate()
}

// prepared is a sandbox that can be started, or explained: the merged policy, its spec on this host, and its image, in use.
type prepared struct {
	policy *policy.Policy
	spec   *specs.Spec
	image  *image.Image // nil for none
	file   *os.File     // the image's, for an isolation that reads it itself; nil for none
}

// close ends the use of the image, if nobody else has it by then.
func (p *prepared) close() {
	if p.file != nil {
		_ = p.file.Close()
	}
	if p.image != nil {
		_ = p.image.Close()
	}
}

// prepare merges the policy, takes its image into use and writes the spec. fetch allows to get an image that is not here.
func (a *app) prepare(c *cobra.Command, f *policyFlags, args []string, fetch bool) (*prepared, error) {
	merged, err := f.merged(c, args)
	if err != nil {
		return nil, err
	}
	img, err := a.useImage(merged, fetch)
	if err != nil {
		return nil, err
	}
	p := &prepared{policy: merged, image: img}
	if p.spec, err = p.write(); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// write gives the spec.
func (p *prepared) write() (*specs.Spec, error) {
	tree, err := host.Cgroups()
	h, herr := policy.ThisHost(err == nil && tree.V2())
	if herr != nil {
		return nil, herr
	}
	if p.image != nil {
		if h.Image, err = imageFacts(p.image); err != nil {
			return nil, err
		}
	}
	spec, err := p.policy.Spec(h)
	if err != nil {
		return nil, err
	}
	return spec, filtered(p.image, spec)
}

// request is the sandbox to be run. It borrows the image.
func (p *prepared) request() (*sandbox.Request, error) {
	req := &sandbox.Request{Spec: p.spec, Labels: p.policy.Labels, Preset: p.policy.Preset, Image: imageState(p.image)}
	if p.image != nil {
		req.ImageLock = p.image.Lock()
	}
	var err error
	if p.image != nil && p.spec.Annotations[annotation.Isolation] == "gvisor" {
		if p.file, err = p.image.File(); err != nil {
			return nil, err
		}
		req.ImageFile = p.file
	}
	if req.StopSignal, err = stopSignal(p.image); err != nil {
		return nil, err
	}
	return req, limits(req, p.policy)
}

func (a *app) run() *cobra.Command {
	var f policyFlags
	var detach, interactive, remove, show bool
	var name, cidfile, from string
	c := &cobra.Command{
		Use:   "run [flags] IMAGE [ARG...] | run [flags] -- PROGRAM [ARG...] | run [flags] --rootfs FOLDER PROGRAM [ARG...]",
		Short: "run a program in a new sandbox",
		Long: "Run a program in a new sandbox: of a container image, which is fetched when it is not here; of the host's, behind --,\n" +
			"which sees the host's programs read-only and nothing else of it; or of a folder, with --rootfs.\n" +
			"An image is never written to. Its environment, user, working directory and program hold where nothing else is said.\n" +
			"A sandbox in the foreground leaves nothing behind; one started with -d stays in `brig ps` until `brig rm`.",
		DisableFlagsInUseLine: true, ValidArgsFunction: f.images,
		RunE: func(c *cobra.Command, args []string) error {
			p, err := a.prepare(c, &f, args, true)
			if err != nil {
				return err
			}
			defer p.close()
			req, err := p.request()
			if err != nil {
				return err
			}
			req.Name, req.Remove = name, remove
			for i := range f.passFDs {
				fd := os.NewFile(uintptr(3+i), fmt.Sprintf("file descriptor %d", 3+i)) //nolint:gosec // small
				if _, err := fd.Stat(); err != nil {
					return fmt.Errorf("--pass-fd %d: file descriptor %d is not open", f.passFDs, 3+i)
				}
				req.PassFDs = append(req.PassFDs, fd)
			}
			a.accepted = p.policy.AllowMissing
			store, err := a.store()
			if err != nil {
				return err
			}
			if from != "" {
				saved, err := goOn(store, req, from)
				if err != nil {
					return err
				}
				defer saved.Close() //nolint:errcheck // read only
			}
			if detach {
				return a.detached(store, req)
			}
			if show {
				a.showLayers(req)
			}
			return a.foreground(store, req, interactive)
		},
	}
	s := c.Flags()
	s.SetInterspersed(false)
	s.SortFlags = false
	s.BoolVarP(&detach, "detach", "d", false, "run in the background and print the id")
	s.BoolVarP(&interactive, "interactive", "i", false, "pass standard input on")
	s.BoolVar(&remove, "rm", false, "remove a detached sandbox when it has ended")
	s.StringVar(&name, "name", "", "name of the sandbox")
	s.BoolVar(&show, "show", false, "print on standard error what confines the program before it runs")
	s.StringVar(&from, "from-checkpoint", "", "go on from the checkpoint in `FOLDER`, which must have been saved with the same program and policy")
	s.StringVar(&cidfile, "cidfile", "", "")
	_ = s.MarkHidden("cidfile")
	f.register(s)
	f.complete(c)
	return c
}

// limits are those that the supervisor enforces.
func limits(req *sandbox.Request, p *policy.Policy) (err error) {
	if l := p.Limits; l != nil {
		if l.Timeout != "" {
			if req.Timeout, err = policy.ParseDuration(l.Timeout); err != nil {
				return fmt.Errorf("--timeout %w", err)
			}
		}
		if l.Output != "" {
			if req.OutputLimit, err = policy.ParseSize(l.Output); err != nil {
				return fmt.Errorf("--output-limit %w", err)
			}
		}
	}
	if p.StopTimeout != "" {
		req.StopAfter, err = policy.ParseDuration(p.StopTimeout)
	}
	return err
}

func (a *app) detached(store *sandbox.Store, req *sandbox.Request) error {
	id, err := store.Detach(req)
	if err != nil {
		return err
	}
	if b, err := store.Find(id); err == nil {
		if st, err := b.State(); err == nil {
			a.notice(st)
		}
	}
	fmt.Fprintln(a.out, id)
	return nil
}

func (a *app) foreground(store *sandbox.Store, req *sandbox.Request, interactive bool) error {
	streams := sandbox.Streams{Out: a.out, Err: a.err}
	if interactive {
		streams.In = a.in
	}
	req.Started = func(st *sandbox.State) { a.notice(st) }
	result, err := store.Run(req, streams)
	if err != nil {
		return err
	}
	a.report(result)
	return nil
}

// notice says which layers the sandbox lacks, unless the person accepted it: never weaker in silence.
func (a *app) notice(st *sandbox.State) {
	for _, m := range st.Missing {
		if !slices.Contains(a.accepted, m.Layer) {
			accepts := fmt.Sprintf("; --allow-missing=%s accepts that", m.Layer)
			if a.restores { // with the policy that was saved, and no flag for it
				accepts = ""
			}
			fmt.Fprintf(a.err, "brig: notice: the sandbox runs without the layer %s: %s%s\n", m.Layer, m.Reason, accepts)
		}
	}
}

// report sets the exit code, and says on standard error what the code alone does not.
func (a *app) report(r sandbox.Result) {
	a.code = r.ExitCode
	if r.Message != "" {
		fmt.Fprintf(a.err, "brig: the program was ended (%s): %s\n", r.Cause, r.Message)
	}
	if r.Trace != "" {
		fmt.Fprintf(a.err, "    %s\n", strings.ReplaceAll(r.Trace, "\n", "\n    "))
	}
}

// showLayers prints what the spec asks for, a line a layer.
func (a *app) showLayers(req *sandbox.Request) {
	if req.Spec.Annotations[annotation.Isolation] == "gvisor" {
		fmt.Fprintf(a.err, "  %-22s %s\n", "isolation", "gvisor: the program has a kernel of its own, a process that is held by what follows")
	}
	for _, l := range inspect.Asked(req.Spec) {
		fmt.Fprintf(a.err, "  %-22s %s\n", l.Layer, l.Text)
	}
	for _, k := range slices.Sorted(maps.Keys(req.Labels)) {
		fmt.Fprintf(a.err, "  %-22s %s=%s\n", "label", k, req.Labels[k])
	}
}
