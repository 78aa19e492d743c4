package policy

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"math"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// ParseSize reads a number of bytes with an optional unit: 1048576, 64k, 512m, 2g.
func ParseSize(text string) (int64, error) {
	n, err := units.RAMInBytes(text)
	if err != nil || n < 0 || strings.ContainsAny(text, " \t") {
		return 0, fmt.Errorf("%q is no size; write a number with a unit, as in 512m or 2g", text)
	}
	return n, nil
}

// ParseCPUs reads a number of processors as a quota in microseconds for each period of 100 ms (sched-bwc.rst).
func ParseCPUs(text string) (quota int64, period uint64, err error) {
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(f) || f < 0.01 || f > 8192 {
		return 0, 0, fmt.Errorf("%q is no number of processors; write one from 0.01 on, as in 0.5 or 2", text)
	}
	return int64(math.Round(f * 100000)), 100000, nil
}

// ParseDuration reads a time: 30s, 5m, 1h30m, or a plain number of seconds.
func ParseDuration(text string) (time.Duration, error) {
	if n, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(n) * time.Second, nil //nolint:gosec // 31 bits
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%q is no time; write one as 30s, 5m or 1h30m", text)
	}
	return d, nil
}

// ParseCount reads a whole number in a range.
func ParseCount(text string, low, high int64) (int64, error) {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < low || n > high {
		return 0, fmt.Errorf("%q is no number from %d to %d", text, low, high)
	}
	return n, nil
}

// CheckCPUSet refuses what is no list of processors in cpuset(7)'s format.
func CheckCPUSet(text string) error {
	for _, part := range strings.Split(text, ",") {
		low, high, isRange := strings.Cut(part, "-")
		a, err := strconv.ParseUint(low, 10, 16)
		b := a
		if err == nil && isRange {
			b, err = strconv.ParseUint(high, 10, 16)
		}
		if err != nil || b < a {
			return fmt.Errorf("%q is no list of processors; write one as 0-2,4", text)
		}
	}
	return nil
}

// ParseVolume reads docker's short form, SOURCE:TARGET[:OPTIONS], with options ro, rw and mount(8)'s.
func ParseVolume(text string) (Mount, error) {
	parts := strings.Split(text, ":")
	if len(parts) < 2 || len(parts) > 3 || parts[0] == "" || parts[1] == "" {
		return Mount{}, fmt.Errorf("%q is no volume; write SOURCE:TARGET or SOURCE:TARGET:ro", text)
	}
	if !strings.ContainsRune(parts[0], '/') && parts[0] != "." && parts[0] != ".." {
		return Mount{}, fmt.Errorf("%q: brig has no named volumes; for a folder write ./%s", text, parts[0])
	}
	m := Mount{Type: "bind", Source: parts[0], Target: parts[1]}
	if len(parts) == 3 {
		for _, o := range strings.Split(parts[2], ",") {
			if err := m.option(o); err != nil {
				return m, fmt.Errorf("%q: %w", text, err)
			}
		}
	}
	return m, nil
}

// tmpfsOptions are those of tmpfs(5) that a person may set, each with a value.
var tmpfsOptions = []string{"size", "mode", "nr_inodes", "uid", "gid"}

// propagations are docker's (its documentation, "Configure bind propagation").
var propagations = []string{"private", "rprivate", "slave", "rslave", "shared", "rshared"}

func (m *Mount) option(o string) error {
	yes, no := true, false
	switch o {
	case "ro", "readonly":
		m.ReadOnly = &yes
	case "rw":
		m.ReadOnly = &no
	case "z", "Z":
		if m.Type != "bind" {
			return fmt.Errorf("option %s gives the files of a volume another SELinux label; a %s has the sandbox's already", o, m.Type)
		}
		if other := map[string]string{"z": "Z", "Z": "z"}[o]; slices.Contains(m.Options, other) {
			return errors.New("the options z (shared) and Z (the sandbox's own) exclude each other")
		}
		m.Options = append(m.Options, o)
	case "noexec", "exec", "nosuid", "nodev", "noatime", "nosymfollow":
		m.Options = append(m.Options, o)
	case "":
		return fmt.Errorf("an option is empty")
	default:
		if slices.Contains(propagations, o) {
			m.Options = append(m.Options, o)
			return nil
		}
		key, _, ok := strings.Cut(o, "=")
		if !ok || m.Type != "tmpfs" || !slices.Contains(tmpfsOptions, key) {
			return fmt.Errorf("unknown mount option %q; there are ro, rw, z, Z, noexec, exec, nosuid, nodev, noatime, nosymfollow, the propagations, and of a tmpfs %s",
				o, strings.Join(tmpfsOptions, ", "))
		}
		m.Options = append(m.Options, o)
	}
	return nil
}

// ParseTmpfs reads docker's --tmpfs, TARGET[:OPTIONS].
func ParseTmpfs(text string) (Mount, error) {
	target, options, has := strings.Cut(text, ":")
	m := Mount{Type: "tmpfs", Target: target}
	if has {
		for _, o := range strings.Split(options, ",") {
			if err := m.option(o); err != nil {
				return m, fmt.Errorf("%q: %w", text, err)
			}
		}
	}
	return m, nil
}

// ParseMount reads docker's --mount, type=bind,source=…,target=…[,readonly].
func ParseMount(text string) (Mount, error) {
	m := Mount{Type: "bind"}
	for _, field := range strings.Split(text, ",") {
		if kind, ok := strings.CutPrefix(field, "type="); ok {
			m.Type = kind
		}
	}
	if m.Type != "bind" && m.Type != "tmpfs" {
		return m, fmt.Errorf("%q: mounts of type %s are not supported; there are bind and tmpfs", text, m.Type)
	}
	for _, field := range strings.Split(text, ",") {
		key, value, has := strings.Cut(field, "=")
		var err error
		switch key {
		case "type":
			if !has {
				err = errors.New("type needs a value, bind or tmpfs")
			}
		case "source", "src":
			m.Source = value
		case "target", "dst", "destination":
			m.Target = value
		case "readonly", "ro":
			ro := true
			if has {
				if ro, err = strconv.ParseBool(value); err != nil {
					err = fmt.Errorf("%s=%q must be true or false", key, value)
				}
			}
			m.ReadOnly = &ro
		case "tmpfs-size":
			m.Options = append(m.Options, "size="+value)
		case "tmpfs-mode":
			m.Options = append(m.Options, "mode="+value)
		case "bind-propagation":
			if !slices.Contains(propagations, value) {
				err = fmt.Errorf("bind-propagation=%q must be one of %s", value, strings.Join(propagations, ", "))
			}
			m.Options = append(m.Options, value)
		default:
			err = fmt.Errorf("unknown field %q; there are type, source, target, readonly, bind-propagation, tmpfs-size and tmpfs-mode", key)
		}
		if err != nil {
			return m, fmt.Errorf("%q: %w", text, err)
		}
	}
	if m.Target == "" || m.Type == "bind" && m.Source == "" {
		return m, fmt.Errorf("%q: a mount needs target=, and a bind source= too", text)
	}
	return m, nil
}

// ulimits are the names of setrlimit(2), which docker takes but for as.
var ulimits = []string{
	"as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio", "rttime", "sigpending", "stack",
}

// ParseUlimit reads NAME=SOFT[:HARD]; -1 and unlimited are no limit.
func ParseUlimit(text string) (specs.POSIXRlimit, error) {
	var l specs.POSIXRlimit
	name, value, ok := strings.Cut(text, "=")
	if !ok || !slices.Contains(ulimits, name) {
		return l, fmt.Errorf("%q is no resource limit; write NAME=SOFT:HARD with NAME one of %s", text, strings.Join(ulimits, " "))
	}
	soft, hard, both := strings.Cut(value, ":")
	var err error
	if l.Soft, err = limit(soft); err == nil {
		l.Hard = l.Soft
		if both {
			l.Hard, err = limit(hard)
		}
	}
	if err != nil {
		return l, fmt.Errorf("%q: %w", text, err)
	}
	if l.Soft > l.Hard {
		return l, fmt.Errorf("%q: the soft limit is above the hard one", text)
	}
	l.Type = "RLIMIT_" + strings.ToUpper(name)
	return l, nil
}

func limit(text string) (uint64, error) {
	if text == "-1" || text == "unlimited" {
		return math.MaxUint64, nil
	}
	n, err := strconv.ParseUint(text, 10, 63)
	if err != nil {
		return 0, fmt.Errorf("%q is no number, -1 or unlimited", text)
	}
	return n, nil
}

// Device is a device node of the host and its place inside.
type Device struct{ Source, Target, Access string }

// ParseDevice reads docker's --device, PATH[:PATH INSIDE][:rwm].
func ParseDevice(text string) (Device, error) {
	parts := strings.Split(text, ":")
	d := Device{Source: parts[0], Target: parts[0], Access: "rwm"}
	switch len(parts) {
	case 1:
	case 2:
		if path.IsAbs(parts[1]) {
			d.Target = parts[1]
		} else {
			d.Access = parts[1]
		}
	case 3:
		d.Target, d.Access = parts[1], parts[2]
	default:
		return d, fmt.Errorf("%q is no device; write PATH, PATH:INSIDE or PATH:INSIDE:rwm", text)
	}
	if !path.IsAbs(d.Source) || !path.IsAbs(d.Target) || path.Clean(d.Target) != d.Target || d.Target == "/" || strings.Trim(d.Access, "rwm") != "" || d.Access == "" {
		return d, fmt.Errorf("%q is no device; write PATH, PATH:INSIDE or PATH:INSIDE:rwm", text)
	}
	return d, nil
}

// ParseThrottle reads /dev/NAME:RATE; size says whether the rate has units of bytes.
func ParseThrottle(text string, size bool) (device string, rate uint64, err error) {
	device, value, ok := strings.Cut(text, ":")
	if !ok || !path.IsAbs(device) {
		return "", 0, fmt.Errorf("%q is no rate; write /dev/NAME:RATE", text)
	}
	var n int64
	if size {
		n, err = ParseSize(value)
	} else {
		n, err = ParseCount(value, 1, math.MaxInt64)
	}
	if err != nil {
		return "", 0, fmt.Errorf("%q: %w", text, err)
	}
	return device, uint64(n), nil //nolint:gosec // not negative
}

// ParseEnv gives KEY=VALUE for KEY=VALUE, and for KEY the caller's value; ok is false when the caller has none.
func ParseEnv(text string, lookup func(string) (string, bool)) (entry string, ok bool, err error) {
	key, _, has := strings.Cut(text, "=")
	if key == "" || strings.ContainsAny(key, " \t\x00") {
		return "", false, fmt.Errorf("%q is no environment variable; write KEY=VALUE, or KEY to pass on the caller's", key)
	}
	if has {
		return text, true, nil
	}
	value, ok := lookup(key)
	return key + "=" + value, ok, nil
}

// ParseEnvFile reads a file of KEY=VALUE lines, as docker does: blank lines and lines that begin with # are passed over.
func ParseEnvFile(name string, data []byte, lookup func(string) (string, bool)) ([]string, error) {
	var env []string
	s := bufio.NewScanner(bytes.NewReader(data))
	for n := 1; s.Scan(); n++ {
		line := strings.TrimLeft(s.Text(), " \t")
		if line == "" || line[0] == '#' {
			continue
		}
		entry, ok, err := ParseEnv(line, lookup)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, n, err)
		}
		if ok {
			env = append(env, entry)
		}
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("%s: read the environment file: %w", name, err)
	}
	return env, nil
}

// CheckHostname refuses what is no host name of RFC 1123 (2.1: labels of letters, digits and inner hyphens, with dots
// between them), or too long for uname(2).
func CheckHostname(name string) error {
	ok := len(name) <= 64
	for label := range strings.SplitSeq(name, ".") {
		ok = ok && label != "" && len(label) <= 63 && label[0] != '-' && label[len(label)-1] != '-' && strings.Trim(label, hostnameCharacters) == ""
	}
	if !ok {
		return fmt.Errorf("%q is no host name; write up to 64 letters, digits, hyphens and dots", name)
	}
	return nil
}

const hostnameCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-"

// absolute resolves a path of the host against the working directory.
func absolute(name, cwd string) string {
	if filepath.IsAbs(name) {
		return filepath.Clean(name)
	}
	return filepath.Join(cwd, name)
}
