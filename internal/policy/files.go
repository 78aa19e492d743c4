package policy

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"brig/internal/annotation"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// homeDir is the home of a host-view sandbox's user: a tmpfs.
const homeDir = "/root"

// hostView tells whether the sandbox sees the host's programs instead of a root folder.
func (w *writer) hostView() bool { return w.p.Image == "" && (w.p.Root == nil || w.p.Root.Path == "") }

// programs are the host's folders that hold programs. On a merged-/usr machine most are links into the first.
var programs = []string{"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"}

// settings are what programs need of /etc, and no more: nothing here is secret on any distribution, and nothing says
// who uses the machine.
var settings = []string{
	"/etc/alternatives", "/etc/bash.bashrc", "/etc/ca-certificates", "/etc/ca-certificates.conf", "/etc/crypto-policies", "/etc/fonts",
	"/etc/inputrc", "/etc/java", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/locale.alias", "/etc/localtime",
	"/etc/mime.types", "/etc/node", "/etc/nsswitch.conf", "/etc/perl", "/etc/pki/tls", "/etc/profile", "/etc/protocols", "/etc/python3",
	"/etc/python3.11", "/etc/services", "/etc/ssl/certs", "/etc/ssl/openssl.cnf", "/etc/terminfo", "/etc/timezone",
}

// resolvConf says where names are resolved; it is the host's where the network is.
const resolvConf = "/etc/resolv.conf"

// generatedFiles are small files that name nobody of the host.
func generatedFiles(hostname string) map[string]string {
	return map[string]string{
		"/etc/passwd":   "root:x:0:0:root:" + homeDir + ":/bin/sh\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n",
		"/etc/group":    "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
		"/etc/hosts":    "127.0.0.1\tlocalhost " + hostname + "\n::1\tlocalhost\n",
		"/etc/hostname": hostname + "\n",
	}
}

func (w *writer) root() error {
	if w.hostView() {
		w.spec.Annotations[annotation.Root] = "ram"
		return nil
	}
	dir, err := w.p.rootFolder(w.h)
	if err != nil {
		return err
	}
	w.spec.Root.Path = dir
	if !w.hostUsers() && w.h.EUID == 0 {
		w.spec.Annotations[annotation.RootIDMap] = "true"
	}
	return w.writable()
}

// rootFolder is where the root file system is on the host: of the image, or a folder; "" for the view of the host's programs.
func (p *Policy) rootFolder(h *Host) (string, error) {
	switch {
	case p.Image != "" && h.Image == nil:
		return "", bad("image", "%s is not here; `brig image pull` fetches it", p.Image)
	case p.Image != "":
		return h.Image.Root, nil
	case p.Root == nil || p.Root.Path == "":
		return "", nil
	}
	dir := absolute(p.Root.Path, h.Cwd)
	if !h.Exists(dir) {
		return "", bad("root.path", "%s does not exist; give the folder of a root file system", dir)
	}
	return dir, nil
}

// writableSize is how much can be written over a root when nobody says.
const writableSize = "1g"

// writable has what is written to the root go to a place that ends with the sandbox. An image is never written to; a folder is where
// nothing of such a place is said.
func (w *writer) writable() error {
	root := w.p.Root
	if w.spec.Root.Readonly || w.p.Image == "" && root.Writable+root.WritableSize == "" {
		return nil
	}
	if w.h.EUID != 0 {
		return bad("root.writable", "needs root; as another user make the root read-only and give a tmpfs for what is written")
	}
	size, err := ParseSize(cmp.Or(root.WritableSize, writableSize))
	if err != nil {
		return bad("root.writableSize", "%v", err)
	}
	w.spec.Annotations[annotation.RootWritable] = cmp.Or(root.Writable, "ram")
	w.spec.Annotations[annotation.RootWritableSize] = strconv.FormatInt(size, 10)
	return nil
}

// mounts writes the mounts in order: the host's programs, the kernel's file systems, places to write in RAM, the person's own.
func (w *writer) mounts() error {
	if w.hostView() {
		w.programs()
	}
	w.kernel()
	w.ram()
	if err := w.volumes(); err != nil {
		return err
	}
	if w.p.Image != "" && w.hostNetwork() && w.h.Exists(resolvConf) {
		// An image knows nothing of the network that it runs in, and here that is the host's.
		w.add("bind", resolvConf, resolvConf, everyMount("ro", "nosuid", "nodev", "noexec")...)
	}
	for i := range w.p.Mounts {
		if err := w.mount(i); err != nil {
			return err
		}
	}
	return nil
}

// everyMount makes the flags that a bind mount is restricted by reach the mounts below it, which options without "r" would
// leave as the host has them. What loosens ("rw" and its like) stays with the mount itself: a mount that is read-only on the
// host stays so inside.
func everyMount(options ...string) []string {
	restricting := []string{"ro", "nosuid", "nodev", "noexec", "nosymfollow", "nodiratime", "noatime", "relatime", "strictatime"}
	for i, o := range options {
		if slices.Contains(restricting, o) {
			options[i] = "r" + o
		}
	}
	return append([]string{"rbind"}, options...)
}

func (w *writer) add(kind, source, target string, options ...string) {
	w.spec.Mounts = append(w.spec.Mounts, specs.Mount{Type: kind, Source: source, Destination: target, Options: options})
}

func (w *writer) programs() {
	for _, dir := range programs {
		switch _, link := w.h.Link(dir); {
		case link:
			w.add("bind", dir, dir, "bind", "copy-symlink")
		case w.h.Exists(dir):
			w.add("bind", dir, dir, everyMount("ro", "nosuid", "nodev")...)
		}
	}
	list := settings
	if w.hostNetwork() {
		list = append(slices.Clone(list), resolvConf)
	}
	for _, name := range list {
		if w.h.Exists(name) {
			w.add("bind", name, name, everyMount("ro", "nosuid", "nodev", "noexec")...)
		}
	}
}

func (w *writer) kernel() {
	strict := w.p.Preset == Strict
	proc := []string{"nosuid", "noexec", "nodev"}
	if strict {
		proc = append(proc, "subset=pid")
	}
	w.add("proc", "proc", "/proc", proc...)
	w.add("tmpfs", "tmpfs", "/dev", "nosuid", "noexec", "strictatime", "mode=755", "size=64k", "nr_inodes=512")
	w.add("devpts", "devpts", "/dev/pts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5")
	w.add("tmpfs", "shm", "/dev/shm", "nosuid", "noexec", "nodev", "mode=1777", "size=64m", "nr_inodes=4096")
	w.add("mqueue", "mqueue", "/dev/mqueue", "nosuid", "noexec", "nodev")
	// sysfs shows the devices of the network namespace, and only its owner may mount it.
	if !strict && !w.hostNetwork() {
		w.add("sysfs", "sysfs", "/sys", "nosuid", "noexec", "nodev", "ro")
		if w.h.CgroupV2 {
			w.add("cgroup", "cgroup", "/sys/fs/cgroup", "nosuid", "noexec", "nodev", "ro")
		}
	}
	w.spec.Linux.MaskedPaths, w.spec.Linux.ReadonlyPaths = maskedPaths(strict), readonlyPaths(strict)
}

// ram are the places that can be written: none of it outlives the sandbox, each has a cap on bytes and on files.
func (w *writer) ram() {
	w.add("tmpfs", "tmpfs", "/tmp", "nosuid", "nodev", "mode=1777", "size=256m", "nr_inodes=65536")
	w.add("tmpfs", "tmpfs", "/run", "nosuid", "nodev", "noexec", "mode=755", "size=16m", "nr_inodes=4096")
	if w.hostView() {
		w.add("tmpfs", "tmpfs", homeDir, "nosuid", "nodev", "mode=700", "size=256m", "nr_inodes=65536")
	}
}

// maxVolumes is how many an image may have; those that there are have a few.
const maxVolumes = 64

// volumes are the places that an image means to be written (VOLUME of a Dockerfile): each is a tmpfs with a copy of what the image
// has there. A mount of the person's at the same place replaces it.
func (w *writer) volumes() error {
	if w.h.Image == nil || w.p.Image == "" {
		return nil
	}
	if n := len(w.h.Image.Volumes); n > maxVolumes {
		return bad("image", "its config has %d volumes (config.Volumes), each a mount; more than %d are refused", n, maxVolumes)
	}
	for _, name := range slices.Sorted(slices.Values(w.h.Image.Volumes)) {
		target := w.inImage(name)
		refused := slices.ContainsFunc([]string{"/proc", "/sys", "/dev"}, func(dir string) bool { return target == dir || strings.HasPrefix(target, dir+"/") })
		if !path.IsAbs(name) || target == "/" || refused || strings.IndexByte(name, 0) >= 0 || slices.Contains(strings.Split(name, "/"), "..") {
			return bad("image", "its config has %q as a volume (config.Volumes), which can be none; give a tmpfs or folder at another place", name)
		}
		w.replace(specs.Mount{Type: "tmpfs", Source: "tmpfs", Destination: target, Options: []string{"nosuid", "nodev", "tmpcopyup", "size=256m", "nr_inodes=65536"}})
	}
	return nil
}

// inImage gives the place that a path leads to in the image, by its links: a link to /proc is /proc, and what is mounted there hides the
// kernel's word. The image does not change, so what is found here is what is mounted over.
func (w *writer) inImage(name string) string {
	const maxLinks = 40 // the kernel's (path_resolution(7))
	at, todo := "/", strings.Split(name, "/")
	for links := 0; len(todo) > 0; {
		next := todo[0]
		todo = todo[1:]
		if next = path.Join(at, next); next == at {
			continue
		}
		to, isLink := w.h.Link(w.h.Image.Root + next)
		if !isLink {
			at = next
			continue
		}
		if links++; links > maxLinks {
			return "/" // which nothing is mounted at
		}
		if path.IsAbs(to) {
			at = "/"
		}
		todo = append(strings.Split(to, "/"), todo...)
	}
	return at
}

func (w *writer) mount(i int) error {
	m := w.p.Mounts[i]
	target := path.Clean(m.Target)
	options := []string{"nosuid", "nodev"}
	if m.Type == "tmpfs" {
		if isTrue(m.ReadOnly) {
			options = append(options, "ro")
		}
		options = append(options, m.Options...)
		for _, def := range []string{"size=64m", "mode=1777", "nr_inodes=65536"} {
			key, _, _ := strings.Cut(def, "=")
			if !slices.ContainsFunc(options, func(o string) bool { k, _, _ := strings.Cut(o, "="); return k == key }) {
				options = append(options, def)
			}
		}
		w.replace(specs.Mount{Type: "tmpfs", Source: "tmpfs", Destination: target, Options: options})
		return nil
	}
	source := absolute(m.Source, w.h.Cwd)
	if !w.h.Exists(source) {
		return bad(fmt.Sprintf("mounts[%d].source", i), "%s does not exist; make it first", source)
	}
	switch {
	case isTrue(m.ReadOnly):
		options = append(options, "ro")
	case m.ReadOnly != nil: // without a word, what is read-only on the host stays so
		options = append(options, "rw")
	}
	if !w.hostUsers() && w.h.EUID == 0 {
		options = append(options, "idmap")
	}
	w.replace(specs.Mount{Type: "bind", Source: source, Destination: target, Options: everyMount(append(options, m.Options...)...)})
	return nil
}

// replace puts a mount of the person's in the place of a built-in one with the same target, or at the end.
func (w *writer) replace(m specs.Mount) {
	for i := range w.spec.Mounts {
		if w.spec.Mounts[i].Destination == m.Destination {
			w.spec.Mounts[i] = m
			return
		}
	}
	w.spec.Mounts = append(w.spec.Mounts, m)
}

// maskedPaths tell of the host or reach into it: Docker's list, and what newer kernels have. With subset=pid procfs has
// none of them.
func maskedPaths(strict bool) []string {
	if strict {
		return nil
	}
	return []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kallsyms", "/proc/kcore", "/proc/keys", "/proc/key-users", "/proc/kmsg",
		"/proc/kpagecount", "/proc/kpageflags", "/proc/latency_stats", "/proc/sched_debug", "/proc/schedstat", "/proc/scsi", "/proc/timer_list",
		"/proc/timer_stats", "/proc/vmallocinfo", "/sys/devices/virtual/powercap", "/sys/firmware", "/sys/kernel/debug", "/sys/kernel/security",
		"/sys/kernel/tracing", "/sys/module",
	}
}

func readonlyPaths(strict bool) []string {
	if strict {
		return nil
	}
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/pressure", "/proc/sys", "/proc/sysrq-trigger"}
}
