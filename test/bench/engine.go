package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// inARow is how many containers each runtime gets through an engine.
const inARow = 200

// engine is a containerd of the benchmark's own, for one runtime.
type engine struct {
	t      *tools
	lane   *lane
	dir    string
	binary string
	daemon *exec.Cmd
}

// engines are the runtimes behind containerd, each behind a daemon of its own: crun's has to see another /sys/fs/cgroup.
func (t *tools) engines() ([]*contender, error) {
	if t.paths["containerd"] == "" {
		return nil, nil
	}
	var list []*contender
	for _, name := range []string{"brig-oci", "crun", "runc"} {
		if t.paths[name] == "" {
			continue
		}
		e := &engine{t: t, lane: t.main, dir: t.path("containerd-" + name), binary: t.paths[name]}
		note := "containerd, its shim and `ctr run --rm --rootfs` of `true` with ctr's own spec; what the runtime adds to them is the difference"
		if name == "crun" && t.unified != nil {
			e.lane, note = t.unified, "the same; by a script that adds --cgroup-manager=disabled, for it refuses this host's cgroups"
			e.binary = t.path("crun-without-cgroups")
			script := "#!/bin/sh\nexec " + t.paths[name] + " --cgroup-manager=disabled \"$@\"\n"
			if err := os.WriteFile(e.binary, []byte(script), 0o755); err != nil { //nolint:gosec // a program
				return nil, err
			}
		}
		list = append(list, &contender{
			key: name + "-containerd", name: name + " through containerd", kind: kindEngine, lane: e.lane, note: note,
			argv: func(n int64) []string {
				return []string{t.paths["ctr"], "-a", e.socket(), "-n", e.namespace(), "run", "--rm", "--rootfs", "--runc-binary", e.binary, "--runc-root", e.dir + "/runtime",
					t.root, "row" + strconv.FormatInt(n, 10), "/bin/true"}
			},
			start: e.start, stop: e.stop,
		})
	}
	return list, nil
}

func (e *engine) socket() string { return e.dir + "/sock" }

// namespace is containerd's word for the names of one client. They are below a cgroup of this name.
func (e *engine) namespace() string { return filepath.Base(e.t.dir) + "-" + filepath.Base(e.dir) }

// engineConfig leaves out the plugins that a single container has no use for.
const engineConfig = `version = 2
root = "%[1]s/root"
state = "%[1]s/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "%[1]s/sock"
`

func (e *engine) start() error {
	if err := os.Mkdir(e.dir, 0o711); err != nil {
		return err
	}
	config := e.dir + "/config.toml"
	if err := os.WriteFile(config, fmt.Appendf(nil, engineConfig, e.dir), 0o600); err != nil {
		return err
	}
	log, err := os.Create(e.dir + "/log")
	if err != nil {
		return err
	}
	defer log.Close() //nolint:errcheck // the daemon has its own
	e.daemon = exec.Command(e.t.paths["containerd"], "-c", config)
	e.daemon.Stdout, e.daemon.Stderr = log, log
	e.lane.do(func() { err = e.daemon.Start() })
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		_, err := output(e.lane, e.t.stage, []string{e.t.paths["ctr"], "-a", e.socket(), "version"})
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(log.Name())
			return errors.Join(fmt.Errorf("containerd does not answer: %w: %s", err, lastLine(string(text))), e.stop())
		}
	}
}

// stop ends the daemon, and the shims of a run that failed.
func (e *engine) stop() error {
	err := errors.Join(e.daemon.Process.Signal(unix.SIGTERM))
	_ = e.daemon.Wait() // by the signal
	list, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, name := range list {
		text, _ := os.ReadFile(name)
		if pid, perr := strconv.Atoi(strings.Split(name, "/")[2]); perr == nil && bytes.Contains(text, []byte(e.socket())) {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
	groups, _ := filepath.Glob("/sys/fs/cgroup/*/" + e.namespace())
	for _, dir := range append(groups, "/sys/fs/cgroup/"+e.namespace()) {
		_ = os.Remove(dir) // empty: an engine leaves it
	}
	return err
}

// rows has every runtime run its containers in a row, one of each in turns as everything else.
func (t *tools) rows(ctx context.Context, o options, list []*contender, r *report, bar *progress) error {
	rounds := inARow
	if o.quick {
		rounds = min(o.rounds, 5)
	}
	return t.turnsOf(ctx, o, kindEngine, rounds, list, r, func(round, rounds int) {
		bar.say(fmt.Sprintf("through containerd: container %d of %d", round, rounds))
	})
}
