package plan

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"brig/internal/annotation"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// fuzzFacts are the test machine's, with its doubtful properties by bits.
func fuzzFacts(bits uint16) *Facts {
	f := testFacts()
	for i, p := range []*bool{&f.Privileged, &f.Nested, &f.Lenient, &f.Supervised, &f.Held, &f.Hooks, &f.Locked, &f.InheritStdio, &f.MAC.AppArmor, &f.MAC.SELinux} {
		*p = bits&(1<<i) != 0
	}
	if bits&(1<<10) != 0 {
		f.LandlockABI = 0
	}
	if bits&(1<<11) != 0 {
		f.PassFDs, f.CgroupTasks = 2, 3
	}
	if bits&(1<<12) != 0 {
		legacyHierarchies(f)
	}
	return f
}

// bounded says that an input is no larger than what a bundle has, many times over: beyond it the fuzzer only shows that more
// takes longer.
func bounded(s *specs.Spec) bool {
	if s.Linux == nil || s.Linux.Seccomp == nil {
		return true
	}
	rules := 0
	for _, c := range s.Linux.Seccomp.Syscalls {
		rules += len(c.Names) * max(1, len(c.Args))
	}
	return rules <= 1000
}

// check holds what every program has to obey, whatever spec it comes from.
func check(t *testing.T, spec *specs.Spec, plan *Plan, size int) {
	t.Helper()
	p := plan.Program
	if most := 2000 + 100*size; len(p.Instructions) > most {
		t.Errorf("%d instructions for %d bytes", len(p.Instructions), size)
	}
	exec, filter, entered := -1, -1, -1
	for i := range p.Instructions {
		in := &p.Instructions[i]
		line := p.Text(in)
		if in.Layer == "" || in.Why == "" {
			t.Fatalf("%d  %s has no layer or no reason", i, line)
		}
		switch in.Name {
		case "execve":
			exec = i
		case "seccomp":
			filter = i
		case "umount2", "chroot":
			entered = i
		}
		if strings.HasPrefix(line, "setns(<sandbox>") {
			entered = i
		}
		if strings.Contains(line, "NUL byte in a path") {
			t.Errorf("%d  %s: the spec is to be refused", i, line)
		}
		if exec >= 0 && in.Name != "execve" {
			t.Errorf("%d  %s comes after execve", i, line)
		}
	}
	if exec < 0 || entered < 0 {
		t.Fatalf("no execve, or no root is entered: %d, %d", exec, entered)
	}
	if spec.Linux.Seccomp != nil && filter < 0 {
		t.Error("the spec has a filter, the program loads none")
	}
	for i := range p.Instructions[entered+1:] {
		pathsStay(t, p.Text(&p.Instructions[entered+1+i]), p.Instructions[entered+1+i].Name)
	}
}

// pathsStay holds that a call after the root was entered names no path but below a descriptor.
func pathsStay(t *testing.T, line, name string) {
	t.Helper()
	switch name {
	case "mount", "umount2", "pivot_root", "chroot", "open", "openat", "mkdir", "mknod", "symlink":
		t.Errorf("%s takes a path", line)
	case "chdir":
		if line != `chdir("/")` {
			t.Errorf("%s takes a path", line)
		}
	case "openat2":
		own := `openat2(AT_FDCWD, "/", {O_PATH|O_DIRECTORY|O_CLOEXEC, 0}, 24) = <root>` // a further process' first step
		if line != own && (strings.Contains(line, "AT_FDCWD") || !strings.Contains(line, "RESOLVE_NO_MAGICLINKS")) {
			t.Errorf("%s can lead out", line)
		}
	default:
		if slices.Contains(pathCalls, name) && strings.Contains(line, "AT_FDCWD") {
			t.Errorf("%s is relative to the working directory", line)
		}
	}
}

// compileAll makes every kind of program of a spec, in bounded time.
func compileAll(t *testing.T, spec *specs.Spec, bits uint16, size int) {
	t.Helper()
	start := time.Now()
	if plan, err := Compile(spec, fuzzFacts(bits)); err == nil {
		check(t, spec, plan, size)
	} else if err.Error() == "" {
		t.Error("an error without words")
	}
	if plan, err := CompileExec(spec, fuzzFacts(bits&^(1<<4|1<<5))); err == nil {
		check(t, spec, plan, size)
	}
	// Ten times what the slowest takes on a machine at work.
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("%d bytes took %v", size, took)
	}
}

// bases are specs that compile, without their filters, which package seccomp fuzzes: a large one takes the fuzzer minutes to cut
// down. The first is empty.
func bases(f *testing.F) [][]byte {
	names, err := filepath.Glob("testdata/*.json")
	if err != nil || len(names) == 0 {
		f.Fatal(err, names)
	}
	list := [][]byte{[]byte("{}")}
	for _, name := range names {
		spec := readSpec(f, strings.TrimSuffix(filepath.Base(name), ".json"))
		spec.Linux.Seccomp = nil
		text, err := json.Marshal(spec)
		if err != nil {
			f.Fatal(err)
		}
		list = append(list, text)
	}
	return list
}

// FuzzCompile lays any JSON over a spec that compiles: each field that it has takes the place of the spec's.
func FuzzCompile(f *testing.F) {
	list := bases(f)
	for i, s := range []string{
		`{"process":{"args":["sh"],"cwd":"/work","noNewPrivileges":false,"user":{"uid":7,"gid":8,"additionalGids":[9],"umask":63}}}`,
		`{"process":{"terminal":true,"consoleSize":{"height":4294967295,"width":1}},"linux":{"seccomp":{"defaultAction":"SCMP_ACT_NOTIFY","listenerPath":"/a"}}}`,
		`{"process":{"capabilities":{"bounding":["CAP_KILL"],"ambient":["cap_kill","CAP_NONE"]},"rlimits":[{"type":"RLIMIT_NOFILE","soft":1,"hard":18446744073709551615}]}}`,
		`{"process":{"scheduler":{"policy":"SCHED_DEADLINE","runtime":1,"deadline":2,"period":3},"ioPriority":{"class":"IOPRIO_CLASS_BE","priority":4}}}`,
		`{"process":{"apparmorProfile":"p","selinuxLabel":"l","oomScoreAdj":-1000},"hostname":"h\u0000","domainname":"d"}`,
		`{"mounts":[{"destination":"/a/b","type":"tmpfs","source":"t","options":["ro","size=1k","tmpcopyup"]},{"destination":"/a","source":"/srv/data","options":["rbind","rro","rslave","idmap"]}]}`,
		`{"mounts":[{"destination":"/sys/fs/cgroup","type":"cgroup","options":["ro"]},{"destination":"/dev/pts","type":"devpts","options":["gid=5"]},{"destination":"/bin","type":"bind","source":"/bin","options":["copy-symlink","bind"]}]}`,
		`{"linux":{"namespaces":[{"type":"mount"},{"type":"user","path":"/proc/9/ns/user"},{"type":"time"}],"timeOffsets":{"boottime":{"secs":-1,"nanosecs":999999999}}}}`,
		`{"linux":{"namespaces":[]}}`, `{"linux":{"namespaces":[{"type":"mount","path":"/proc/9/ns/mnt"},{"type":"pid","path":"p"}]}}`,
		`{"linux":{"devices":[{"path":"/dev/x","type":"b","major":8,"minor":0,"fileMode":438,"uid":1,"gid":2},{"path":"/etc/../dev/y","type":"p"}],"maskedPaths":["/proc/kcore","/a","/"],"readonlyPaths":["/proc/sys","/dev/pts","/"]}}`,
		`{"linux":{"sysctl":{"net.ipv4.ip_forward":"1","kernel.shm_rmid_forced":"\n","fs/mqueue/../../x":"0"},"rootfsPropagation":"rshared","personality":{"domain":"LINUX32"}}}`,
		`{"linux":{"uidMappings":[{"containerID":0,"hostID":100000,"size":4294967295}],"gidMappings":[{"containerID":5,"hostID":0,"size":1}],"netDevices":{"eth0":{"name":"a%d"}},"memoryPolicy":{"mode":"MPOL_BIND","nodes":"0-1"}}}`,
		`{"root":{"path":"/srv/root","readonly":true},"annotations":{"run.brig.landlock":"on","run.brig.init":"true"}}`, `{"root":null,"process":null}`, `{"linux":null}`,
		`{"hooks":{"createContainer":[{"path":"/h"}],"startContainer":[{"path":"h"}]},"linux":{"intelRdt":{}}}`,
	} {
		f.Add(uint8(i), []byte(s), uint16(1<<(i%13)|1))
	}
	f.Fuzz(func(t *testing.T, base uint8, patch []byte, bits uint16) {
		if len(patch) > 1<<14 {
			return
		}
		text, spec := list[int(base)%len(list)], &specs.Spec{}
		if err := json.Unmarshal(text, spec); err != nil {
			t.Fatal(err)
		}
		if json.Unmarshal(patch, spec) != nil || !bounded(spec) {
			return
		}
		compileAll(t, spec, bits, len(text)+len(patch))
	})
}

// annotations are those that a plan reads.
var annotations = []string{
	annotation.Root, annotation.RootIDMap, annotation.IDs, annotation.Files, annotation.Landlock, annotation.LandlockBind, annotation.LandlockConnect,
	annotation.Seccomp, annotation.SeccompFloor, annotation.AllowMissing, annotation.Init, annotation.NoNewPrograms, annotation.Isolation, annotation.LockCaps,
	annotation.MaxUserNamespaces, annotation.KeepGroups,
}

// FuzzAnnotations gives a bundle that compiles two annotations with any values.
func FuzzAnnotations(f *testing.F) {
	for i, v := range []string{"ram", "true", "auto", `{"/etc/passwd":"root:x:0:0::/:/bin/sh\n"}`, "on", "80,443", "*", "default", `{"defaultAction":"SCMP_ACT_ALLOW"}`,
		"landlock, landlock-tcp", "strict", "0", "gvisor", "{\"/a/b\":\"\",\"/a\":\"\"}", "65536", "\x00"} {
		f.Add(uint8(i), v, uint8(i+3), "on", uint16(i)<<3|1)
	}
	f.Fuzz(func(t *testing.T, key uint8, value string, other uint8, otherValue string, bits uint16) {
		if len(value)+len(otherValue) > 1<<14 {
			return
		}
		spec := bundle(nil)
		spec.Annotations[annotations[int(key)%len(annotations)]] = value
		spec.Annotations[annotations[int(other)%len(annotations)]] = otherValue
		if spec.Annotations[annotation.Root] == "ram" {
			spec.Root = &specs.Root{}
		}
		compileAll(t, spec, bits, 1000+len(value)+len(otherValue))
	})
}
