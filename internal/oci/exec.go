package oci

import (
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/big"
	"os"
	"path"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"brig/internal/fault"
	"brig/internal/idmap"
	"brig/internal/isolation/native"
	"brig/internal/operator"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// words is a flag that may be given several times.
type words []string

func (w *words) String() string     { return strings.Join(*w, ",") }
func (w *words) Set(s string) error { *w = append(*w, s); return nil }

// execution is what exec takes.
type execution struct {
	creation
	process, cwd, user, apparmor, label string
	env, caps, groups, cgroups          words
	tty, ignorePaused, noNew            bool
}

func (a *app) exec(f *flag.FlagSet) func([]string) error {
	var o execution
	f.StringVar(&o.process, "process", "", "file of the process in JSON")
	f.StringVar(&o.process, "p", "", "short for --process")
	f.StringVar(&o.cwd, "cwd", "", "working directory inside")
	f.StringVar(&o.user, "user", "", "UID[:GID]")
	f.StringVar(&o.user, "u", "", "short for --user")
	f.Var(&o.env, "env", "environment KEY=VALUE")
	f.Var(&o.env, "e", "short for --env")
	f.Var(&o.caps, "cap", "add a capability")
	f.Var(&o.caps, "c", "short for --cap")
	f.Var(&o.groups, "additional-gids", "further group ids")
	f.Var(&o.groups, "g", "short for --additional-gids")
	f.BoolVar(&o.tty, "tty", false, "a terminal")
	f.BoolVar(&o.tty, "t", false, "short for --tty")
	f.BoolVar(&o.detach, "detach", false, "leave the process running and return")
	f.BoolVar(&o.detach, "d", false, "short for --detach")
	f.Var(&o.cgroups, "cgroup", "start in this group inside the container's: [CONTROLLER[,CONTROLLER]:]PATH")
	f.BoolVar(&o.ignorePaused, "ignore-paused", false, "also in a paused container")
	f.BoolVar(&o.noNew, "no-new-privs", false, "the process may gain no privileges")
	f.StringVar(&o.apparmor, "apparmor", "", "AppArmor profile")
	f.StringVar(&o.label, "process-label", "", "SELinux label")
	f.StringVar(&o.pidFile, "pid-file", "", "file that takes the process id")
	f.StringVar(&o.console, "console-socket", "", "unix socket that takes the master of the terminal")
	f.StringVar(&o.pidfdSocket, "pidfd-socket", "", "unix socket that takes a pidfd of the process")
	f.IntVar(&o.preserve, "preserve-fds", 0, "pass this many file descriptors, from 3 on")
	return func(args []string) error {
		a.code = 255 // runc's, when exec itself fails
		c, err := a.open(args[0])
		if err != nil {
			return err
		}
		return a.failure("exec failed", a.execute(c, &o, args[1:]))
	}
}

func (a *app) execute(c *container, o *execution, args []string) error {
	switch s := c.status(); {
	case s == stopped:
		return errors.New("cannot exec in a stopped container")
	case s == paused && !o.ignorePaused:
		return errors.New("cannot exec in a paused container (use --ignore-paused to override)")
	}
	spec, own, err := a.execSpec(c, o, args)
	if err != nil {
		return err
	}
	pidfd, err := c.pidfd()
	if err != nil {
		return errors.New("cannot exec in a stopped container")
	}
	defer pidfd.Close() //nolint:errcheck // read only
	root := fmt.Sprintf("/proc/%d/root", c.PID)
	if c.Pod != "" {
		root = c.Rootfs // its process on the host is Brig's own
	}
	setHome(spec.Process, root)
	if err := giveStreams(spec); err != nil {
		return err
	}
	if c.onGVisor() {
		return a.executeOnGVisor(c, o, own, spec)
	}
	options, err := a.execOptions(c, o, spec)
	if err != nil {
		return err
	}
	a.debugf("nsexec container setup: a child joins the namespaces of process %d by its pidfd", c.PID)
	defer func() { o.relay.close() }()
	runtime.LockOSThread() // which Process.Wait wants
	defer runtime.UnlockOSThread()
	p, err := native.Exec(spec, pidfd, *options)
	if errors.Is(err, unix.EBUSY) && options.Cgroup != nil && len(o.cgroups) == 0 {
		if options.Cgroup, err = options.Cgroup.Of(c.PID); err == nil {
			p, err = native.Exec(spec, pidfd, *options)
		}
	}
	if errors.Is(err, unix.EBUSY) && len(o.cgroups) > 0 {
		err = fmt.Errorf("error adding pid of the new process to cgroups %s: %w", &o.cgroups, err)
	}
	if err != nil {
		return programError(c.Rootfs, spec.Process, err)
	}
	defer p.Release() //nolint:errcheck // descriptors only
	fault.Point("program runs")
	a.code = 0
	if o.detach {
		return nil
	}
	stop := forward(p.Signal)
	defer stop()
	status, err := p.Wait()
	if err != nil {
		return err
	}
	a.code = exitCode(status)
	return nil
}

// execSpec is the container's spec with the further process in it, as the operator wants it, and the container's first process.
func (a *app) execSpec(c *container, o *execution, args []string) (spec *specs.Spec, own *specs.Process, err error) {
	if spec, err = a.sealedSpecOf(c); err != nil {
		return nil, nil, err
	}
	own = spec.Process
	if spec.Process, err = o.newProcess(own, args); err != nil {
		return nil, nil, err
	}
	policy, err := operator.Load()
	if err != nil {
		return nil, nil, err
	}
	if err := policy.TightenExec(spec); err != nil {
		return nil, nil, err
	}
	return spec, own, checkTerminal(spec, o.console, o.detach)
}

// execOptions has the process in the container's cgroup, or in one inside.
func (a *app) execOptions(c *container, o *execution, spec *specs.Spec) (*native.Options, error) {
	group := c.group()
	if len(o.cgroups) > 0 {
		if group == nil {
			return nil, fmt.Errorf("--cgroup %s: container %s has no cgroup", &o.cgroups, c.id)
		}
		var err error
		if group, err = group.Sub(o.cgroups); err != nil {
			return nil, err
		}
	}
	passed, err := passedFiles(o.preserve)
	return &native.Options{
		Cgroup: group, Maps: idmap.Maps{UID: spec.Linux.UIDMappings, GID: spec.Linux.GIDMappings}, PassFDs: passed,
		Stdio: [3]*os.File{os.Stdin, os.Stdout, os.Stderr}, Warn: func(text string) { a.warnf("%s", text) },
		Ready: func(p *native.Process) error {
			if mask := p.Plan.InitialCPUs; len(mask) > 0 {
				a.debugf("nsexec: affinity: %s", hex(mask))
			}
			a.debugf("child process in init(): process %d has joined the container and set itself up", p.PID)
			if err := errors.Join(c.enterClass(p.PID), o.ready(p.Terminal, p.PIDFD(), p.PID)); err != nil {
				return err
			}
			a.debugf("setns_init: about to exec %q", spec.Process.Args)
			return nil
		},
		Agent: c.agent(spec, running),
	}, err
}

// hex is a mask of CPUs as one number.
func hex(mask []uint64) string {
	n := new(big.Int)
	for _, word := range slices.Backward(mask) {
		n.Or(n.Lsh(n, 64), new(big.Int).SetUint64(word))
	}
	return "0x" + n.Text(16)
}

// ready does what exec promises before the program runs, which process pid is or stands for.
func (o *execution) ready(terminal, pidfd *os.File, pid int) error {
	if terminal != nil {
		if err := o.holdTerminal(terminal); err != nil {
			return err
		}
	}
	if o.pidfdSocket != "" {
		if err := sendFD(o.pidfdSocket, pidfd, []byte(ptmx)); err != nil {
			return fmt.Errorf("--pidfd-socket %s: %w", o.pidfdSocket, err)
		}
	}
	if o.pidFile != "" {
		return writePIDFile(o.pidFile, pid)
	}
	fault.Point("exec is ready")
	return nil
}

// newProcess is the process of --process, or the container's own with what the flags change.
func (o *execution) newProcess(own *specs.Process, args []string) (*specs.Process, error) {
	if o.process != "" {
		text, err := os.ReadFile(o.process)
		if err != nil {
			return nil, fmt.Errorf("--process: %w", err)
		}
		var p specs.Process
		if err := json.Unmarshal(text, &p); err != nil {
			return nil, fmt.Errorf("--process %s: %w", o.process, placed(text, err))
		}
		// One that does not say otherwise is confined as the first process is: runc has it so, and none would be weaker in silence.
		if own != nil {
			p.ApparmorProfile, p.SelinuxLabel = cmp.Or(p.ApparmorProfile, own.ApparmorProfile), cmp.Or(p.SelinuxLabel, own.SelinuxLabel)
		}
		return &p, checkProcess(&p)
	}
	if len(args) == 0 {
		return nil, errors.New("process args cannot be empty") // runc's words
	}
	p := *own
	p.Args, p.Terminal, p.ConsoleSize = args, o.tty, nil
	p.Env = withEnv(own.Env, o.env)
	if o.cwd != "" {
		p.Cwd = o.cwd
	}
	if o.apparmor != "" {
		p.ApparmorProfile = o.apparmor
	}
	if o.label != "" {
		p.SelinuxLabel = o.label
	}
	p.NoNewPrivileges = p.NoNewPrivileges || o.noNew
	if err := o.setUser(&p.User); err != nil {
		return nil, err
	}
	if len(o.caps) > 0 {
		c := specs.LinuxCapabilities{}
		if own.Capabilities != nil {
			c = *own.Capabilities
		}
		for _, set := range []*[]string{&c.Bounding, &c.Effective, &c.Permitted} {
			*set = slices.Concat(*set, o.caps)
		}
		p.Capabilities = &c
	}
	return &p, checkProcess(&p)
}

// checkProcess demands of a further process what its spec has to say. The words are runc's.
func checkProcess(p *specs.Process) error {
	switch {
	case p.Cwd == "":
		return errors.New("Cwd property must not be empty") //nolint:staticcheck // runc's words
	case !path.IsAbs(p.Cwd):
		return errors.New("Cwd must be an absolute path") //nolint:staticcheck // runc's words
	case len(p.Args) == 0:
		return errors.New("args must not be empty")
	}
	return nil
}

func (o *execution) setUser(u *specs.User) error {
	if o.user != "" {
		uid, gid, _ := strings.Cut(o.user, ":")
		var err error
		if u.UID, err = number(uid); err != nil {
			return fmt.Errorf("--user %q: %w", o.user, err)
		}
		u.GID = 0
		if gid != "" {
			if u.GID, err = number(gid); err != nil {
				return fmt.Errorf("--user %q: %w", o.user, err)
			}
		}
		u.AdditionalGids = nil
	}
	for _, g := range o.groups {
		n, err := number(g)
		if err != nil {
			return fmt.Errorf("--additional-gids %q: %w", g, err)
		}
		u.AdditionalGids = append(u.AdditionalGids, n)
	}
	return nil
}

// number reads an id strictly (CVE-2024-40635): the largest is no id.
func number(text string) (uint32, error) {
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return 0, plainNumber(err)
	}
	if uint32(n) == ^uint32(0) {
		return 0, fmt.Errorf("%s is no id: %w", text, unix.EINVAL)
	}
	return uint32(n), nil
}

// withEnv sets variables over those that are there: getenv(3) gives the first of a name.
func withEnv(own, set []string) []string {
	env := slices.Clone(own)
	for _, e := range set {
		name, _, _ := strings.Cut(e, "=")
		env = slices.DeleteFunc(env, func(old string) bool { return strings.HasPrefix(old, name+"=") })
		env = append(env, e)
	}
	return env
}
