package policy

import (
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// refused checks that an error is one line that names the value and says what to write instead.
func refused(t *testing.T, err error, text, remedy string) {
	t.Helper()
	if err == nil {
		t.Errorf("%q is accepted", text)
		return
	}
	msg := err.Error()
	if !strings.Contains(msg, quote(text)) || !strings.Contains(msg, remedy) || strings.Contains(msg, "\n") {
		t.Errorf("%q: %q, want one line that names it and says %q", text, msg, remedy)
	}
}

// The units are docker's: "You can use b, k, m and g" (docker run, "Runtime constraints on resources"), powers of 1024.
func TestParseSize(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{
		"0": 0, "1048576": 1 << 20, "64k": 64 << 10, "64K": 64 << 10, "512m": 512 << 20, "512mb": 512 << 20, "512MiB": 512 << 20, "2g": 2 << 30,
		"1.5g": 3 << 29, "1t": 1 << 40, "10b": 10,
	} {
		if got, err := ParseSize(text); err != nil || got != want {
			t.Errorf("%q: %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "m", "-1", "-5m", "1 g", " 1g", "1g ", "1x", "1gg", "g1", "inf", "nan", "1..5g", "1\tg", "99999999999999999999g", "８m"} {
		_, err := ParseSize(text)
		refused(t, err, text, "as in 512m or 2g")
	}
}

// One CPU is a quota as long as the period: --cpus="1.5" is --cpu-period="100000" and --cpu-quota="150000" (docker's
// "Resource constraints").
func TestParseCPUs(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{"1": 100000, "1.5": 150000, "0.01": 1000, "0.333": 33300, "8192": 819200000, ".5": 50000} {
		quota, period, err := ParseCPUs(text)
		if err != nil || quota != want || period != 100000 {
			t.Errorf("%q: %d of %d, %v; want %d", text, quota, period, err, want)
		}
	}
	for _, text := range []string{"", "0", "-1", "0.001", "8193", "1e9", "NaN", "inf", "two", "1,5", " 1", "1 cpu"} {
		_, _, err := ParseCPUs(text)
		refused(t, err, text, "as in 0.5 or 2")
	}
}

func TestParseDuration(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"0": 0, "30": 30 * time.Second, "30s": 30 * time.Second, "5m": 5 * time.Minute, "1h30m": 90 * time.Minute, "100ms": 100 * time.Millisecond,
		"2147483647": math.MaxInt32 * time.Second,
	} {
		if got, err := ParseDuration(text); err != nil || got != want {
			t.Errorf("%q: %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "-1", "-5s", "soon", "5 m", "1d", "2147483648", "99999999999h", "1.5", "s"} {
		_, err := ParseDuration(text)
		refused(t, err, text, "30s, 5m or 1h30m")
	}
}

func TestParseCount(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"10", "500", "1000"} {
		if _, err := ParseCount(text, 10, 1000); err != nil {
			t.Error(err)
		}
	}
	for _, text := range []string{"", "9", "1001", "-10", "1e2", "10.0", " 10", "99999999999999999999"} {
		_, err := ParseCount(text, 10, 1000)
		refused(t, err, text, "from 10 to 1000")
	}
}

// The format is that of cpuset(7), "List format", without strides.
func TestCheckCPUSet(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"0", "0-2", "0-2,4", "3,1", "0,0", "7-7", "65535"} {
		if err := CheckCPUSet(text); err != nil {
			t.Error(err)
		}
	}
	for _, text := range []string{"", ",", "0,", "2-1", "-1", "1-", "a", "0-2-4", "0 ,1", "65536", "0\n1", "0/1"} {
		refused(t, CheckCPUSet(text), text, "as 0-2,4")
	}
}

func ref(b bool) *bool { return &b }

// The three fields of -v are those of docker's "Bind mounts": the path on the host, the path inside, and options.
// Unlike docker, which makes a missing source, brig refuses one; and it has no named volumes.
func TestParseVolume(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Mount{
		"/a:/b":                {Type: "bind", Source: "/a", Target: "/b"},
		"./a:/b:ro":            {Type: "bind", Source: "./a", Target: "/b", ReadOnly: ref(true)},
		".:/b:rw":              {Type: "bind", Source: ".", Target: "/b", ReadOnly: ref(false)},
		"..:/b":                {Type: "bind", Source: "..", Target: "/b"},
		"a/b:/c:ro,noexec":     {Type: "bind", Source: "a/b", Target: "/c", ReadOnly: ref(true), Options: []string{"noexec"}},
		"/a:/b:rslave,nosuid":  {Type: "bind", Source: "/a", Target: "/b", Options: []string{"rslave", "nosuid"}},
		"/with space:/b,c":     {Type: "bind", Source: "/with space", Target: "/b,c"},
		"/a:/b:readonly,nodev": {Type: "bind", Source: "/a", Target: "/b", ReadOnly: ref(true), Options: []string{"nodev"}},
	} {
		if got, err := ParseVolume(text); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	for text, remedy := range map[string]string{
		"": "write SOURCE:TARGET", "/a": "write SOURCE:TARGET", ":/b": "write SOURCE:TARGET", "/a:": "write SOURCE:TARGET", "/a:/b:ro:x": "write SOURCE:TARGET",
		"data:/b": "no named volumes; for a folder write ./data", "/a:/b:": "an option is empty", "/a:/b:ro,": "an option is empty",
		"/a:/b:z,Z":    "exclude each other",
		"/a:/b:cached": `unknown mount option "cached"; there are ro, rw,`, "/a:/b:size=1m": `unknown mount option "size=1m"`, "/a:/b:dev": "unknown mount option",
		"/a:/b:suid": "unknown mount option", "/a:/b:RO": "unknown mount option",
	} {
		_, err := ParseVolume(text)
		refused(t, err, text, remedy)
	}
}

// --tmpfs has the options of Linux' tmpfs mounts (docker's "tmpfs mounts", "Options for --tmpfs").
func TestParseTmpfs(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Mount{
		"/run":                              {Type: "tmpfs", Target: "/run"},
		"/run:rw,noexec,nosuid,size=65536k": {Type: "tmpfs", Target: "/run", ReadOnly: ref(false), Options: []string{"noexec", "nosuid", "size=65536k"}},
		"/t:mode=1777,uid=5,nr_inodes=9,ro": {Type: "tmpfs", Target: "/t", ReadOnly: ref(true), Options: []string{"mode=1777", "uid=5", "nr_inodes=9"}},
	} {
		if got, err := ParseTmpfs(text); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	for text, remedy := range map[string]string{
		"/t:": "an option is empty", "/t:size": "unknown mount option", "/t:huge=always": "of a tmpfs size, mode", "/t:size mode=1": "unknown mount option",
		"/t:suid": "unknown mount option",
	} {
		_, err := ParseTmpfs(text)
		refused(t, err, text, remedy)
	}
}

// The keys are those of docker's "Bind mounts" and "tmpfs mounts" ("Options for --mount"): source or src; target, dst or
// destination; readonly or ro; bind-propagation; tmpfs-size, tmpfs-mode. Unlike docker's, the type is bind when none is
// given, for brig has no volumes.
func TestParseMount(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Mount{
		"type=bind,source=/a,target=/b":                           {Type: "bind", Source: "/a", Target: "/b"},
		"src=/a,dst=/b":                                           {Type: "bind", Source: "/a", Target: "/b"},
		"destination=/b,src=./a,readonly":                         {Type: "bind", Source: "./a", Target: "/b", ReadOnly: ref(true)},
		"type=bind,src=/a,dst=/b,ro=true":                         {Type: "bind", Source: "/a", Target: "/b", ReadOnly: ref(true)},
		"src=/a,dst=/b,readonly=false":                            {Type: "bind", Source: "/a", Target: "/b", ReadOnly: ref(false)},
		"src=/a,dst=/b,bind-propagation=rshared":                  {Type: "bind", Source: "/a", Target: "/b", Options: []string{"rshared"}},
		"type=tmpfs,target=/t":                                    {Type: "tmpfs", Target: "/t"},
		"type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=0700":         {Type: "tmpfs", Target: "/t", Options: []string{"size=1m", "mode=0700"}},
		"src=/a=b,dst=/b":                                         {Type: "bind", Source: "/a=b", Target: "/b"},
		"target=/t,type=tmpfs,readonly=1,tmpfs-size=67108864":     {Type: "tmpfs", Target: "/t", ReadOnly: ref(true), Options: []string{"size=67108864"}},
		"type=bind,source=/a,target=/b,bind-propagation=rprivate": {Type: "bind", Source: "/a", Target: "/b", Options: []string{"rprivate"}},
	} {
		if got, err := ParseMount(text); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	for text, remedy := range map[string]string{
		"": `unknown field ""`, "type=bind,src=/a": "needs target=", "dst=/b": "a bind source= too", "type=volume,src=v,dst=/b": "there are bind and tmpfs",
		"type=npipe,dst=/b": "type npipe are not supported", "type,src=/a,dst=/b": "type needs a value", "src=/a,dst=/b,volume-nocopy": `unknown field "volume-nocopy"; there are`,
		"src=/a,dst=/b,readonly=perhaps": "must be true or false", "src=/a,dst=/b,bind-propagation=ro": "must be one of private",
		"src=/a,dst=/b,bind-propagation": "must be one of private", "src=/a,dst=/b,": `unknown field ""`, "src=/a, dst=/b": `unknown field " dst"`,
	} {
		_, err := ParseMount(text)
		refused(t, err, text, remedy)
	}
	// What a field means only for the other type is refused with the whole policy.
	for _, text := range []string{"src=/a,dst=/b,tmpfs-size=1m", "type=tmpfs,src=/a,dst=/b"} {
		m, err := ParseMount(text)
		if err == nil {
			err = (&Policy{Mounts: []Mount{m}}).Validate()
		}
		if err == nil {
			t.Errorf("%q is accepted", text)
		}
	}
}

// "ulimit is specified with a soft and hard limit as such: <type>=<soft limit>[:<hard limit>]. If no hard limit is set,
// the soft limit is used for both values" (docker run, --ulimit).
func TestParseUlimit(t *testing.T) {
	t.Parallel()
	const none = math.MaxUint64
	for text, want := range map[string]specs.POSIXRlimit{
		"nofile=1024:2048": {Type: "RLIMIT_NOFILE", Soft: 1024, Hard: 2048},
		"nofile=1024":      {Type: "RLIMIT_NOFILE", Soft: 1024, Hard: 1024},
		"core=0":           {Type: "RLIMIT_CORE"},
		"core=-1":          {Type: "RLIMIT_CORE", Soft: none, Hard: none},
		"stack=1:-1":       {Type: "RLIMIT_STACK", Soft: 1, Hard: none},
		"cpu=unlimited":    {Type: "RLIMIT_CPU", Soft: none, Hard: none},
		"as=5":             {Type: "RLIMIT_AS", Soft: 5, Hard: 5},
	} {
		if got, err := ParseUlimit(text); err != nil || got != want {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	for text, remedy := range map[string]string{
		"": "write NAME=SOFT:HARD", "nofile": "write NAME=SOFT:HARD", "files=1": "one of as core cpu", "NOFILE=1": "one of as core", "as core=1": "one of as core",
		"=1": "one of as core", "nofile=": `"" is no number, -1 or unlimited`, "nofile=1:": "is no number, -1", "nofile=-2": "is no number, -1",
		"nofile=2:1": "the soft limit is above the hard one", "core=-1:5": "the soft limit is above the hard one", "nofile=1:2:3": "is no number", "nofile=1k": "is no number",
		"nofile=9223372036854775808": "is no number",
	} {
		_, err := ParseUlimit(text)
		refused(t, err, text, remedy)
	}
}

// --device=/dev/sda:/dev/xvdc:rwm; "the third part is the cgroup permissions, rwm by default" (docker run, --device).
func TestParseDevice(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Device{
		"/dev/fuse":           {"/dev/fuse", "/dev/fuse", "rwm"},
		"/dev/sda:/dev/xvdc":  {"/dev/sda", "/dev/xvdc", "rwm"},
		"/dev/sda:r":          {"/dev/sda", "/dev/sda", "r"},
		"/dev/a:/dev/b:rw":    {"/dev/a", "/dev/b", "rw"},
		"/dev/snd/seq:/dev/q": {"/dev/snd/seq", "/dev/q", "rwm"},
	} {
		if got, err := ParseDevice(text); err != nil || got != want {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{
		"", "fuse", "/dev/a:", "/dev/a:x", "/dev/a:/dev/b:", "/dev/a:/dev/b:rwx", "/dev/a:b:rwm", "/dev/a:/dev/../b", "/dev/a:/dev/b:r:w", "/dev/a:rwz", "/dev/a:/dev/b/", "/dev/a:/",
	} {
		_, err := ParseDevice(text)
		refused(t, err, text, "write PATH, PATH:INSIDE or PATH:INSIDE:rwm")
	}
}

// --device-read-bps=/dev/sda:1mb; "the rate can be in kb, mb, or gb"; --device-read-iops=/dev/sda:1000 (docker run,
// "Block IO bandwidth constraint").
func TestParseThrottle(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]uint64{"/dev/sda:1mb": 1 << 20, "/dev/sda:1024": 1024} {
		if device, got, err := ParseThrottle(text, true); err != nil || got != want || device != "/dev/sda" {
			t.Errorf("%q: %s %d, %v", text, device, got, err)
		}
	}
	if _, got, err := ParseThrottle("/dev/sda:1000", false); err != nil || got != 1000 {
		t.Error(got, err)
	}
	for text, remedy := range map[string]string{"": "write /dev/NAME:RATE", "/dev/sda": "write /dev/NAME:RATE", "sda:1m": "write /dev/NAME:RATE", "/dev/sda:": "as in 512m", "/dev/sda:-1": "as in 512m", "/dev/sda:fast": "as in 512m"} {
		_, _, err := ParseThrottle(text, true)
		refused(t, err, text, remedy)
	}
	for _, text := range []string{"/dev/sda:0", "/dev/sda:1m", "/dev/sda:-5"} {
		_, _, err := ParseThrottle(text, false)
		refused(t, err, text, "is no number from 1")
	}
}

// "-e VAR" passes the caller's value on, and nothing when the caller has none (docker run, --env).
func TestParseEnv(t *testing.T) {
	t.Parallel()
	lookup := testHost().Lookup
	for _, c := range []struct {
		text, want string
		ok         bool
	}{
		{"A=1", "A=1", true}, {"A=", "A=", true}, {"A=b=c d", "A=b=c d", true}, {"LANG", "LANG=C.UTF-8", true}, {"EMPTY", "EMPTY=", true}, {"NO_SUCH", "", false},
		{"a.b-c=1", "a.b-c=1", true},
	} {
		got, ok, err := ParseEnv(c.text, lookup)
		if err != nil || ok != c.ok || ok && got != c.want {
			t.Errorf("%q: %q, %v, %v", c.text, got, ok, err)
		}
	}
	for text, key := range map[string]string{"": "", "=1": "", "A B=1": "A B", "A\tB": "A\tB", "A\x00=1": "A\x00"} {
		_, _, err := ParseEnv(text, lookup)
		refused(t, err, key, "write KEY=VALUE, or KEY to pass on the caller's")
	}
}

// "lines beginning with # are treated as comments"; a line with a name alone takes the caller's value (docker run,
// --env-file). The values are taken as they stand: no quotes, no export.
func TestParseEnvFile(t *testing.T) {
	t.Parallel()
	file := "# comment\n\nA=1\n  B= two words \r\n\t# indented\nLANG\nNO_SUCH\nC=\"quoted\"\nD=#not a comment\nE="
	got, err := ParseEnvFile("env", []byte(file), testHost().Lookup)
	want := []string{"A=1", "B= two words ", "LANG=C.UTF-8", `C="quoted"`, "D=#not a comment", "E="}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v", got, err)
	}
	for text, want := range map[string]string{
		"A=1\n\nexport B=2\n":                  `env:3: "export B" is no environment variable; write KEY=VALUE, or KEY to pass on the caller's`,
		"=1":                                   `env:1: "" is no environment variable; write KEY=VALUE, or KEY to pass on the caller's`,
		"A=1\nB=" + strings.Repeat("x", 1<<16): "env: read the environment file: bufio.Scanner: token too long",
	} {
		if _, err := ParseEnvFile("env", []byte(text), testHost().Lookup); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

func TestCheckHostname(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"a", "box", "BOX-1", "a.b.example", "0", strings.Repeat("a", 63), strings.Repeat("a.", 31) + "aa"} {
		if err := CheckHostname(name); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{
		"", "-a", "a-", "a_b", "a b", ".a", "a.", "a..b", "a.-b", "ä", "a\n", "a\x00", "a/b", "$(id)", strings.Repeat("a", 64), strings.Repeat("a.", 32) + "a",
	} {
		refused(t, CheckHostname(name), name, "up to 64 letters, digits, hyphens and dots")
	}
}

// TestUser reads -u UID[:GID], -u NAME[:GROUP] against the root's files. "If you pass a numeric user, no name is looked
// up; a name must exist in the image" (docker run, --user); a number that passwd knows takes its group from there, as in docker.
func TestUser(t *testing.T) {
	t.Parallel()
	h := testHost()
	for _, c := range []struct {
		root, text string
		uid, gid   uint32
	}{
		{"", "", 0, 0}, {"", "0", 0, 0}, {"", "root", 0, 0}, {"", "nobody", 65534, 65534}, {"", "1000", 1000, 0}, {"", "1000:5", 1000, 5}, {"", "1000:tty", 1000, 5},
		{"/srv/root", "app", 1000, 1001}, {"/srv/root", "app:staff", 1000, 50}, {"/srv/root", "app:0", 1000, 0}, {"/srv/root", "1000", 1000, 1001},
		{"/srv/root", "0", 0, 0}, {"/srv/root", "4294967294:4294967294", 4294967294, 4294967294}, {"/srv/none", "7:8", 7, 8},
		// A user whose name is a number is not found by it: a number is a number.
		{"/srv/root", "2000", 2000, 0},
	} {
		u, err := User(h, c.root, c.text)
		if err != nil || u.UID != c.uid || u.GID != c.gid {
			t.Errorf("%s in %q: %+v, %v", c.text, c.root, u, err)
		}
	}
	const number = "write a number from 0 to 4294967294"
	for text, want := range map[string]string{
		"nobody": `user: "nobody" is not in the root file system's /etc/passwd; give a number`, "app:nogroup": `user: group "nogroup" is not in the root file system's /etc/group; give a number`,
		"-1": `user: "-1" is no id; ` + number, "+1": `user: "+1" is no id; ` + number, "4294967295": `user: "4294967295" is no id; ` + number,
		"18446744073709551616": `user: "18446744073709551616" is no id; ` + number, "1000:-1": `user: "-1" is no id; ` + number, "0:4294967296": `user: "4294967296" is no id; ` + number,
		":0": "user: a user or group is empty; write UID, UID:GID or NAME:GROUP", "0:": "user: a user or group is empty; write UID, UID:GID or NAME:GROUP",
		// What the image itself says wrong must not become root (CVE-2024-40635 made 0 of a number too large).
		"word":     `user: the root file system's /etc/passwd has "abc" where an id belongs; give numbers, as in 1000:1000`,
		"wordgid":  `user: the root file system's /etc/passwd has "abc" where an id belongs; give numbers, as in 1000:1000`,
		"huge":     `user: the root file system's /etc/passwd has "4294967295" where an id belongs; give numbers, as in 1000:1000`,
		"minus":    `user: the root file system's /etc/passwd has "-1" where an id belongs; give numbers, as in 1000:1000`,
		"empty":    `user: the root file system's /etc/passwd has "" where an id belongs; give numbers, as in 1000:1000`,
		"short":    `user: "short" is not in the root file system's /etc/passwd; give a number`,
		"app:word": `user: the root file system's /etc/group has "abc" where an id belongs; give numbers, as in 1000:1000`,
	} {
		if u, err := User(h, "/srv/root", text); err == nil || err.Error() != want {
			t.Errorf("%s: %+v\ngot  %v\nwant %s", text, u, err, want)
		}
	}
	if _, err := User(h, "/srv/none", "app"); err == nil {
		t.Error("a name is found in a root without a passwd")
	}
}

// TestHome takes HOME from the root's passwd only where it is an absolute path.
func TestHome(t *testing.T) {
	t.Parallel()
	for user, want := range map[string]string{"app": "HOME=/home/app", "relative": "HOME=/", "5000": "HOME=/"} {
		s, err := over(t, &Policy{Args: []string{"id"}, User: user, Root: &Root{Path: "/srv/root"}}).Spec(testHost())
		if err != nil || !slices.Contains(s.Process.Env, want) {
			t.Errorf("%s: %q, %v; want %s", user, s.Process.Env, err, want)
		}
	}
}

// TestChanges gives of `brig update` what was asked for and nothing else.
func TestChanges(t *testing.T) {
	t.Parallel()
	h := testHost()
	r, err := (&Limits{Pids: "64"}).Changes(h)
	if err != nil || r.Memory != nil || r.CPU != nil || r.BlockIO != nil || *r.Pids.Limit != 64 {
		t.Errorf("%+v, %v", r, err)
	}
	r, err = (&Limits{Memory: "64m", CPUs: "2"}).Changes(h)
	if err != nil || *r.Memory.Limit != 64<<20 || *r.Memory.Swap != 64<<20 || *r.CPU.Quota != 200000 || r.Pids != nil {
		t.Errorf("%+v, %v", r, err)
	}
	for want, l := range map[string]Limits{
		"limits.memorySwap: needs limits.memory: it is memory and swap together":              {MemorySwap: "64m"},
		"limits.memorySwap: give the memory limit, too: this one is of both together":         {MemorySwap: "-1"},
		`limits.cpus: "x" is no number of processors; write one from 0.01 on, as in 0.5 or 2`: {CPUs: "x"},
		`limits.memory: "1m" is too little: no sandbox starts with less than 4m`:              {Memory: "1m"},
		"limits.deviceReadBps: /dev/fuse is no block device of this host":                     {DeviceReadBps: []string{"/dev/fuse:1m"}},
	} {
		if _, err := l.Changes(h); err == nil || err.Error() != want {
			t.Errorf("%+v: %v, want %s", l, err, want)
		}
	}
}
