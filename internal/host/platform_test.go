package host

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestServes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"status":       "enabled\n",
		"register":     "",
		"qemu-aarch64": "enabled\ninterpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P\nflags: POCF\noffset 0\nmagic 7f454c460201010000000000000000000200b700\nmask ffffffffffffff00fffffffffffffffffeffffff\n",
		"qemu-riscv64": "enabled\ninterpreter /usr/bin/qemu-riscv64\nflags: OC\noffset 0\nmagic 7f454c460201010000000000000000000200f300\n",
		"qemu-s390x":   "enabled\ninterpreter /usr/bin/qemu-s390x\nflags: F\noffset 0\nmagic 7f454c4602020100000000000000000000020016\n",
		"qemu-arm":     "disabled\ninterpreter /usr/bin/qemu-arm\nflags: F\noffset 0\nmagic 7f454c4601010100000000000000000002002800\n",
		"python3":      "enabled\ninterpreter /usr/bin/python3\nflags: \noffset 0\nmagic 6f0d0d0a\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		machine, arch, binfmt string
		want                  Serving
		err                   string
	}{
		{"amd64", "amd64", "/nowhere", Native, ""},
		{"amd64", "386", "/nowhere", Sibling, ""},
		{"arm64", "arm", "/nowhere", Sibling, ""},
		{"amd64", "arm64", "/nowhere", 0, "no emulator is registered"},
		{"amd64", "arm64", dir, Emulated, ""},
		{"amd64", "s390x", dir, Emulated, ""},
		{"amd64", "riscv64", dir, 0, "qemu-riscv64 is registered without the flag F"},
		{"amd64", "arm", dir, 0, "no emulator for it"},
		{"amd64", "vax", dir, 0, "no architecture"},
		{"386", "amd64", dir, 0, "no emulator for it"},
	} {
		got, err := serves(c.machine, c.arch, c.binfmt)
		if got != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s on %s: %v, %v; want %v %q", c.arch, c.machine, got, err, c.want, c.err)
		}
	}
}
