package oci

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"testing"
	"time"

	"brig/internal/launch"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// FuzzState reads a state file as a crash, or somebody hostile, may have left it: what is taken is fit for the system calls that
// it goes into, and is the same when it is written and read again.
func FuzzState(f *testing.F) {
	whole, err := json.Marshal(&record{
		Version: specs.Version, ID: "box", PID: 4194304, StartTime: 1 << 40, Started: true, Bundle: "/b", Rootfs: "/b/rootfs", Created: time.Unix(1e9, 5).UTC(),
		Owner: "root", Cgroups: map[string]string{"": "/sys/fs/cgroup/brig/box", "pids": "/sys/fs/cgroup/pids/brig/box"},
		Steps: map[int]launch.Step{3: {Layer: launch.Exec, Why: "run sh"}}, Terminal: true,
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	for i := 1; i < len(whole); i += len(whole) / 16 {
		f.Add(whole[:i])
	}
	for _, s := range []string{`{"id":"box","pid":-1}`, `{"id":"box","pid":4294967297}`, `{"id":"../box"}`, `{"id":"box","steps":{"-9223372036854775808":{}}}`, `null`, `[]`, ``,
		`{"id":"box","cgroups":{"":"/"}}`, `{"id":"box","cgroups":{"pids":"../../.."}}`, `{"id":"box","startTime":-1}`, `{"id":"box"}{"id":"box"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		c := &container{id: "box", dir: "/nowhere"}
		if err := c.decode(text); err != nil {
			if err.Error() == "" {
				t.Error("an error without words")
			}
			return
		}
		if c.ID != "box" || c.PID < 0 || c.PID > maxPID {
			t.Errorf("taken: id %q, pid %d", c.ID, c.PID)
		}
		for controller, dir := range c.Cgroups {
			if controller != "systemd-unit" && (!filepath.IsAbs(dir) || filepath.Clean(dir) != dir || dir == "/") {
				t.Errorf("taken: the group of %q is %q, which a delete would end and remove", controller, dir)
			}
		}
		again, err := json.Marshal(&c.record)
		if err != nil {
			t.Fatalf("%+v cannot be written again: %v", c.record, err)
		}
		d := &container{id: "box", dir: c.dir}
		if err := d.decode(again); err != nil {
			t.Fatalf("%s cannot be read again: %v", again, err)
		}
		if once, err := json.Marshal(&d.record); err != nil || !bytes.Equal(once, again) {
			t.Errorf("%s, read and written, is %s, %v", again, once, err)
		}
	})
}

// FuzzBundle reads any config.json: relative paths are the bundle's, and crun's annotations are taken or refused.
func FuzzBundle(f *testing.F) {
	for _, s := range []string{
		`{"ociVersion":"1.3.0","root":{"path":"rootfs"},"mounts":[{"destination":"/d","source":"data","options":["bind"]}],"linux":{}}`,
		`{"ociVersion":"1.0.2","annotations":{"run.oci.hooks.stdout":"/tmp/out","run.oci.hooks.stderr":"err","run.oci.seccomp.receiver":"/agent"},"linux":{"seccomp":{"defaultAction":"SCMP_ACT_ALLOW"}}}`,
		`{"ociVersion":"1.0.2","annotations":{"run.oci.systemd.subgroup":"","run.oci.delegate-cgroup":"x","run.oci.keep_original_groups":"1"}}`,
		`{"ociVersion":"1.0.2","linux":{"devices":[{"path":"dev/x","type":"c","major":-1,"minor":9223372036854775807}],"resources":{"devices":[{"allow":true}]}}}`,
		`{"ociVersion":"0.","root":{}}`, `{"ociVersion":"2"}`, `{"ociVersion":"1.","root":null,"linux":null}`, `null`, `[]`,
	} {
		f.Add([]byte(s), true)
	}
	f.Fuzz(func(t *testing.T, text []byte, systemd bool) {
		spec, err := readSpec(text, "/bundle")
		if err != nil {
			return
		}
		if spec.Root != nil && spec.Root.Path != "" && !filepath.IsAbs(spec.Root.Path) {
			t.Errorf("root %q is relative", spec.Root.Path)
		}
		for _, m := range spec.Mounts {
			if bindMount(&m) && !filepath.IsAbs(m.Source) {
				t.Errorf("source %q is relative", m.Source)
			}
		}
		if err := checkAnnotations(spec, systemd); err != nil {
			return
		}
		for _, key := range []string{hooksStdout, hooksStderr} {
			if v := spec.Annotations[key]; v != "" && !filepath.IsAbs(v) {
				t.Errorf("%s = %q is taken", key, v)
			}
		}
	})
}
