package main

import (
	"errors"
	"fmt"
	"path"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/fspath"
	sentrykernel "gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/seccheck"
	pb "gvisor.dev/gvisor/pkg/sentry/seccheck/points/points_go_proto"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/runsc/boot"

	"golang.org/x/sys/unix"
)

// masks covers in each guest what its spec hides and seals what it may not write (maskedPaths, readonlyPaths, the option subset=pid of
// procfs), which gVisor passes over: its procfs and sysfs are its kernel's own, but root inside may turn knobs of that kernel, and a bundle
// may name any path. And it takes away what gVisor mounts unasked, and sets what gVisor leaves unset. gVisor tells those who trace it of a container when its mounts are made and its program has not begun, and waits for them.
type masks struct {
	seccheck.SinkDefaults
	l      *boot.Loader
	root   string
	failed func(error)
}

var _ seccheck.Sink = (*masks)(nil)

// useMasks has every container of a kernel masked. There is no way on for the first one without it: failed must not come back.
func useMasks(l *boot.Loader, root string, failed func(error)) {
	seccheck.Global.AppendSink(&masks{l: l, root: root, failed: failed}, []seccheck.PointReq{{Pt: seccheck.PointContainerStart}})
}

// Name implements seccheck.Sink.
func (*masks) Name() string { return "masks" }

// ContainerStart implements seccheck.Sink.
func (m *masks) ContainerStart(_ context.Context, _ seccheck.FieldSet, e *pb.Start) error {
	k := loaded(m.l)
	for _, g := range k.TaskSet().Root.ThreadGroups() {
		leader := g.Leader()
		if leader == nil || leader.ContainerID() != e.Id {
			continue
		}
		spec := containerSpec(m.l, k.ContainerName(e.Id))
		err := errors.Join(mask(k, leader, spec), score(leader, spec))
		if err != nil && e.Id == m.root {
			m.failed(err)
		}
		if err != nil { // of a pod: it does not run, and the others go on
			return errors.Join(err, g.SendSignal(&linux.SignalInfo{Signo: int32(unix.SIGKILL)}))
		}
		return nil
	}
	m.failed(fmt.Errorf("mask the paths of container %s: it has no process", e.Id))
	return nil
}

// loaded gives the kernel of a loader, and containerSpec what a container was started with. gVisor gives neither, or not while it starts
// one; TestMasks holds that they are there.
func loaded(l *boot.Loader) *sentrykernel.Kernel {
	return (*sentrykernel.Kernel)(reflect.ValueOf(l).Elem().FieldByName("k").UnsafePointer())
}

func containerSpec(l *boot.Loader, name string) *specs.Spec {
	v := reflect.ValueOf(l).Elem().FieldByName("containerSpecs").MapIndex(reflect.ValueOf(name))
	return (*specs.Spec)(v.UnsafePointer())
}

// masker covers paths of one container, as the root of its user namespace.
type masker struct {
	ctx   context.Context
	fs    *vfs.VirtualFilesystem
	creds *auth.Credentials
	root  vfs.VirtualDentry
}

func mask(k *sentrykernel.Kernel, leader *sentrykernel.Task, spec *specs.Spec) error {
	if spec.Linux == nil {
		return nil
	}
	ctx := leader.AsyncContext()
	m := &masker{ctx: ctx, fs: k.VFS(), creds: auth.NewRootCredentials(leader.UserNamespace()), root: leader.FSContext().RootDirectory()}
	defer m.root.DecRef(ctx)
	if err := m.queues(spec.Mounts); err != nil {
		return err
	}
	if err := m.sealed(spec.Mounts); err != nil {
		return err
	}
	for _, name := range []string{"/proc", "/sys"} {
		if err := m.unasked(name, spec.Mounts); err != nil {
			return fmt.Errorf("unmount the guest's %s: %w", name, err)
		}
	}
	for i := range spec.Mounts {
		if p := &spec.Mounts[i]; p.Type == "proc" && slices.Contains(p.Options, "subset=pid") {
			if err := m.processesAlone(path.Clean(p.Destination)); err != nil {
				return fmt.Errorf("mask what is in %s beside processes: %w", p.Destination, err)
			}
		}
	}
	for _, name := range spec.Linux.MaskedPaths {
		if err := m.hide(path.Clean(name)); err != nil {
			return fmt.Errorf("mask %s in the guest: %w", name, err)
		}
	}
	for _, name := range spec.Linux.ReadonlyPaths {
		if err := m.seal(path.Clean(name), spec.Mounts); err != nil {
			return fmt.Errorf("seal %s in the guest: %w", name, err)
		}
	}
	return nil
}

func (m *masker) at(name string) *vfs.PathOperation {
	return &vfs.PathOperation{Root: m.root, Start: m.root, Path: fspath.Parse(name), FollowFinalSymlink: true}
}

// stat looks at a path. One that the guest does not have needs nothing.
func (m *masker) stat(name string) (st linux.Statx, there bool, err error) {
	st, err = m.fs.StatAt(m.ctx, m.creds, m.at(name), &vfs.StatOptions{Mask: linux.STATX_TYPE | linux.STATX_MODE})
	absent := linuxerr.Equals(linuxerr.ENOENT, err) || linuxerr.Equals(linuxerr.ENOTDIR, err)
	if absent || linuxerr.Equals(linuxerr.EPERM, err) { // which is what all get that ask for a node of the host's device, in the tree that is served
		return st, false, nil
	}
	return st, err == nil, err
}

// hide lays an empty folder over a folder, and /dev/null over anything else.
func (m *masker) hide(name string) error {
	st, there, err := m.stat(name)
	if err != nil || !there {
		return err
	}
	if st.Mode&linux.S_IFMT == linux.S_IFDIR {
		_, err := m.fs.MountAt(m.ctx, m.creds, "tmpfs", m.at(name), "tmpfs", &vfs.MountOptions{
			ReadOnly: true, Flags: vfs.MountFlags{NoExec: true, NoSUID: true, NoDev: true},
			GetFilesystemOptions: vfs.GetFilesystemOptions{Data: "mode=0755"},
		})
		return err
	}
	const null = "/dev/null"
	st, _, err = m.stat(null)
	if err != nil {
		return err
	}
	if st.Mode&linux.S_IFMT != linux.S_IFCHR || st.RdevMajor != linux.MEM_MAJOR || st.RdevMinor != 3 {
		return errors.New(null + " is not what it should be")
	}
	return m.fs.BindAt(m.ctx, m.creds, m.at(null), m.at(name), false)
}

// seal lays a path over itself, read-only with every mount below.
func (m *masker) seal(name string, mounts []specs.Mount) error {
	if _, there, err := m.stat(name); err != nil || !there {
		return err
	}
	if err := m.fs.BindAt(m.ctx, m.creds, m.at(name), m.at(name), true); err != nil {
		return err
	}
	names := []string{name}
	for i := range mounts {
		if at := path.Clean(mounts[i].Destination); strings.HasPrefix(at, name+"/") {
			names = append(names, at)
		}
	}
	for _, name := range names {
		if err := m.readOnly(name); err != nil {
			return err
		}
	}
	return nil
}

// readOnly seals the one mount that is at a path.
func (m *masker) readOnly(name string) error {
	d, err := m.fs.GetDentryAt(m.ctx, m.creds, m.at(name), &vfs.GetDentryOptions{})
	if err != nil {
		return err
	}
	defer d.DecRef(m.ctx)
	return m.fs.SetMountReadOnly(d.Mount(), true)
}

// unasked unmounts what gVisor mounts in every container (its runsc/boot, compileMounts), unless something is mounted there or below.
func (m *masker) unasked(name string, mounts []specs.Mount) error {
	if slices.ContainsFunc(mounts, func(m specs.Mount) bool { return strings.HasPrefix(path.Clean(m.Destination)+"/", name+"/") }) {
		return nil
	}
	return m.fs.UmountAt(m.ctx, m.creds, m.at(name), &vfs.UmountOptions{Flags: linux.MNT_DETACH})
}

// processesAlone hides what a procfs with subset=pid does not have (proc(5)). Links there lead to a process's own files.
func (m *masker) processesAlone(dir string) error {
	d, err := m.fs.OpenAt(m.ctx, m.creds, m.at(dir), &vfs.OpenOptions{Flags: linux.O_RDONLY | linux.O_DIRECTORY})
	if err != nil {
		return err
	}
	defer d.DecRef(m.ctx)
	var names []string
	if err := d.IterDirents(m.ctx, vfs.IterDirentsCallbackFunc(func(e vfs.Dirent) error {
		if _, err := strconv.Atoi(e.Name); err != nil && e.Type != linux.DT_LNK && !strings.HasPrefix(e.Name, ".") {
			names = append(names, path.Join(dir, e.Name))
		}
		return nil
	})); err != nil {
		return err
	}
	for _, name := range names {
		st, _, err := m.stat(name)
		if err == nil && st.Mode&0o444 == 0 { // to be written only
			err = m.seal(name, nil)
		} else if err == nil {
			err = m.hide(name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
