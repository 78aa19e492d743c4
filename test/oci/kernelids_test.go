package oci

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"brig/internal/idmap"
	"brig/internal/testenv"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestHostIDs: without a user namespace the host's root is root inside. On gVisor's kernel that process is a user of the host that nobody
// else is, and gives its ids back.
func TestHostIDs(t *testing.T) {
	t.Parallel()
	seen := map[int]bool{}
	for n := range 2 {
		e := newEngine(t)
		e.spec.Process.Args = []string{"sleep", "1000"}
		e.write()
		id := fmt.Sprintf("ids-%d", n)
		e.want(0, "", "run", "--detach", "--bundle", e.bundle, id)
		t.Cleanup(func() { e.call("delete", "--force", id) })
		var state specs.State
		if err := json.Unmarshal([]byte(e.want(0, "", "state", id)), &state); err != nil {
			t.Fatal(err)
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", state.Pid))
		if err != nil {
			t.Fatal(err)
		}
		f := regexp.MustCompile(`(?m)^Uid:\t(\d+)\t(\d+)\t(\d+)\t(\d+)\nGid:\t(\d+)\t`).FindSubmatch(status)
		if f == nil {
			t.Fatalf("%s", status)
		}
		uid, err := strconv.Atoi(string(f[1]))
		if err != nil {
			t.Fatal(err)
		}
		folder := filepath.Join(e.root, id)
		if testenv.Isolation() != "gvisor" {
			if uid != 0 {
				t.Errorf("%s is user %d", id, uid)
			}
			continue
		}
		if uid < idmap.First || seen[uid] || string(f[5]) != string(f[1]) || string(f[4]) != string(f[1]) {
			t.Errorf("the kernel process of %s is user %s", id, f[0])
		}
		seen[uid] = true
		if n == 0 {
			continue // beside the next one
		}
		e.want(0, "", "delete", "--force", id)
		owners, err := idmap.Owners(idmap.MachineDir)
		if err != nil {
			t.Fatal(err)
		}
		for first, owner := range owners {
			if owner == folder {
				t.Errorf("%d is still %s's", first, owner)
			}
		}
	}
}
