package oci

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"brig/internal/annotation"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Annotations of crun's that people set (crun(1), "EXTENSIONS TO OCI"). Those about the program itself are package annotation's.
const (
	hooksStdout     = "run.oci.hooks.stdout" // a file to which what hooks say is appended
	hooksStderr     = "run.oci.hooks.stderr"
	systemdSubgroup = "run.oci.systemd.subgroup" // a group below the scope for the container
	delegateCgroup  = "run.oci.delegate-cgroup"  // and one below that
	pidfdReceiver   = "run.oci.pidfd_receiver"   // a unix socket that takes a pidfd of the process, as --pidfd-socket
)

// notDone are annotations of crun's that ask for what there is not here. Another kernel below the program, a filter in place of the
// bundle's: without them the container would be another one than was asked for.
var notDone = map[string]string{
	"run.oci.handler":                 "programs run natively only; engines choose another runtime for another handler",
	"run.oci.seccomp_bpf_data":        "filters are compiled from linux.seccomp",
	"run.oci.seccomp.plugins":         "no plugins are loaded; an agent can listen at linux.seccomp.listenerPath",
	"run.oci.systemd.force_cgroup_v1": "the host's cgroups are taken as they are",
	"run.oci.pidfd_autokill":          "nobody watches who holds the pidfd",
	"run.oci.timens_offset":           "it is linux.timeOffsets",
}

// checkAnnotations refuses those that ask for what is not done. An empty subgroup asks for none, which is what there is; without
// systemd both mean nothing, as in crun.
func checkAnnotations(spec *specs.Spec, systemd bool) error {
	for _, key := range []string{systemdSubgroup, delegateCgroup} {
		if v := spec.Annotations[key]; v != "" && systemd {
			return fmt.Errorf("config.json: annotation %s=%s: a group below the scope that systemd makes is not supported; remove it to run in the scope itself", key, v)
		}
	}
	for key := range spec.Annotations {
		if strings.HasPrefix(key, annotation.Prefix) && !annotation.Known(key) {
			return fmt.Errorf("config.json: annotation %s: there is none of this name; a mistyped one would leave a layer out", key)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(notDone)) {
		if v := spec.Annotations[key]; v != "" && v != "0" {
			return fmt.Errorf("config.json: annotation %s=%s: not supported: %s", key, v, notDone[key])
		}
	}
	for _, key := range []string{hooksStdout, hooksStderr, pidfdReceiver} {
		if v := spec.Annotations[key]; v != "" && !filepath.IsAbs(v) {
			return fmt.Errorf("config.json: annotation %s=%s: must be an absolute path", key, v)
		}
	}
	return nil
}

// keepSaid appends what a hook has said to the files that the annotations name.
func keepSaid(annotations map[string]string, stdout, stderr []byte) error {
	return errors.Join(appendTo(annotations, hooksStdout, stdout), appendTo(annotations, hooksStderr, stderr))
}

// appendTo writes to the end of a regular file, and makes it when it is missing. The hook itself never has it open: a hook of the
// container's could do more than append.
func appendTo(annotations map[string]string, key string, said []byte) error {
	name := annotations[key]
	if name == "" {
		return nil
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return fmt.Errorf("annotation %s: %w", key, err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file", name)
	}
	if err == nil {
		_, err = f.Write(said)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("annotation %s: %w", key, err)
	}
	return nil
}

// written reads back a file in RAM.
func written(f *os.File) []byte {
	text, _ := io.ReadAll(io.NewSectionReader(f, 0, mostSaid))
	return text
}

// mostSaid bounds how much of a hook's words is kept.
const mostSaid = 1 << 20
