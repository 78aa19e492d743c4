package plan

import (
	"path"
	"strings"

	"brig/internal/launch"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// findProgram looks for the program of a held child before it waits for its start: an engine wants to hear from create that there is
// none, as from runc and crun, and gives another exit code for it. It is looked for as root of the sandbox and before any filter, so
// that no profile has to allow it; what the user alone may not execute still shows at the start.
func (b *builder) findProgram(pr *specs.Process) error {
	if !b.facts.Held || b.isExec() || b.plan.Exe != 0 || len(pr.Args) == 0 || pr.Args[0] == "" {
		return nil
	}
	name := pr.Args[0]
	b.p.Step(launch.Exec, "look for "+name)
	if strings.Contains(name, "/") {
		b.p.Faccessat2(name)
		return nil
	}
	dirs := searchPath(pr.Env)
	for i, dir := range dirs {
		in := b.p.Faccessat2(path.Join(dir, name)).Sticky().Either()
		if i < len(dirs)-1 {
			in.Tolerate(unix.ENOENT, unix.ENOTDIR, unix.EACCES)
		}
	}
	return nil
}

// Candidates are the paths where a process's program may be.
func Candidates(pr *specs.Process) (names []string) {
	if name := pr.Args[0]; strings.Contains(name, "/") {
		if !path.IsAbs(name) {
			name = path.Join("/", pr.Cwd, name)
		}
		return []string{name}
	}
	for _, dir := range searchPath(pr.Env) {
		names = append(names, path.Join(dir, pr.Args[0]))
	}
	return names
}
