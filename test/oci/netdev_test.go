package oci

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// device makes a device on the host (one end of a veth pair, for want of the dummy driver), under a name that no other test
// has. With one end the other goes, too.
func device(t *testing.T, name string, commands ...string) string {
	t.Helper()
	name = fmt.Sprintf("%s%d", name, os.Getpid())
	ip(t, "link add "+name+" type veth peer name "+name+"p")
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", name+"p").Run() })
	for _, c := range commands {
		ip(t, strings.ReplaceAll(c, "DEV", name))
	}
	return name
}

func ip(t *testing.T, command string) {
	t.Helper()
	if out, err := exec.Command("ip", strings.Fields(command)...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", command, err, out)
	}
}

// TestNetDevices: a device moves in with its name, or another, its addresses, its MTU and its hardware address, and is up.
func TestNetDevices(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.tool("ip")
	kept := device(t, "bk", "link set DEV mtu 1789", "link set DEV address 02:00:5e:10:00:01", "addr add 192.0.2.7/24 broadcast 192.0.2.255 dev DEV",
		"addr add 2001:db8::7/64 dev DEV nodad", "addr add 192.0.2.8/32 scope link dev DEV", "link set DEV up")
	renamed := device(t, "br")
	template := device(t, "bt")
	e.spec.Linux.NetDevices = map[string]specs.LinuxNetDevice{kept: {}, renamed: {Name: "lan"}, template: {Name: "lo%d"}}
	e.script("ip addr show")
	out := e.want(0, "", "run", "--bundle", e.bundle, "devices")
	for _, want := range []string{
		kept, "mtu 1789", "02:00:5e:10:00:01", "inet 192.0.2.7/24 brd 192.0.2.255 scope global", "inet6 2001:db8::7/64 scope global", "lan", "lo0", ",UP",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	for _, not := range []string{"192.0.2.8", renamed, template} {
		if strings.Contains(out, not) {
			t.Errorf("%q in\n%s", not, out)
		}
	}
}

// TestNetDevicesRefused: a device that cannot move stays where it is.
func TestNetDevicesRefused(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	name := device(t, "bx")
	e.spec.Linux.NetDevices = map[string]specs.LinuxNetDevice{name: {Name: "lo"}}
	e.script("true")
	e.want(1, "the name lo is taken there: file exists", "run", "--bundle", e.bundle, "taken")
	e.spec.Linux.NetDevices = map[string]specs.LinuxNetDevice{"nosuchdev": {}}
	e.write()
	e.want(1, "link not found for interface nosuchdev on runtime namespace", "run", "--bundle", e.bundle, "none")
	if out, err := exec.Command("ip", "link", "show", name).CombinedOutput(); err != nil {
		t.Errorf("the device is gone: %s", out)
	}
}
