// Command gentable writes the system-call tables of package seccomp (zsyscalls.go) from the number files of
// golang.org/x/sys/unix at the version go.mod pins. Those are made from the kernel's own tables (x/sys
// unix/linux/Dockerfile names the kernel release). Run it through "go generate ./internal/seccomp".
package main

import (
	"bufio"
	"bytes"
	"fmt"
	"go/format"
	"log"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// column is one architecture of the table and the x/sys file it is read from.
type column struct {
	constant string // Go constant naming the column
	goarch   string // zsysnum_linux_<goarch>.go
	adjust   func(map[string]int32)
}

// columns are in the order of the column constants in arch.go. mips and mipsle, mips64 and mips64le, ppc64 and
// ppc64le have the same numbers and share a column; the test of this package's parent checks that they do.
var columns = []column{
	{"colX86_64", "amd64", nil},
	{"colX32", "amd64", x32},
	{"colX86", "386", nil},
	{"colARM64", "arm64", nil},
	{"colARM", "arm", armPrivate},
	{"colRISCV64", "riscv64", nil},
	{"colLoong64", "loong64", nil},
	{"colMIPS", "mips", nil},
	{"colMIPS64", "mips64", nil},
	{"colPPC", "ppc", nil},
	{"colPPC64", "ppc64", nil},
	{"colS390X", "s390x", nil},
}

// notCalls are constants of x/sys that mark a bound or a base and name no call.
var notCalls = []string{"syscall_mask", "arch_specific_syscall", "oabi_syscall_base"}

func main() {
	log.SetFlags(0)
	dir, version := module("golang.org/x/sys")
	tables := make([]map[string]int32, len(columns))
	names := map[string]bool{}
	for i, c := range columns {
		t := read(filepath.Join(dir, "unix", "zsysnum_linux_"+c.goarch+".go"))
		if c.adjust != nil {
			c.adjust(t)
		}
		for name := range t {
			names[name] = true
		}
		tables[i] = t
	}
	src, err := format.Source(render(version, slices.Sorted(maps.Keys(names)), tables))
	if err != nil {
		log.Fatal(err)
	}
	if err := os.WriteFile("zsyscalls.go", src, 0o644); err != nil {
		log.Fatal(err)
	}
}

// module gives the folder and version of a module of the build list.
func module(path string) (dir, version string) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}} {{.Version}}", path).Output()
	if err != nil {
		log.Fatalf("go list -m %s: %v", path, err)
	}
	dir, version, _ = strings.Cut(strings.TrimSpace(string(out)), " ")
	return dir, version
}

var line = regexp.MustCompile(`^\s+SYS_(\w+)\s+= (\d+)`)

// read parses one number file. The kernel's names are lower case throughout.
func read(path string) map[string]int32 {
	f, err := os.Open(path)
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	table := map[string]int32{}
	for s := bufio.NewScanner(f); s.Scan(); {
		m := line.FindStringSubmatch(s.Text())
		if m == nil {
			continue
		}
		n, err := strconv.ParseInt(m[2], 10, 32)
		if err != nil {
			log.Fatal(err)
		}
		if name := strings.ToLower(m[1]); !slices.Contains(notCalls, name) {
			table[name] = int32(n)
		}
	}
	if len(table) < 250 {
		log.Fatalf("%s: only %d system calls found", path, len(table))
	}
	return table
}

// x32 turns the x86_64 table into x32's: the numbers of syscall_64.tbl marked "common" with bit 30 set, without
// those marked "64", and with the 36 of its own from 512 on (arch/x86/entry/syscalls/syscall_64.tbl).
func x32(t map[string]int32) {
	for _, name := range []string{"uselib", "_sysctl", "create_module", "get_kernel_syms", "query_module", "nfsservctl",
		"set_thread_area", "get_thread_area", "epoll_ctl_old", "epoll_wait_old", "vserver"} {
		delete(t, name)
	}
	for i, name := range []string{"rt_sigaction", "rt_sigreturn", "ioctl", "readv", "writev", "recvfrom", "sendmsg", "recvmsg",
		"execve", "ptrace", "rt_sigpending", "rt_sigtimedwait", "rt_sigqueueinfo", "sigaltstack", "timer_create", "mq_notify",
		"kexec_load", "waitid", "set_robust_list", "get_robust_list", "vmsplice", "move_pages", "preadv", "pwritev",
		"rt_tgsigqueueinfo", "recvmmsg", "sendmmsg", "process_vm_readv", "process_vm_writev", "setsockopt", "getsockopt",
		"io_setup", "io_submit", "execveat", "preadv2", "pwritev2"} {
		t[name] = int32(512 + i)
	}
	for name := range t {
		t[name] |= 1 << 30
	}
}

// armPrivate adds ARM's private calls, which the kernel keeps out of its table (arch/arm/include/uapi/asm/unistd.h).
func armPrivate(t map[string]int32) {
	for i, name := range []string{"breakpoint", "cacheflush", "usr26", "usr32", "set_tls", "get_tls"} {
		t[name] = int32(0x0f0001 + i)
	}
}

// slots is the size of the hash table, as in syscalls.go.
const slots = 2048

// hashTable places every name in an open table, by the hash syscalls.go computes.
func hashTable(names []string) (table [slots]int) {
	for i, n := range names {
		h := uint32(2166136261)
		for _, c := range []byte(n) {
			h = (h ^ uint32(c)) * 16777619
		}
		at := h % slots
		for table[at] != 0 {
			at = (at + 1) % slots
		}
		table[at] = i + 1
	}
	return table
}

// render writes the Go source: one sorted array of names, one array of numbers an architecture, in step.
func render(version string, names []string, tables []map[string]int32) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "// Code generated by gentable from golang.org/x/sys %s; DO NOT EDIT.\n\npackage seccomp\n\n", version)
	fmt.Fprintf(&b, "// callNames holds every system call of every architecture below, sorted.\nvar callNames = [...]string{\n")
	for _, n := range names {
		fmt.Fprintf(&b, "%q,\n", n)
	}
	fmt.Fprintf(&b, "}\n\nconst (\nsocketcallIndex = %d\nipcIndex = %d\n)\n", slices.Index(names, "socketcall"), slices.Index(names, "ipc"))
	b.WriteString("\n// callSlots finds a name: the place in callNames plus one, at hashName of it or in the slots after.\nvar callSlots = [slots]uint16{\n")
	for i, v := range hashTable(names) {
		fmt.Fprintf(&b, "%d, ", v)
		if i%16 == 15 {
			b.WriteByte('\n')
		}
	}
	b.WriteString("}\n")
	b.WriteString("\n// callNumbers holds, for each architecture, the number of each name of callNames, -1 where it has none.\n")
	b.WriteString("var callNumbers = [numColumns][len(callNames)]int32{\n")
	for i, c := range columns {
		fmt.Fprintf(&b, "%s: {", c.constant)
		for j, n := range names {
			if j%16 == 0 {
				b.WriteByte('\n')
			}
			nr, ok := tables[i][n]
			if !ok {
				nr = -1
			}
			fmt.Fprintf(&b, "%d, ", nr)
		}
		b.WriteString("\n},\n")
	}
	b.WriteString("}\n")
	return b.Bytes()
}
