package vmm

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Kernel is an unpacked kernel package of a distribution.
type Kernel struct {
	// Release is its uname -r.
	Release string
	// Image is the file that is booted.
	Image string

	modules string            // the folder lib/modules/RELEASE
	files   map[string]string // a module's name to its file, relative to modules
	needs   map[string][]string
	builtin map[string]bool
}

// OpenKernel reads a folder with boot/vmlinuz-RELEASE and lib/modules/RELEASE, in which depmod(8) has made modules.dep. There
// must be one kernel in it.
func OpenKernel(dir string) (*Kernel, error) {
	images, err := filepath.Glob(filepath.Join(dir, "boot", "vmlinuz-*"))
	if err != nil {
		return nil, err
	}
	if len(images) != 1 {
		return nil, fmt.Errorf("open the kernel in %s: it has %d files boot/vmlinuz-*, and must have one", dir, len(images))
	}
	release := strings.TrimPrefix(filepath.Base(images[0]), "vmlinuz-")
	k := &Kernel{
		Release: release, Image: images[0], modules: filepath.Join(dir, "lib", "modules", release),
		files: map[string]string{}, needs: map[string][]string{}, builtin: map[string]bool{},
	}
	if err := k.readDependencies(); err != nil {
		return nil, fmt.Errorf("open the kernel in %s: %w", dir, err)
	}
	return k, nil
}

// readDependencies reads modules.dep, "file: files it needs", and modules.builtin, a file a line (modules.dep(5)).
func (k *Kernel) readDependencies() error {
	err := eachLine(filepath.Join(k.modules, "modules.dep"), func(line string) {
		file, needs, _ := strings.Cut(line, ":")
		name := moduleName(file)
		k.files[name] = file
		for _, n := range strings.Fields(needs) {
			k.needs[name] = append(k.needs[name], moduleName(n))
		}
	})
	if err != nil {
		return err
	}
	err = eachLine(filepath.Join(k.modules, "modules.builtin"), func(line string) { k.builtin[moduleName(line)] = true })
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func eachLine(name string, do func(string)) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		do(lines.Text())
	}
	return lines.Err()
}

// moduleName is a module's name in the kernel: that of its file, with underscores.
func moduleName(file string) string {
	name, _, _ := strings.Cut(filepath.Base(file), ".")
	return strings.ReplaceAll(name, "-", "_")
}

// Has says whether the kernel has a module, also when it is built in.
func (k *Kernel) Has(module string) bool {
	module = moduleName(module)
	_, ok := k.files[module]
	return ok || k.builtin[module]
}

// resolve gives the files of the modules and of what they need, each once, in the order of loading.
func (k *Kernel) resolve(modules []string) ([]string, error) {
	var out []string
	seen := map[string]bool{}
	var add func(string) error
	add = func(name string) error {
		if seen[name] || k.builtin[name] {
			return nil
		}
		seen[name] = true
		file, ok := k.files[name]
		if !ok {
			return fmt.Errorf("kernel %s has no module %s", k.Release, name)
		}
		// modprobe loads them from the last to the first.
		needs := k.needs[name]
		for i := len(needs) - 1; i >= 0; i-- {
			if err := add(needs[i]); err != nil {
				return err
			}
		}
		out = append(out, filepath.Join(k.modules, file))
		return nil
	}
	for _, m := range modules {
		if err := add(moduleName(m)); err != nil {
			return nil, err
		}
	}
	return out, nil
}
