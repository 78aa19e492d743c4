package attack

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"brig/internal/image"
	"brig/internal/testenv"
	"brig/test/image/fixture"
)

// imageName is the image that the attacks run of; it has the files of the root folder.
const imageName = "attack:1"

// makeImage puts it into a store of the bench's, and writes the policy that names it.
func makeImage() error {
	config := `{"Entrypoint": ["/nothing"], "Labels": {"run.brig.allow-missing": "seccomp", "run.brig.userns": "host"}}`
	if err := fixture.Stored(bench.store, imageName, bench.rootfs, []byte(config)); err != nil {
		return err
	}
	return os.WriteFile(bench.policy, []byte("image: "+imageName+"\nentrypoint: []\n"), 0o644) //nolint:gosec // a policy
}

// dropImage takes the store's mounts away.
func dropImage() error {
	s, err := image.Open(bench.store)
	if err == nil {
		ref, _ := image.ParseRef(imageName)
		_, err = s.Remove(ref)
	}
	if err == nil {
		_, err = s.Prune(true)
	}
	return err
}

// stored is what the store has of file systems, by their content.
func stored(t *testing.T) string {
	t.Helper()
	names, err := filepath.Glob(bench.store + "/roots/*.erofs")
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	var text strings.Builder
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&text, "%s %x\n", name, sha256.Sum256(data))
	}
	return text.String()
}

// TestImageIsNotWritten: whatever a program may do, the image that it runs of stays as it is, and the next sandbox has the same files.
func TestImageIsNotWritten(t *testing.T) {
	t.Parallel()
	need(t)
	before := stored(t)
	open := []string{"--security-opt", "seccomp=unconfined", "--security-opt", "landlock=off", "--cap-add", "ALL", "--cap-drop", "SYS_RESOURCE"}
	for name, flags := range map[string][]string{
		"default": nil, "strict": {"--preset", "strict", "--allow-missing=landlock-truncate"}, "compat": {"--preset", "compat"}, "every right in its user namespace": open,
	} {
		for kind, more := range map[string][]string{
			"read-only": nil, "ram": {"--writable", "ram", "--writable-size", "16m"}, "disk": {"--writable", "disk", "--writable-size", "16m"},
		} {
			t.Run(name+"/"+kind, func(t *testing.T) {
				t.Parallel()
				attack := []string{"image-write", "/etc/passwd"}
				if kind != "read-only" {
					attack = append(attack, "writable")
				}
				word, reason := run(t, imageView(more...), flags, attack...).verdict()
				if word == "ESCAPED" && testenv.Isolation() != "native" {
					word = "differs" // what it has written to is the guest's memory: the next sandbox and the store tell
				}
				testenv.Outcome(t, "HELD", word, reason)
				r := run(t, imageView(more...), flags, "ids")
				if word, reason := r.verdict(); word == "BROKEN" {
					t.Errorf("the next sandbox: %s: %s", word, reason)
				}
			})
		}
	}
	t.Run("control", func(t *testing.T) {
		t.Parallel()
		file := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if word, reason := (&control{apart: true}).outside(t, []string{"image-write", file}).verdict(); word != "ESCAPED" {
			t.Errorf("%s: %s", word, reason)
		}
	})
	t.Cleanup(func() {
		if after := stored(t); after != before {
			t.Errorf("the image has changed:\n%s\nwas\n%s", after, before)
		}
	})
}

// TestImageMetadata: nothing of an image's metadata is an annotation, a layer less or a mount of the host's (containerd's
// CVE-2026-53488, -53492, -50195).
func TestImageMetadata(t *testing.T) {
	t.Parallel()
	need(t)
	r := brig(t, "explain", "--format", "json", "--policy", bench.policy, "--", "/attack", "ids")
	if r.code != 0 {
		t.Fatal(r)
	}
	folder := brig(t, "explain", "--format", "json", "--rootfs", bench.rootfs, "--", "/attack", "ids")
	names := func(text string) string { return strings.ReplaceAll(text, bench.rootfs, "ROOT") }
	root := filepath.Base(strings.Fields(stored(t))[0])
	got := names(r.out)
	if i := strings.Index(got, "/run/brig/images/"); i >= 0 {
		end := i + strings.IndexAny(got[i:], " \",")
		got = strings.ReplaceAll(got, got[i:end], "ROOT")
	}
	if want := names(folder.out); got != want {
		t.Errorf("an image (%s) is launched otherwise than the folder:\n%s\nwant\n%s", root, got, want)
	}
}
