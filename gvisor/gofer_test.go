package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"brig/internal/isolation/gvisor/job"

	"golang.org/x/sys/unix"
)

// TestGofer serves a folder as the guest's root, and one that is read-only inside of it, and looks at both sides.
func TestGofer(t *testing.T) {
	root, volume := guestRoot(t), t.TempDir()
	if err := os.WriteFile(filepath.Join(volume, "given"), []byte("from the host\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	k := newKernel(t, shell(`
		cat /volume/given
		echo from the guest >/tmp-of-root && chown 7:8 /tmp-of-root && chmod 4750 /tmp-of-root && mv /tmp-of-root /moved
		ln -s /moved /link && cat /link
		(echo x >/volume/new) 2>&1
		exit 3`))
	k.job.Gofer, k.job.Mounts = true, 1
	k.job.Spec.Mounts = append(k.job.Spec.Mounts, bind("/volume", "ro"))
	served := []job.Served{{Path: root}, {Path: volume, ReadOnly: true}}
	k.serve(served...)
	end, out := k.run()
	if end.Error != "" || end.Status != 3<<8 {
		t.Errorf("the guest ended with %+v", end)
	}
	for _, want := range []string{"from the host\n", "from the guest\n", "Read-only file system"} {
		if !strings.Contains(out, want) {
			t.Errorf("the guest did not say %q: %s", want, out)
		}
	}
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(root, "moved"), &st); err != nil {
		t.Fatal(err)
	}
	if st.Uid != 7 || st.Gid != 8 || st.Mode != unix.S_IFREG|0o4750 {
		t.Errorf("the guest's file is of %d:%d with mode %o", st.Uid, st.Gid, st.Mode)
	}
	if _, err := os.Stat(filepath.Join(volume, "new")); err == nil {
		t.Error("the guest made a file in what is read-only")
	}
}

// TestGoferRefuses: what the file server is given is checked before it serves.
func TestGoferRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"nothing": `{}`, "no JSON": `served`, "a relative path": `{"served": [{"path": "etc"}]}`,
	} {
		cmd := exec.Command(program(t), "gofer", job.Interface)
		var out bytes.Buffer
		cmd.Stderr = &out
		cmd.ExtraFiles = []*os.File{asFile(t, json.RawMessage(text))}
		if err := cmd.Run(); err == nil || cmd.ProcessState.ExitCode() != 1 || !strings.HasPrefix(out.String(), "brig-gvisor: ") {
			t.Errorf("%s: %v, %s", name, err, out.String())
		}
	}
}
