// Command run proves the layers on other kernels: it boots virtual machines with Debian's, runs compiled tests of this tree
// inside, and collects what they say of each layer into one table. See `make test-vm`.
//
//	run [-setup NAME] [-ci] [-write docs/layers.md] [PACKAGE [TEST FLAGS…]]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"brig/internal/vmm"

	"golang.org/x/sys/unix"
)

type options struct {
	setup, table string
	ci, write    bool
	limit        time.Duration
	args         []string
}

func main() {
	var o options
	flag.StringVar(&o.setup, "setup", "", "run this set-up alone: "+strings.Join(names(), ", "))
	flag.StringVar(&o.table, "table", "", "hold what was proved against the table in this file")
	flag.BoolVar(&o.write, "write", false, "write the table instead")
	flag.BoolVar(&o.ci, "ci", false, "the fast part")
	flag.DurationVar(&o.limit, "limit", 30*time.Minute, "end each machine after this time")
	flag.Parse()
	o.args = flag.Args()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if err := run(ctx, &o); err != nil {
		fmt.Fprintln(os.Stderr, "test/vm:", err)
		os.Exit(1) //nolint:gocritic // nothing is left to undo
	}
}

func names() []string {
	var out []string
	for _, s := range setups {
		out = append(out, s.name)
	}
	return out
}

func run(ctx context.Context, o *options) error {
	if o.setup != "" && !slices.Contains(names(), o.setup) {
		return fmt.Errorf("unknown set-up %q: there are %s", o.setup, strings.Join(names(), ", "))
	}
	image, err := script("test/vm/guest.sh")
	if err != nil {
		return err
	}
	results, failed := table{}, []string{}
	for _, s := range setups {
		if o.setup != "" && s.name != o.setup {
			continue
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		jobs := o.choose(s)
		if len(jobs) == 0 {
			continue
		}
		err := one(ctx, o, s, jobs, image, results)
		if err != nil {
			failed = append(failed, s.name+": "+err.Error())
		}
	}
	results.print(os.Stdout)
	if len(failed) > 0 {
		return errors.New(strings.Join(failed, "\n"))
	}
	return results.compare(o)
}

// choose gives what is run in a set-up, with the flags in each job's full.
func (o *options) choose(s *setup) []job {
	if len(o.args) > 0 {
		return []job{{pkg: strings.TrimPrefix(o.args[0], "./"), full: o.args[1:]}}
	}
	var out []job
	for _, j := range s.jobs {
		if o.ci && j.slow {
			continue
		}
		if o.ci {
			j.full = j.fast
		}
		out = append(out, j)
	}
	return out
}

// one boots a machine, runs the jobs in it, one after the other, and takes it down.
func one(ctx context.Context, o *options, s *setup, jobs []job, image string, results table) error {
	ctx, cancel := context.WithTimeout(ctx, o.limit)
	defer cancel()
	dir, err := script("test/vm/kernel.sh", s.kernel)
	if err != nil {
		return err
	}
	kernel, err := vmm.OpenKernel(dir)
	if err != nil {
		return err
	}
	own, err := os.MkdirTemp("", "brig-test-vm-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(own)
	bin := filepath.Join(own, "bin")
	if err := build(bin, jobs); err != nil {
		return err
	}
	if s.policy {
		if err := carryPolicy(image, bin); err != nil {
			return err
		}
	}
	begin := time.Now()
	m, err := start(ctx, s, kernel, image, own)
	if err != nil {
		return err
	}
	fmt.Printf("== %s: Linux %s, started in %.1f s\n", s.name, kernel.Release, time.Since(begin).Seconds())
	err = errors.Join(work(ctx, m, s, jobs, results), m.Close())
	if ctx.Err() != nil {
		err = fmt.Errorf("it took longer than %s: %w", o.limit, err)
	}
	return err
}

// carryPolicy puts the SELinux policy with Brig's module beside the programs.
func carryPolicy(image, bin string) error {
	file, err := script("test/vm/policy.sh", image)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(bin, "policy"), data, 0o600)
}

const memory = 3 << 30

func start(ctx context.Context, s *setup, kernel *vmm.Kernel, image, own string) (*vmm.Machine, error) {
	disks, err := makeDisks(own)
	if err != nil {
		return nil, err
	}
	bin := filepath.Join(own, "bin")
	c := vmm.Config{
		Kernel: kernel, Agent: filepath.Join(bin, "brig-agent"), Root: image, Memory: memory, CPUs: 2,
		Modules: modules, Cmdline: s.cmdline, Init: s.init, Disks: disks,
	}
	if os.Getenv("BRIG_VM_CONSOLE") != "" {
		c.Console = os.Stderr
	}
	for _, dir := range []string{"internal", "test", "docs"} {
		c.Folders = append(c.Folders, vmm.Folder{Host: dir, Guest: "/brig/" + dir})
	}
	c.Folders = append(c.Folders, vmm.Folder{Host: bin, Guest: "/brig/bin"})
	m, err := vmm.Start(ctx, c)
	if err != nil {
		return nil, err
	}
	var out strings.Builder
	code, err := m.Run(ctx, vmm.Command{Argv: []string{"/bin/sh", "-euc", mountDisk + s.before}, Stdout: &out, Stderr: &out})
	if err == nil && code != 0 {
		err = fmt.Errorf("set up %s: exit code %d\n%s", s.name, code, out.String())
	}
	if err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// mountDisk puts the first disk under /tmp: a host has its files on a disk, and 6.1 has no idmapped mounts of memory (tmpfs).
const mountDisk = `
disk=$(grep -lx disk0 /sys/block/vd*/serial | cut -d/ -f4)
mount "/dev/$disk" /tmp
chmod 1777 /tmp
mkdir -p /tmp/.var-lib-brig /var/lib/brig
mount --bind /tmp/.var-lib-brig /var/lib/brig
`

// makeDisks makes a file with an ext4 in it, for /tmp, and a bare one that tests write to as a whole (BRIG_TEST_DISK).
func makeDisks(dir string) ([]string, error) {
	temporary, bare := filepath.Join(dir, "temporary"), filepath.Join(dir, "bare")
	for name, size := range map[string]int64{temporary: 8 << 30, bare: 64 << 20} {
		if err := errors.Join(os.WriteFile(name, nil, 0o600), os.Truncate(name, size)); err != nil {
			return nil, err
		}
	}
	cmd := exec.Command("mkfs.ext4", "-q", "-E", "lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0", temporary) //nolint:gosec // the name is ours
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("make a disk for the machine: %w\n%s", err, out)
	}
	return []string{temporary, bare}, nil
}

func work(ctx context.Context, m *vmm.Machine, s *setup, jobs []job, results table) error {
	var failed []string
	for _, j := range jobs {
		out := &collector{table: results, setup: s.name, pass: os.Stdout}
		argv := slices.Concat(s.as, []string{"/brig/bin/" + testName(j.pkg), "-test.timeout", "25m"}, j.full)
		begin := time.Now()
		code, err := m.Run(ctx, vmm.Command{
			Argv: argv, Dir: "/brig/" + j.pkg, Stdout: out, Stderr: out,
			Env: []string{
				"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "USER=root", "TMPDIR=/tmp", "LANG=C.UTF-8",
				"BRIG_TEST_BIN=/brig/bin", "BRIG_TEST_DISK=/dev/vdc", "BRIG_TEST_PATIENCE=5", "BRIG_VM_SETUP=" + s.name,
			},
		})
		if err != nil {
			return err
		}
		word := "ok"
		if code != 0 {
			word = "FAIL"
			failed = append(failed, j.pkg)
			denials(ctx, m)
		}
		fmt.Printf("== %s: %s %s %.1f s\n", s.name, word, j.pkg, time.Since(begin).Seconds())
	}
	if len(failed) > 0 {
		return errors.New("failed: " + strings.Join(failed, ", "))
	}
	return nil
}

// denials shows what the security modules have said no to of late.
func denials(ctx context.Context, m *vmm.Machine) {
	script := `dmesg | grep -E 'avc: +denied|apparmor="DENIED"|SELINUX_ERR' | tail -n 30`
	if _, err := m.Run(ctx, vmm.Command{Argv: []string{"/bin/sh", "-c", script}, Stdout: os.Stdout, Stderr: os.Stderr}); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

func testName(pkg string) string { return strings.ReplaceAll(pkg, "/", "-") + ".test" }

// build fills the folder of programs that a machine gets: Brig's, the suites' and the tests.
func build(bin string, jobs []job) error {
	calls := [][]string{
		{"", "build", "-o", bin + "/", "./cmd/brig", "./cmd/brig-oci", "./cmd/brig-image", "./cmd/brig-agent", "./test/absent"},
		{"", "build", "-tags", "faults", "-o", bin + "/brig-faults", "./cmd/brig"},
		{"", "build", "-tags", "faults", "-o", bin + "/brig-oci-faults", "./cmd/brig-oci"},
		{"", "build", "-o", bin + "/attack", "./test/attack/attacker"},
		{"386", "build", "-o", bin + "/attack386", "./test/attack/attacker"},
		{"", "build", "-C", "gvisor", "-o", bin + "/brig-gvisor", "."},
	}
	for _, j := range jobs {
		calls = append(calls, []string{"", "test", "-c", "-tags", "vm,faults", "-o", filepath.Join(bin, testName(j.pkg)), "./" + j.pkg})
	}
	for _, c := range calls {
		cmd := exec.Command("go", c[1:]...) //nolint:gosec // the tree's own
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if c[0] != "" {
			cmd.Env = append(cmd.Env, "GOARCH="+c[0])
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("go %s: %w\n%s", strings.Join(c[1:], " "), err, out)
		}
	}
	return nil
}

// script runs one that prints a name.
func script(name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	return strings.TrimSpace(string(out)), nil
}

// collector takes the lines about layers out of a test's output.
type collector struct {
	table table
	setup string
	pass  io.Writer
	rest  string
}

func (c *collector) Write(p []byte) (int, error) {
	c.rest += string(p)
	for {
		line, rest, ok := strings.Cut(c.rest, "\n")
		if !ok {
			return len(p), nil
		}
		c.rest = rest
		if line == "" || c.table.add(c.setup, line) {
			continue
		}
		if _, err := fmt.Fprintln(c.pass, line); err != nil {
			return 0, err
		}
	}
}
