package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"brig/internal/host"

	"golang.org/x/sys/unix"
)

// machine is where and how the numbers were made.
type machine struct {
	CPU      string            `json:"cpu"`
	Cores    int               `json:"cores"`
	RAM      uint64            `json:"ramBytes"`
	Kernel   string            `json:"kernel"`
	System   string            `json:"system"`
	StateFS  string            `json:"stateFileSystem"` // of /run, where all tools keep their state
	Virtual  bool              `json:"virtual"`         // a virtual machine: the processor says so
	Versions map[string]string `json:"versions"`
	Date     time.Time         `json:"date"`
	Command  []string          `json:"command"`
	// LoadBefore and LoadAfter are /proc/loadavg. Others is the share of the processors' time that neither this program
	// nor what it started used while it ran: kernel threads that clear up, and other people's work.
	LoadBefore string  `json:"loadBefore"`
	LoadAfter  string  `json:"loadAfter"`
	Others     float64 `json:"othersShare"`
}

func (t *tools) describe() machine {
	m := machine{Cores: runtime.NumCPU(), Versions: map[string]string{"go": runtime.Version()}, Date: time.Now().UTC(), Command: os.Args[1:]}
	m.CPU = field("/proc/cpuinfo", "model name")
	m.System = strings.Trim(field("/etc/os-release", "PRETTY_NAME"), `"`)
	m.LoadBefore = firstLine("/proc/loadavg")
	m.Virtual = strings.Contains(" "+field("/proc/cpuinfo", "flags")+" ", " hypervisor ")
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel = unix.ByteSliceToString(u.Release[:]) + " " + unix.ByteSliceToString(u.Machine[:])
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		m.RAM = uint64(info.Totalram) * uint64(info.Unit) //nolint:unconvert // 32 bits wide on some machines
	}
	m.StateFS = fileSystem("/run")
	m.Versions["source"] = source()
	for name, path := range t.paths {
		m.Versions[name] = version(path)
	}
	return m
}

// fileSystem names the file system that a folder lies on.
func fileSystem(dir string) string {
	out, err := exec.Command("findmnt", "-n", "-o", "FSTYPE", "-T", dir).Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

// source names the commit that Brig was built from.
func source() string {
	out, err := exec.Command("git", "describe", "--always", "--dirty=, with changes", "--exclude=*").Output()
	if err != nil {
		return "unknown"
	}
	return "commit " + strings.TrimSpace(string(out))
}

// versionOf is the command line that prints a tool's version.
func versionOf(path string) []string {
	if filepath.Base(path) == "brig" {
		return []string{path, "version"}
	}
	return []string{path, "--version"}
}

func version(path string) string {
	argv := versionOf(path)
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		return "unknown"
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSpace(line)
}

// field is the value of the first line that begins with a key, in a file of "key: value" or "key=value" lines.
func field(file, key string) string {
	data, _ := os.ReadFile(file)
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, key); ok {
			return strings.TrimSpace(strings.TrimLeft(rest, " \t:="))
		}
	}
	return ""
}

func firstLine(file string) string {
	data, _ := os.ReadFile(file)
	line, _, _ := bytes.Cut(data, []byte("\n"))
	return string(line)
}

// busy is the time that the processors have worked, in all and for this program.
type busy struct {
	at       time.Time
	all, own time.Duration
}

// userHZ is the unit of /proc/stat (proc_stat(5)); 100 on every machine Linux has.
const userHZ = 100

func readBusy() busy {
	b := busy{at: time.Now(), own: ownCPU()}
	f := strings.Fields(firstLine("/proc/stat"))
	for i, text := range f {
		// cpu user nice system idle iowait irq softirq steal: all but idle and iowait is work.
		if n, err := strconv.ParseInt(text, 10, 64); err == nil && i != 4 && i != 5 && i <= 8 {
			b.all += time.Duration(n) * time.Second / userHZ
		}
	}
	return b
}

// others is the share of the processors' time since before that was neither idle nor this program's.
func (b busy) others(before busy) float64 {
	have := b.at.Sub(before.at) * time.Duration(runtime.NumCPU())
	return max(0, float64(b.all-before.all-(b.own-before.own))/float64(have))
}

func (m *machine) finish(before busy) {
	m.LoadAfter = firstLine("/proc/loadavg")
	m.Others = readBusy().others(before)
}

// idle is the share of the processors' time that others may use in a second that counts as quiet.
const idle = 0.05

// waitQuiet waits until a second has passed in which the machine did next to nothing.
func waitQuiet(ctx context.Context, most time.Duration) error {
	for deadline := time.Now().Add(most); time.Now().Before(deadline); {
		before := readBusy()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
		if readBusy().others(before) < idle {
			return nil
		}
	}
	return nil
}

// hybridCgroups tells whether the host has cgroup version 1 controllers.
func hybridCgroups() bool {
	tree, err := host.Cgroups()
	return err == nil && !tree.V2()
}
