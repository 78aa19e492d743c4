package policy

import (
	"errors"
	"fmt"
	"path"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"brig/internal/caps"
	"brig/internal/mac"
)

// Validate refuses values that are wrong by themselves and values that contradict each other. The error is an *Error
// that names the key.
func (p *Policy) Validate() error {
	for _, check := range []func() error{
		p.checkNUL, p.checkWords, p.checkRoot, p.checkMounts, p.checkCaps, p.checkLandlock, p.checkLimits, p.checkRates, p.checkContradictions, p.checkGVisor,
	} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

// checkNUL refuses NUL bytes everywhere: to the kernel a text would end there.
func (p *Policy) checkNUL() error { return checkNUL("", reflect.ValueOf(p)) }

func checkNUL(path string, v reflect.Value) error {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			return checkNUL(path, v.Elem())
		}
	case reflect.String:
		if strings.IndexByte(v.String(), 0) >= 0 {
			return bad(path, "%q has a NUL byte, where the kernel would end it", v.String())
		}
	case reflect.Slice:
		for i := range v.Len() {
			if err := checkNUL(fmt.Sprintf("%s[%d]", path, i), v.Index(i)); err != nil {
				return err
			}
		}
	case reflect.Map:
		for it := v.MapRange(); it.Next(); {
			if err := errors.Join(checkNUL(path, it.Key()), checkNUL(path, it.Value())); err != nil {
				return bad(path, "%q: %q has a NUL byte, where the kernel would end it", it.Key(), it.Value())
			}
		}
	case reflect.Struct:
		for i := range v.NumField() {
			key, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ",")
			if err := checkNUL(strings.TrimPrefix(path+"."+key, "."), v.Field(i)); err != nil {
				return err
			}
		}
	}
	return nil
}

// oneOf checks a word against those there are; empty is not set.
func oneOf(key, value string, known ...string) error {
	if value == "" || slices.Contains(known, value) {
		return nil
	}
	return bad(key, "unknown value %q%s", value, nearest(value, known...))
}

func (p *Policy) checkWords() error {
	if p.Version != 0 && p.Version != 1 {
		return bad("version", "%d is not known to this brig; it reads version 1", p.Version)
	}
	if p.Isolation == "vm" {
		return bad("isolation", "vm is not built in yet; there are native and gvisor")
	}
	for _, w := range []struct {
		key, value string
		known      []string
	}{
		{"preset", p.Preset, []string{Default, Strict, Compat}},
		{"isolation", p.Isolation, []string{"native", "gvisor"}},
		{"network", p.Network, []string{"none", "host"}},
		{"pull", p.Pull, []string{"missing", "always", "never"}},
		{"verifyImage", p.VerifyImage, []string{"always", "changed"}},
	} {
		if err := oneOf(w.key, w.value, w.known...); err != nil {
			return err
		}
	}
	if p.Namespaces != nil {
		if err := oneOf("namespaces.user", p.Namespaces.User, "auto", "host"); err != nil {
			return err
		}
	}
	if p.AppArmor != "" {
		if err := mac.CheckProfile(p.AppArmor); err != nil {
			return bad("apparmor", "%v", err)
		}
	}
	if p.Hostname != "" {
		if err := CheckHostname(p.Hostname); err != nil {
			return bad("hostname", "%v", err)
		}
	}
	if p.Workdir != "" && !path.IsAbs(p.Workdir) {
		return bad("workdir", "%q must be an absolute path", p.Workdir)
	}
	for i, e := range p.Env {
		if _, _, err := ParseEnv(e, func(string) (string, bool) { return "", false }); err != nil || !strings.Contains(e, "=") {
			return bad(fmt.Sprintf("env[%d]", i), "is no environment variable; write KEY=VALUE")
		}
	}
	if p.StopTimeout != "" {
		if _, err := ParseDuration(p.StopTimeout); err != nil {
			return bad("stopTimeout", "%v", err)
		}
	}
	return nil
}

func (p *Policy) checkRoot() error {
	root := p.Root
	if root == nil {
		root = &Root{}
	}
	if err := oneOf("root.writable", root.Writable, "ram", "disk"); err != nil {
		return err
	}
	written := root.ReadOnly != nil && !*root.ReadOnly
	switch {
	case p.Image != "" && root.Path != "":
		return bad("root.path", "contradicts image: there is one root file system; leave one of them out")
	case p.Image == "" && root.Path == "" && written:
		return bad("root.readOnly", "false needs an image or root.path: the view of the host's programs is read-only; for a place to write give a tmpfs")
	case p.Image == "" && root.Path == "" && root.Writable+root.WritableSize != "":
		return bad("root.writable", "needs an image or root.path: the view of the host's programs is read-only; for a place to write give a tmpfs")
	case isTrue(root.ReadOnly) && root.Writable+root.WritableSize != "":
		return bad("root.readOnly", "true contradicts root.writable, which is for what is written to the root; leave one of them out")
	case root.WritableSize != "":
		if size, err := ParseSize(root.WritableSize); err != nil {
			return bad("root.writableSize", "%v", err)
		} else if size < smallestWritable {
			return bad("root.writableSize", "%q is too little; give at least 1m", root.WritableSize)
		}
	}
	return p.checkImage()
}

// smallestWritable is the least that has room for the folders of an overlay.
const smallestWritable = 1 << 20

// checkImage holds that what is about an image is not said without one. Whether a reference is well-formed its store says.
func (p *Policy) checkImage() error {
	if p.Image != "" {
		return nil
	}
	for _, w := range []struct{ key, value string }{
		{"pull", p.Pull}, {"platform", p.Platform}, {"verify", strings.Join(p.Verify, ", ")}, {"verifyImage", p.VerifyImage},
	} {
		if w.value != "" {
			return bad(w.key, "is about an image, and none is given")
		}
	}
	return nil
}

func (p *Policy) checkMounts() error {
	seen := map[string]bool{}
	for i, m := range p.Mounts {
		key := fmt.Sprintf("mounts[%d]", i)
		if err := oneOf(key+".type", m.Type, "bind", "tmpfs"); err != nil {
			return err
		}
		switch {
		case m.Target == "":
			return bad(key+".target", "is missing: where inside is it to be?")
		case !path.IsAbs(m.Target):
			return bad(key+".target", "%q must be an absolute path", m.Target)
		case slices.Contains(strings.Split(m.Target, "/"), ".."):
			return bad(key+".target", "%q leads out by \"..\"; write where it is inside", m.Target)
		case path.Clean(m.Target) == "/":
			return bad(key+".target", "the root itself cannot be mounted over; give it with root.path")
		case seen[path.Clean(m.Target)]:
			return bad(key+".target", "%s is mounted over twice", m.Target)
		case m.Type == "tmpfs" && m.Source != "":
			return bad(key+".source", "a tmpfs has no source")
		case m.Type != "tmpfs" && m.Source == "":
			return bad(key+".source", "is missing: what of the host is to be at %s?", m.Target)
		}
		seen[path.Clean(m.Target)] = true
		for _, o := range m.Options {
			probe := m
			if err := probe.option(o); err != nil {
				return bad(key+".options", "%v", err)
			}
		}
	}
	for i, d := range p.Devices {
		if _, err := ParseDevice(d); err != nil {
			return bad(fmt.Sprintf("devices[%d]", i), "%v", err)
		}
	}
	return nil
}

func (p *Policy) checkCaps() error {
	if p.Capabilities == nil {
		return nil
	}
	for _, list := range []struct {
		key   string
		names []string
	}{{"capabilities.add", p.Capabilities.Add}, {"capabilities.drop", p.Capabilities.Drop}} {
		for i, name := range list.names {
			if sameCap(name, "ALL") {
				continue
			}
			if _, err := caps.Parse(name); err != nil {
				return bad(fmt.Sprintf("%s[%d]", list.key, i), "%v", err)
			}
		}
	}
	for i, a := range p.Capabilities.Add {
		if slices.ContainsFunc(p.Capabilities.Drop, func(d string) bool { return sameCap(a, d) }) {
			return bad(fmt.Sprintf("capabilities.add[%d]", i), "%s is added and dropped; decide for one", a)
		}
	}
	return nil
}

func (p *Policy) checkLandlock() error {
	if p.Landlock == nil {
		return nil
	}
	if err := oneOf("landlock.mode", p.Landlock.Mode, "on", "strict", "off"); err != nil {
		return err
	}
	for _, list := range []struct {
		key   string
		ports []string
	}{{"landlock.bind", p.Landlock.Bind}, {"landlock.connect", p.Landlock.Connect}} {
		for i, port := range list.ports {
			if _, err := strconv.ParseUint(port, 10, 16); err != nil && port != "*" {
				return bad(fmt.Sprintf("%s[%d]", list.key, i), "%q is no port; write 0 to 65535, or *", port)
			}
		}
		if len(list.ports) > 0 && p.Landlock.Mode == "off" {
			return bad(list.key, "says which ports are open, but landlock.mode is off")
		}
	}
	return nil
}

func (p *Policy) checkLimits() error {
	l := p.Limits
	if l == nil {
		return nil
	}
	for _, v := range []struct {
		key, value string
		check      func(string) error
	}{
		{"limits.memory", l.Memory, checkMemory},
		{"limits.memorySwap", l.MemorySwap, func(s string) error {
			if s == "-1" {
				return nil
			}
			return checkMemory(s)
		}},
		{"limits.cpus", l.CPUs, func(s string) error { _, _, err := ParseCPUs(s); return err }},
		{"limits.cpusetCpus", l.CPUSet, CheckCPUSet},
		{"limits.pids", l.Pids, func(s string) error { _, err := parsePids(s); return err }},
		{"limits.blkioWeight", l.BlkioWeight, func(s string) error { _, err := ParseCount(s, 10, 1000); return err }},
		{"limits.timeout", l.Timeout, func(s string) error { _, err := ParseDuration(s); return err }},
		{"limits.output", l.Output, func(s string) error { _, err := ParseSize(s); return err }},
	} {
		if v.value == "" {
			continue
		}
		if err := v.check(v.value); err != nil {
			return bad(v.key, "%v", err)
		}
	}
	for i, u := range l.Ulimits {
		if _, err := ParseUlimit(u); err != nil {
			return bad(fmt.Sprintf("limits.ulimits[%d]", i), "%v", err)
		}
	}
	return nil
}

// smallestMemory is what the kernel's own structures of a sandbox and a small program need. docker's is 6 MiB.
const smallestMemory = 4 << 20

func checkMemory(text string) error {
	n, err := ParseSize(text)
	if err == nil && n < smallestMemory {
		err = fmt.Errorf("%q is too little: no sandbox starts with less than 4m", text)
	}
	return err
}

// parsePids reads a limit of processes; -1 is none.
func parsePids(text string) (int64, error) {
	if text == "-1" {
		return -1, nil
	}
	return ParseCount(text, 1, 1<<22)
}

func (p *Policy) checkRates() error {
	l := p.Limits
	if l == nil {
		return nil
	}
	for _, r := range l.rates() {
		for i, text := range *r.list {
			if _, _, err := ParseThrottle(text, r.size); err != nil {
				return bad(fmt.Sprintf("%s[%d]", r.key, i), "%v", err)
			}
		}
	}
	return nil
}

type rate struct {
	key  string
	list *[]string
	size bool
}

func (l *Limits) rates() []rate {
	return []rate{
		{"limits.deviceReadBps", &l.DeviceReadBps, true}, {"limits.deviceWriteBps", &l.DeviceWriteBps, true},
		{"limits.deviceReadIops", &l.DeviceReadIOps, false}, {"limits.deviceWriteIops", &l.DeviceWriteIO, false},
	}
}

func (p *Policy) checkContradictions() error {
	if p.Preset == Strict {
		if p.Seccomp == "unconfined" {
			return bad("seccomp", "unconfined contradicts preset strict; use the preset default")
		}
		if p.Namespaces != nil && p.Namespaces.User == "host" {
			return bad("namespaces.user", "host contradicts preset strict; use the preset default")
		}
	}
	if p.Network == "none" && p.Landlock != nil && len(p.Landlock.Connect) > 0 {
		return bad("landlock.connect", "opens ports, but network is none: there is nobody to connect to")
	}
	if l := p.Limits; l != nil && l.MemorySwap != "" && l.MemorySwap != "-1" {
		if l.Memory == "" {
			return bad("limits.memorySwap", "needs limits.memory: it is memory and swap together")
		}
		memory, err1 := ParseSize(l.Memory)
		both, err2 := ParseSize(l.MemorySwap)
		if err1 == nil && err2 == nil && both < memory {
			return bad("limits.memorySwap", "%s is memory and swap together, so it cannot be below limits.memory, %s", l.MemorySwap, l.Memory)
		}
	}
	return nil
}
