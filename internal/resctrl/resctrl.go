// Package resctrl puts a container into a class of service of Intel's Resource Director Technology, or its like of other
// makers, through the kernel's resctrl file system (runtime-spec config-linux.md, "IntelRdt"; Documentation/filesystems/resctrl.rst).
//
// Its place on the road: package oci makes the group before the container, attaches every process that it starts in it before
// the program runs, and removes what it made with the container.
package resctrl

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Group is a container's class of service, as a state file keeps it.
type Group struct {
	Dir     string `json:"dir"`               // of the class
	Own     bool   `json:"own,omitempty"`     // the class is the container's alone and goes with it
	Monitor string `json:"monitor,omitempty"` // folder of the monitoring group, which always goes with it
}

// ErrNone is returned where no resctrl file system is mounted. The first words are runc's.
var ErrNone = errors.New("intelRdt is specified in config, but Intel RDT is not supported or enabled: " +
	"no resctrl file system is mounted on this host; mount one at /sys/fs/resctrl, or leave the field out")

// Root finds the mounted resctrl file system.
func Root() (string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // read only
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		fields := strings.Fields(before)
		if kind, _, _ := strings.Cut(after, " "); ok && kind == "resctrl" && len(fields) > 4 {
			return fields[4], nil
		}
	}
	return "", errors.Join(lines.Err(), ErrNone)
}

// Plan decides the folders of a container's group without making any.
func Plan(root, id string, r *specs.LinuxIntelRdt) (*Group, error) {
	class := r.ClosID
	switch {
	case class == "." || class == ".." || class != "/" && strings.ContainsAny(class, "/\x00\n"):
		return nil, fmt.Errorf("invalid intelRdt.ClosID %q", class)
	case class == "":
		class = id
	}
	for _, line := range schemas(r) {
		if strings.ContainsAny(line, "\n\x00") {
			return nil, fmt.Errorf("the schema %q is more than one line", line)
		}
	}
	if r.MemBwSchema != "" && !strings.HasPrefix(r.MemBwSchema, "MB:") {
		return nil, fmt.Errorf("memBwSchema %q does not begin with \"MB:\"", r.MemBwSchema)
	}
	g := &Group{Dir: filepath.Join(root, class)}
	if _, err := os.Stat(g.Dir); r.ClosID == "" && errors.Is(err, fs.ErrNotExist) {
		g.Own = true
	}
	if r.EnableMonitoring {
		g.Monitor = filepath.Join(g.Dir, "mon_groups", id)
	}
	return g, nil
}

// schemas are the lines for the schemata file, in the order in which the spec wants them written.
func schemas(r *specs.LinuxIntelRdt) []string {
	var lines []string
	for _, line := range append([]string{r.L3CacheSchema, r.MemBwSchema}, r.Schemata...) {
		if line != "" {
			lines = append(lines, line)
		}
	}
	return lines
}

// Make makes the group, or takes an existing class as it is: another container's limits are not this one's to change.
func (g *Group) Make(r *specs.LinuxIntelRdt) error {
	lines := schemas(r)
	err := os.Mkdir(g.Dir, 0o755) //nolint:gosec // as the kernel's own
	switch {
	case err == nil && r.ClosID != "" && len(lines) == 0:
		return errors.Join(fmt.Errorf("the class of service %s does not exist, and no schema says what it would be", r.ClosID), os.Remove(g.Dir))
	case err == nil:
		if err := g.write(lines); err != nil {
			return errors.Join(err, removeGroup(g.Dir))
		}
	case !errors.Is(err, fs.ErrExist):
		return g.explain(fmt.Errorf("make the class of service: %w", err))
	case r.ClosID != "":
		if err := g.compare(lines); err != nil {
			return err
		}
	default:
		if err := g.write(lines); err != nil {
			return err
		}
	}
	if g.Monitor == "" {
		return nil
	}
	if err := os.Mkdir(g.Monitor, 0o755); err != nil { //nolint:gosec // as above
		g.Monitor = "" // another's, and not to be removed
		return g.explain(fmt.Errorf("make the monitoring group: %w", err))
	}
	return nil
}

func (g *Group) write(lines []string) error {
	if len(lines) == 0 {
		return nil
	}
	text := strings.Join(lines, "\n") + "\n"
	if err := os.WriteFile(filepath.Join(g.Dir, "schemata"), []byte(text), 0o644); err != nil { //nolint:gosec // the kernel's mode
		return g.explain(fmt.Errorf("set the schema: %w", err))
	}
	return nil
}

// explain adds what the kernel says of the last failure.
func (g *Group) explain(err error) error {
	dir := filepath.Dir(g.Dir)
	if text, rerr := os.ReadFile(filepath.Join(dir, "info/last_cmd_status")); rerr == nil {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(text)))
	}
	return err
}

// compare holds the lines against those of an existing class.
func (g *Group) compare(lines []string) error {
	text, err := os.ReadFile(filepath.Join(g.Dir, "schemata"))
	if err != nil {
		return err
	}
	have := parse(strings.Split(string(text), "\n"))
	for domain, value := range parse(lines) {
		if have[domain] != value {
			return fmt.Errorf("the class of service %s has another schema: %s is %q, and %q is asked for", filepath.Base(g.Dir), domain, have[domain], value)
		}
	}
	return nil
}

// parse splits lines such as "L3:0=7f0;1=1f" into their domains. Leading zeros mean nothing: masks are printed with some.
func parse(lines []string) map[string]string {
	values := map[string]string{}
	for _, line := range lines {
		resource, list, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok {
			continue
		}
		for part := range strings.SplitSeq(list, ";") {
			domain, value, _ := strings.Cut(part, "=")
			domain, value = strings.TrimSpace(domain), strings.TrimSpace(value)
			values[resource+":"+domain] = strings.ToLower(strings.TrimLeft(value, "0"))
		}
	}
	return values
}

// Attach puts a process of one thread into the class and its monitoring group.
func (g *Group) Attach(pid int) error {
	for _, dir := range []string{g.Dir, g.Monitor} {
		if dir == "" {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, "tasks"), []byte(strconv.Itoa(pid)), 0o644); err != nil { //nolint:gosec // the kernel's mode
			return g.explain(fmt.Errorf("put process %d into the class of service: %w", pid, err))
		}
	}
	return nil
}

// Remove removes what was made for the container alone.
func (g *Group) Remove() error {
	var err error
	if g.Monitor != "" {
		err = removeGroup(g.Monitor)
	}
	if g.Own {
		err = errors.Join(err, removeGroup(g.Dir))
	}
	return err
}

// removeGroup removes a folder of resctrl: its files go with it. One that is gone is no error.
func removeGroup(dir string) error {
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		return &os.PathError{Op: "remove the class of service", Path: dir, Err: err}
	}
	return nil
}
