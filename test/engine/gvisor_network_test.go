package engine

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"brig/internal/testenv"
)

// TestGuestNetwork joins a network namespace as engines prepare it: the guest has its devices, and is refused one whose rules would not
// hold it, or that somebody else is in.
func TestGuestNetwork(t *testing.T) {
	if testenv.Isolation() != "gvisor" {
		return // a program of the host's kernel just has the namespace
	}
	c := startContainerd(t)
	testenv.Check(t, testenv.Program("iptables-nft"))
	root := box(t)
	const links = "ip link add eth0 type veth peer name peer && ip addr add 10.9.0.2/24 dev eth0 && ip link set eth0 up && ip link set peer up && ip route add default via 10.9.0.1"
	for name, s := range map[string]struct{ script, want string }{
		"links": {links, "default via 10.9.0.1 dev eth0"},
		"names": {links + " && iptables-nft -t nat -A OUTPUT -d 127.0.0.11 -j ACCEPT", "default via 10.9.0.1 dev eth0"},
		"rules": {links + " && iptables-nft -A OUTPUT -d 10.0.0.1 -j DROP", "firewall rules (table filter)"},
		"tun":   {"ip tuntap add tun0 mode tun && ip link set tun0 up", "no Ethernet device"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ns := filepath.Join(t.TempDir(), "net")
			if err := os.WriteFile(ns, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command("unshare", "--net="+ns, "sh", "-c", s.script).CombinedOutput() //nolint:gosec // the test's own
			defer unix.Unmount(ns, unix.MNT_DETACH)                                                 //nolint:errcheck // it may not be mounted
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			said, err := c.heard(c.runArgs(root, "n-"+name+"-{}", []string{"--rm", "--with-ns", "network:" + ns}, "/bin/sh", "-c", "ip addr; ip route")...)
			if err != nil {
				said = err.Error()
			}
			if !strings.Contains(said, s.want) || err == nil && !strings.Contains(said, "10.9.0.2/24") {
				t.Errorf("%q, want %q", said, s.want)
			}
		})
	}
}
