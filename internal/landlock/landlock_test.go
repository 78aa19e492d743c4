package landlock

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"brig/internal/launch"

	"golang.org/x/sys/unix"
)

// TestNumbers compares with the kernel's header as x/sys has it.
func TestNumbers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string][2]uint64{
		"EXECUTE": {Execute, unix.LANDLOCK_ACCESS_FS_EXECUTE}, "WRITE_FILE": {WriteFile, unix.LANDLOCK_ACCESS_FS_WRITE_FILE},
		"READ_FILE": {ReadFile, unix.LANDLOCK_ACCESS_FS_READ_FILE}, "READ_DIR": {ReadDir, unix.LANDLOCK_ACCESS_FS_READ_DIR},
		"REMOVE_DIR": {RemoveDir, unix.LANDLOCK_ACCESS_FS_REMOVE_DIR}, "REMOVE_FILE": {RemoveFile, unix.LANDLOCK_ACCESS_FS_REMOVE_FILE},
		"MAKE_CHAR": {MakeChar, unix.LANDLOCK_ACCESS_FS_MAKE_CHAR}, "MAKE_DIR": {MakeDir, unix.LANDLOCK_ACCESS_FS_MAKE_DIR},
		"MAKE_REG": {MakeReg, unix.LANDLOCK_ACCESS_FS_MAKE_REG}, "MAKE_SOCK": {MakeSock, unix.LANDLOCK_ACCESS_FS_MAKE_SOCK},
		"MAKE_FIFO": {MakeFifo, unix.LANDLOCK_ACCESS_FS_MAKE_FIFO}, "MAKE_BLOCK": {MakeBlock, unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK},
		"MAKE_SYM": {MakeSym, unix.LANDLOCK_ACCESS_FS_MAKE_SYM}, "REFER": {Refer, unix.LANDLOCK_ACCESS_FS_REFER},
		"TRUNCATE": {Truncate, unix.LANDLOCK_ACCESS_FS_TRUNCATE}, "IOCTL_DEV": {IoctlDev, unix.LANDLOCK_ACCESS_FS_IOCTL_DEV},
		"BIND_TCP": {bindTCP, unix.LANDLOCK_ACCESS_NET_BIND_TCP}, "CONNECT_TCP": {connectTCP, unix.LANDLOCK_ACCESS_NET_CONNECT_TCP},
		"ABSTRACT_UNIX_SOCKET": {scopeAbstract, unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET}, "SIGNAL": {scopeSignal, unix.LANDLOCK_SCOPE_SIGNAL},
	} {
		if c[0] != c[1] {
			t.Errorf("%s is %#x, the kernel's is %#x", name, c[0], c[1])
		}
	}
}

// lines is the text of a ruleset's program, without its headings.
func lines(t *testing.T, build func(*launch.Program)) []string {
	t.Helper()
	p := launch.New()
	build(p)
	var b bytes.Buffer
	if err := p.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	var out []string
	for line := range strings.Lines(b.String()) {
		if _, call, ok := strings.Cut(strings.TrimSpace(line), "  "); ok {
			out = append(out, call)
		}
	}
	return out
}

// TestCreate: each ABI gets the rights that it knows, in a structure as long as it has, and no rule that the kernel
// would refuse: one without rights, or with rights that the ruleset does not handle (landlock_add_rule(2), ENOMSG and
// EINVAL).
func TestCreate(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		abi           int
		fs, size      int
		net, scope    int
		root, tmp, tt int // the rights of three rules
	}{
		{1, 0x1fff, 8, 0, 0, 0xd, 0x17b2, 0x2},
		{2, 0x3fff, 8, 0, 0, 0xd, 0x37b2, 0x2},
		{3, 0x7fff, 8, 0, 0, 0xd, 0x77b2, 0x2},
		{4, 0x7fff, 16, 3, 0, 0xd, 0x77b2, 0x2},
		{5, 0xffff, 16, 3, 0, 0xd, 0x77b2, 0x8002},
		{6, 0xffff, 24, 3, 3, 0xd, 0x77b2, 0x8002},
		{7, 0xffff, 24, 3, 3, 0xd, 0x77b2, 0x8002},
		{99, 0xffff, 24, 3, 3, 0xd, 0x77b2, 0x8002},
	} {
		got := lines(t, func(p *launch.Program) {
			root, tmp, tty := p.Input("root"), p.Input("tmp"), p.Input("tty")
			r := Ruleset{ABI: c.abi, Paths: []Path{{root, Read}, {tmp, Write}, {tty, WriteFile | IoctlDev}, {tmp, 0}}, Bind: Ports{List: []uint16{80, 0}}, Connect: Ports{}}
			r.Create(p)
		})
		want := []string{
			fmt.Sprintf("landlock_create_ruleset({fs %#x, net %#x, scope %#x}, %d, 0) = <ruleset>", c.fs, c.net, c.scope, c.size),
			fmt.Sprintf("landlock_add_rule(<ruleset>, PATH_BENEATH, {rights %#x beneath <root>}, 0)", c.root),
			fmt.Sprintf("landlock_add_rule(<ruleset>, PATH_BENEATH, {rights %#x beneath <tmp>}, 0)", c.tmp),
			fmt.Sprintf("landlock_add_rule(<ruleset>, PATH_BENEATH, {rights %#x beneath <tty>}, 0)", c.tt),
		}
		if c.net != 0 {
			want = append(want, "landlock_add_rule(<ruleset>, NET_PORT, {rights 0x1 on port 80}, 0)", "landlock_add_rule(<ruleset>, NET_PORT, {rights 0x1 on port 0}, 0)")
		}
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("ABI %d:\n%s\nwant\n%s", c.abi, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

// TestPorts: a direction with any port is not handled at all, one with a list is, and one with neither is shut.
func TestPorts(t *testing.T) {
	t.Parallel()
	open, none, some := Ports{Any: true}, Ports{}, Ports{List: []uint16{443}}
	for _, c := range []struct {
		bind, connect Ports
		net           string
		rules         []string
	}{
		{open, open, "net 0x0", nil},
		{none, none, "net 0x3", nil},
		{open, none, "net 0x2", nil},
		{some, open, "net 0x1", []string{"rights 0x1 on port 443"}},
		{some, some, "net 0x3", []string{"rights 0x1 on port 443", "rights 0x2 on port 443"}},
		{Ports{Any: true, List: []uint16{1}}, none, "net 0x2", nil},
	} {
		got := lines(t, func(p *launch.Program) { (&Ruleset{ABI: 7, Bind: c.bind, Connect: c.connect}).Create(p) })
		if len(got) != 1+len(c.rules) || !strings.Contains(got[0], c.net+",") {
			t.Fatalf("%+v: %q", c, got)
		}
		for i, rule := range c.rules {
			if !strings.Contains(got[1+i], rule) {
				t.Errorf("%+v: %s", c, got[1+i])
			}
		}
	}
}

// TestRestrict proves the ruleset where there is a place to try, and only there.
func TestRestrict(t *testing.T) {
	t.Parallel()
	got := lines(t, func(p *launch.Program) { Restrict(p, p.Input("ruleset"), p.Input("dev")) })
	want := []string{"landlock_restrict_self(<ruleset>, 0)", `mknodat(<dev>, ".landlock-probe", 060000, 0)  must fail with EACCES`}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%q", got)
	}
	if got := lines(t, func(p *launch.Program) { Restrict(p, p.Input("ruleset"), 0) }); len(got) != 1 || got[0] != want[0] {
		t.Errorf("%q", got)
	}
}

// TestRights: nowhere can a device be made, a read-only place cannot be changed, and a rule on a file has only the
// rights that a file takes (landlock(7), "Filesystem flags").
func TestRights(t *testing.T) {
	t.Parallel()
	if (Read|Write)&(MakeChar|MakeBlock) != 0 {
		t.Error("devices can be made")
	}
	if Read&(Write|IoctlDev|MakeChar|MakeBlock) != 0 {
		t.Error("reading writes")
	}
	if Files&(ReadDir|RemoveDir|RemoveFile|MakeDir|MakeReg|MakeSock|MakeFifo|MakeSym|Refer) != 0 {
		t.Error("rights of folders are granted on files")
	}
}

// TestDescribe says of each ABI what it gives and what it lacks.
func TestDescribe(t *testing.T) {
	t.Parallel()
	seen := map[string]int{}
	for abi, want := range map[int][]string{
		-1: {"not available"}, 0: {"not available"}, 1: {"files, but not truncation", "no TCP", "no scopes"}, 2: {"files, but not truncation"}, 3: {"files; no TCP"},
		4: {"files and TCP", "no device ioctls"}, 5: {"device ioctls", "no scopes"}, 6: {"abstract sockets and signals"}, 7: {"ABI 7"}, 8: {"abstract sockets and signals"},
	} {
		got := Describe(abi)
		seen[got]++
		for _, w := range want {
			if !strings.Contains(got, w) {
				t.Errorf("ABI %d: %q lacks %q", abi, got, w)
			}
		}
	}
	if len(seen) < 7 {
		t.Errorf("different ABIs read the same: %v", seen)
	}
}
