package script

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"brig/internal/testenv"

	"github.com/rogpeppe/go-internal/testscript"
)

// programsOfPeople are those that the scripts put into images. The guests of test/vm have none of them.
func programsOfPeople() bool {
	for _, name := range []string{"nginx", "sqlite3", "node", "/usr/lib/postgresql/15/bin/initdb"} {
		if testenv.Program(name).Missing() != "" {
			return false
		}
	}
	return true
}

// debian DIR PACKAGE… makes a root file system of packages that are installed here, with all that they depend on: the files are this
// machine's, so that no mirror is asked. It has no file that a package's scripts would make, but for the users.
func debian(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: debian DIR PACKAGE...")
	}
	dir := ts.MkAbs(args[0])
	for _, d := range []string{"dev", "etc", "proc", "root", "run", "sys", "tmp", "usr/bin", "usr/lib", "usr/lib64", "usr/sbin", "var"} {
		ts.Check(os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	for _, d := range []string{"bin", "lib", "lib64", "sbin"} {
		ts.Check(os.Symlink("usr/"+d, filepath.Join(dir, d)))
	}
	list := command(ts, nil, "dpkg-query", append([]string{"-L"}, depended(ts, args[1:])...)...)
	names := slices.DeleteFunc(strings.Fields(string(list)), func(name string) bool {
		_, err := os.Lstat(name)
		return err != nil || !strings.HasPrefix(name, "/") || name == "/." || strings.HasPrefix(name, "/usr/share/doc/") || strings.Contains(name, "node_modules")
	})
	slices.Sort(names)
	tar := command(ts, []byte(strings.Join(slices.Compact(names), "\n")), "tar", "--no-recursion", "-C", "/", "-cf", "-", "-T", "-")
	command(ts, tar, "tar", "-C", dir, "--keep-directory-symlink", "-xf", "-")
	ts.Check(os.WriteFile(dir+"/etc/passwd", []byte("root:x:0:0:root:/root:/bin/sh\nme:x:1000:1000::/tmp:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n"), 0o644))
	ts.Check(os.WriteFile(dir+"/etc/group", []byte("root:x:0:\nme:x:1000:\nnogroup:x:65534:\n"), 0o644))
}

// depended gives packages with all that is installed of what they depend on.
func depended(ts *testscript.TestScript, packages []string) (all []string) {
	out := command(ts, nil, "apt-cache", append([]string{
		"depends", "--recurse", "--installed", "--no-recommends", "--no-suggests", "--no-conflicts", "--no-breaks", "--no-replaces", "--no-enhances",
	}, packages...)...)
	// It names alternatives, too, of which one is enough.
	installed := strings.Fields(string(command(ts, nil, "dpkg-query", "-W", "-f", "${Package} ${binary:Package}\n")))
	for line := range strings.Lines(string(out)) {
		if name := strings.TrimSpace(line); line[0] != ' ' && slices.Contains(installed, name) {
			all = append(all, name)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func command(ts *testscript.TestScript, input []byte, name string, args ...string) []byte {
	cmd := exec.Command(name, args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), &out, &errs
	if err := cmd.Run(); err != nil {
		ts.Fatalf("%s: %v: %s", name, err, errs.Bytes())
	}
	return out.Bytes()
}
