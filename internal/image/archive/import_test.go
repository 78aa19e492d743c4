package archive

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"brig/internal/image"
	"brig/internal/testenv"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// rootFolder is a root file system with one of each thing.
func rootFolder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	must(os.Mkdir(at("etc"), 0o700))
	must(os.WriteFile(at("etc/plain"), []byte("data"), 0o640))
	must(os.Link(at("etc/plain"), at("hard")))
	must(os.Symlink("/etc/passwd", at("out")))
	must(unix.Mkfifo(at("fifo"), 0o600))
	must(os.WriteFile(at("holes"), nil, 0o600))
	must(os.Truncate(at("holes"), 1<<20))
	must(unix.Setxattr(at("etc/plain"), "user.a", []byte("b\x00c"), 0))
	must(os.Mkdir(at("run"), 0o755))
	must(os.Chmod(at("run"), os.ModeSticky|0o777)) //nolint:gosec // as /tmp has it
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "unix", at("run/s"))
	must(err)
	t.Cleanup(func() { _ = l.Close() })
	stamp := time.Unix(-5, 123456789)
	for _, name := range []string{"etc/plain", "holes", "etc", "run", "."} {
		must(os.Chtimes(at(name), stamp, stamp))
	}
	for _, name := range []string{"out", "fifo"} {
		ts := unix.NsecToTimespec(stamp.UnixNano())
		must(unix.UtimesNanoAt(unix.AT_FDCWD, at(name), []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
	}
	return dir
}

func importIt(s *image.Store, path string, o ImportOptions) (*Loaded, error) {
	o.Build = limits()
	return Import(context.Background(), s, Input{Path: path}, "local/a:1", o)
}

// TestFolder: all that a folder has is in the layer, but for what is of another file system and sockets, and the same folder is the
// same image.
func TestFolder(t *testing.T) {
	t.Parallel()
	testenv.Check(t, testenv.Root)
	dir := rootFolder(t)
	if err := os.Mkdir(filepath.Join(dir, "mnt"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", filepath.Join(dir, "mnt"), "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(filepath.Join(dir, "mnt"), unix.MNT_DETACH) })
	stamp := time.Unix(-5, 123456789)
	if err := os.WriteFile(filepath.Join(dir, "mnt/secret"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"mnt", "."} {
		if err := os.Chtimes(filepath.Join(dir, d), stamp, stamp); err != nil {
			t.Fatal(err)
		}
	}
	var notices []string
	o := ImportOptions{Notice: func(text string) { notices = append(notices, text) }}
	s := newStore(t)
	l, err := importIt(s, dir, o)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"./ 5 755 0 ", "etc/ 5 700 0 ", "etc/plain 0 640 4  SCHILY.xattr.user.a=b\x00c", "fifo 6 600 0 ", "hard 1 640 0 etc/plain", "holes 0 600 1048576 ",
		"mnt/ 5 1777 0 ", "out 2 777 0 /etc/passwd", "run/ 5 1777 0 ",
	}
	m, err := s.Manifest(l.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	if got := entries(t, s, m.Layers[0].Digest, stamp); !reflect.DeepEqual(got, want) {
		t.Errorf("the layer has\n%q, wanted\n%q", got, want)
	}
	text := strings.Join(notices, "\n")
	if len(notices) != 2 || !strings.Contains(text, `"run/s"`) || !strings.Contains(text, `"mnt"`) {
		t.Errorf("the notices are %q", notices)
	}
	again, err := importIt(newStore(t), dir, ImportOptions{})
	if err != nil || again.Manifest != l.Manifest {
		t.Errorf("the second import is %+v, %v", again, err)
	}
	clean(t, s)
}

// entries lists a layer, and demands that all times are stamp's.
func entries(t *testing.T, s *image.Store, d image.Digest, stamp time.Time) (list []string) {
	t.Helper()
	f, err := s.OpenBlob(d)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := tar.NewReader(f)
	for {
		h, err := r.Next()
		if err == io.EOF { //nolint:errorlint // archive/tar gives it as it is
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		if !h.ModTime.Equal(stamp) {
			t.Errorf("%s has the time %v", h.Name, h.ModTime)
		}
		line := fmt.Sprintf("%s %c %o %d %s", h.Name, h.Typeflag, h.Mode, h.Size, h.Linkname)
		if v, ok := h.PAXRecords["SCHILY.xattr.user.a"]; ok {
			line += " SCHILY.xattr.user.a=" + v
		}
		list = append(list, line)
	}
}

// TestTar: a tar stays as it is, compressed or not.
func TestTar(t *testing.T) {
	t.Parallel()
	plain := layer(t, "a", "data")
	e, _ := zstd.NewWriter(nil)
	packed := e.EncodeAll(plain, nil)
	for kind, data := range map[string][]byte{image.MediaLayer: plain, image.MediaLayer + "+zstd": packed} {
		for _, piped := range []bool{false, true} {
			s := newStore(t)
			in := Input{Path: written(t, data)}
			if piped {
				r, w, err := os.Pipe()
				if err != nil {
					t.Fatal(err)
				}
				go func() { _, _ = w.Write(data); _ = w.Close() }()
				defer r.Close()
				in = Input{File: r}
			}
			l, err := Import(context.Background(), s, in, "a:1", ImportOptions{Build: limits(), Platform: "linux/" + other()})
			if err != nil {
				t.Fatal(err)
			}
			m, err := s.Manifest(l.Manifest)
			if err != nil {
				t.Fatal(err)
			}
			if want := describe(kind, data); !reflect.DeepEqual(m.Layers, []image.Descriptor{want}) || l.Platform.Architecture != other() {
				t.Errorf("%s: %+v", kind, m.Layers)
			}
			clean(t, s)
		}
	}
}

// TestImportRefuses: what cannot be an image.
func TestImportRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, ".wh.passwd"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s := newStore(t)
	for _, c := range []struct {
		path, name, change, says string
	}{
		{dir, "a:1", "", "whiteout"},
		{"/nowhere", "a:1", "", "no such file"},
		{written(t, []byte(strings.Repeat("no tar", 1000))), "a:1", "", "tar"},
		{written(t, layer(t, "../a", "x")), "a:1", "", "../a"},
		{dir, "A:1", "", "capital"},
		{dir, "a@sha256:" + strings.Repeat("0", 64), "", "digest"},
		{dir, "a:1", "ONBUILD RUN x", "instructions are"},
		{dir, "a:1", "CMD", "INSTRUCTION"},
	} {
		o := ImportOptions{Build: limits()}
		if c.change != "" {
			o.Changes = []string{c.change}
		}
		_, err := Import(context.Background(), s, Input{Path: c.path}, c.name, o)
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if got := names(t, s); got != "" {
		t.Errorf("the store has %q", got)
	}
	clean(t, s)
}

// TestChanges: instructions as a Dockerfile has them.
func TestChanges(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text string
		want settings
		err  string
	}{
		{text: `CMD ["/bin/a", "b c"]`, want: settings{Cmd: []string{"/bin/a", "b c"}}},
		{text: `cmd echo $HOME`, want: settings{Cmd: []string{"/bin/sh", "-c", "echo $HOME"}}},
		{text: `ENTRYPOINT []`, want: settings{Entrypoint: []string{}}},
		{text: `ENTRYPOINT ["a"`, err: "JSON"},
		{text: `ENV A=1 B="2 3" C=a\ b`, want: settings{Env: []string{"A=1", "B=2 3", "C=a b"}}},
		{text: `ENV A one two`, want: settings{Env: []string{"A=one two"}}},
		{text: `ENV A=1 B`, err: "KEY=VALUE"},
		{text: `ENV A`, err: "no value"},
		{text: `ENV A="1`, err: "words"},
		{text: `LABEL a.b=c "d e"=f`, want: settings{Labels: map[string]string{"a.b": "c", "d e": "f"}}},
		{text: `EXPOSE 80 53/udp 8000-8001`, want: settings{ExposedPorts: map[string]struct{}{"80/tcp": {}, "53/udp": {}, "8000/tcp": {}, "8001/tcp": {}}}},
		{text: `EXPOSE 0`, err: "PORT"},
		{text: `EXPOSE 80/icmp`, err: "PORT"},
		{text: `EXPOSE 70000`, err: "PORT"},
		{text: `VOLUME /a "/b c"`, want: settings{Volumes: map[string]struct{}{"/a": {}, "/b c": {}}}},
		{text: `VOLUME ["/a"]`, want: settings{Volumes: map[string]struct{}{"/a": {}}}},
		{text: `VOLUME a`, err: "absolute"},
		{text: `USER anna:staff`, want: settings{User: "anna:staff"}},
		{text: `WORKDIR /a b`, want: settings{WorkingDir: "/a b"}},
		{text: `WORKDIR a`, err: "absolute"},
		{text: `STOPSIGNAL SIGINT`, want: settings{StopSignal: "SIGINT"}},
		{text: `STOPSIGNAL 9`, want: settings{StopSignal: "9"}},
		{text: `STOPSIGNAL 99`, err: "no signal"},
		{text: `HEALTHCHECK NONE`, err: "instructions are"},
		{text: ``, err: "INSTRUCTION"},
	} {
		var s settings
		err := s.change(c.text)
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) || err == nil && !reflect.DeepEqual(s, c.want) {
			t.Errorf("%q: %+v, %v", c.text, s, err)
		}
	}
}
