package idmap

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("BRIG_TEST_ALLOCATE"); dir != "" {
		allocateMany(dir)
		return
	}
	os.Exit(m.Run())
}

// allocateMany is a child of TestSixteenProcesses: it prints what it got, and gives every third back.
func allocateMany(dir string) {
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	for i := range 500 {
		owner := fmt.Sprintf("%d-%d", os.Getpid(), i)
		r, err := Allocate(dir, owner)
		if err != nil {
			fmt.Fprintln(out, "error", err)
			return
		}
		if i%3 == 0 {
			if err := Release(dir, owner, r); err != nil {
				fmt.Fprintln(out, "error", err)
			}
			continue
		}
		fmt.Fprintln(out, r.First, owner)
	}
}

func TestSixteenProcessesNeverShareARange(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "ids")
	outs := make([]*strings.Builder, 16)
	cmds := make([]*exec.Cmd, 16)
	for i := range cmds {
		outs[i] = &strings.Builder{}
		cmds[i] = exec.Command(os.Args[0])
		cmds[i].Env = append(os.Environ(), "BRIG_TEST_ALLOCATE="+dir)
		cmds[i].Stdout, cmds[i].Stderr = outs[i], os.Stderr
		if err := cmds[i].Start(); err != nil {
			t.Fatal(err)
		}
	}
	got := map[string]string{}
	for i, cmd := range cmds {
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
		for l := range strings.Lines(outs[i].String()) {
			first, owner, _ := strings.Cut(strings.TrimSpace(l), " ")
			if first == "error" || got[first] != "" {
				t.Fatalf("range %s given to %s and %s", first, got[first], owner)
			}
			got[first] = owner
		}
	}
	if len(got) != 16*333 {
		t.Errorf("%d ranges in use, want %d", len(got), 16*333)
	}
	n, err := Sweep(dir, func(owner string) bool { return strings.HasSuffix(owner, "-1") })
	if err != nil || n != len(got)-16 {
		t.Errorf("Sweep gave back %d, %v; want %d", n, err, len(got)-16)
	}
}

func TestReleaseLeavesOthersAlone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r, err := Allocate(dir, "a")
	if err != nil {
		t.Fatal(err)
	}
	if r.Size != 65536 || r.First < First || uint64(r.First)+uint64(r.Size)-1 > Last || r.First%65536 != 0 {
		t.Errorf("range %+v", r)
	}
	if err := Release(dir, "b", r); err != nil {
		t.Fatal(err)
	}
	if owners, _ := Owners(dir); owners[r.First] != "a" {
		t.Error("another's release took the range away")
	}
	for range 2 {
		if err := Release(dir, "a", r); err != nil {
			t.Fatal(err)
		}
	}
	if owners, _ := Owners(dir); len(owners) != 0 {
		t.Errorf("left: %v", owners)
	}
}

func TestExhaustion(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for i := range uint32(slots) {
		if err := takeSlot(dir, "x", First+i*Size); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Allocate(dir, "late"); !errors.Is(err, ErrExhausted) {
		t.Errorf("Allocate = %v", err)
	}
}

func TestReservedIDs(t *testing.T) {
	t.Parallel()
	s := append(parseSubIDs("alice:100000:65536\nbob:600000:65536\nbad line\nx:1:y\nz:700000:0\n"),
		parsePasswd("root:x:0:0::/:\nbig:x:1000000:1000001::/:\n")...)
	for first, want := range map[uint32]bool{
		524288: false, 524288 + 65536: true, 589824 + 65536: true, 983040: true, 1048576: false,
	} {
		if got := s.overlaps(first, Size); got != want {
			t.Errorf("slot %d overlaps: %v, want %v", first, got, want)
		}
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	m := func(n ...uint32) (out []specs.LinuxIDMapping) {
		for i := 0; i < len(n); i += 3 {
			out = append(out, specs.LinuxIDMapping{ContainerID: n[i], HostID: n[i+1], Size: n[i+2]})
		}
		return out
	}
	var many []uint32
	for i := range uint32(341) {
		many = append(many, i*2, i*2, 1)
	}
	for name, c := range map[string]struct {
		m   []specs.LinuxIDMapping
		why string
	}{
		"whole":           {m(0, 524288, 65536), ""},
		"two":             {m(0, 1000, 1, 1, 100000, 65536), ""},
		"identity":        {m(0, 0, 4294967295), ""},
		"out of order":    {m(10, 20, 5, 0, 0, 10), ""},
		"empty":           {nil, "empty"},
		"no ids":          {m(0, 1, 0), "no id"},
		"beyond":          {m(0, 4294967295, 1), "beyond"},
		"beyond inside":   {m(4294967290, 1, 6), "beyond"},
		"overlap inside":  {m(0, 100, 10, 9, 200, 10), "same id inside"},
		"overlap outside": {m(0, 100, 10, 10, 109, 10), "same host id"},
		"many":            {m(many...), "341 lines"},
	} {
		err := Validate("uid", c.m)
		if (err == nil) != (c.why == "") || err != nil && !strings.Contains(err.Error(), c.why) {
			t.Errorf("%s: %v, want %q", name, err, c.why)
		}
	}
	if h, ok := HostID(m(0, 1000, 1, 1, 100000, 10), 5); !ok || h != 100004 {
		t.Errorf("HostID = %d %v", h, ok)
	}
	if _, ok := HostID(m(0, 1000, 1), 1); ok {
		t.Error("HostID of an id outside the map")
	}
}

func TestRootless(t *testing.T) {
	t.Parallel()
	etc := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(etc, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	u := User{Name: "alice", EUID: 1000, EGID: 1001}
	found := func(string) (string, error) { return "/usr/bin/x", nil }
	if m := rootlessAt(etc, u, found); m.Reduced == "" || len(m.UID) != 1 || m.Helpers {
		t.Errorf("without subuid: %+v", m)
	}
	write("subuid", "bob:1:2\nalice:100000:65536\n")
	write("subgid", "1000:200000:70000\n")
	m := rootlessAt(etc, u, found)
	if m.Reduced != "" || !m.Helpers || fmt.Sprint(m.UID, m.GID) != "[{0 1000 1} {1 100000 65536}] [{0 1001 1} {1 200000 65536}]" {
		t.Errorf("%+v", m)
	}
	absent := func(n string) (string, error) { return "", errors.New(n + " is not installed") }
	if m := rootlessAt(etc, u, absent); !strings.Contains(m.Reduced, "newuidmap is not installed") {
		t.Errorf("without helpers: %+v", m)
	}
}

func BenchmarkAllocateRelease(b *testing.B) {
	dir := b.TempDir()
	for i := 0; b.Loop(); i++ {
		owner := strconv.Itoa(i)
		r, err := Allocate(dir, owner)
		if err != nil {
			b.Fatal(err)
		}
		if err := Release(dir, owner, r); err != nil {
			b.Fatal(err)
		}
	}
}
