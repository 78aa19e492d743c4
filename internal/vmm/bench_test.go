package vmm

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkBoot measures, in turns, a machine from Start until a program has run in it, and a bare QEMU that boots the same kernel with an
// empty initramfs to its panic for want of a root. The ratios of the medians are what docs and goals speak of; that of processor time
// holds on a busy host, too: 1.4 of both were measured on a very busy one with Debian's 6.1, where 3.1 s of a machine's 4.1 s of processor time go
// to the kernel's own boot and the rest to modules, disks and the agent's two starts.
func BenchmarkBoot(b *testing.B) {
	c := machineConfig(b)
	empty := filepath.Join(b.TempDir(), "empty")
	f, err := os.Create(empty)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	if err := newArchive(f).close(); err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	boots := map[string]func() error{
		"bare": func() error {
			return exec.CommandContext(ctx, "qemu-system-x86_64", bareMachine(&c, empty)...).Run() //nolint:gosec // QEMU
		},
		"machine": func() error {
			m, err := Start(ctx, c)
			if err != nil {
				return err
			}
			return m.Close()
		},
	}
	wall, cpu := map[string][]float64{}, map[string][]float64{}
	for b.Loop() {
		for name, boot := range boots {
			began, used := time.Now(), processorTime(b)
			if err := boot(); err != nil {
				b.Fatal(name, err)
			}
			wall[name] = append(wall[name], time.Since(began).Seconds())
			cpu[name] = append(cpu[name], (processorTime(b) - used).Seconds())
		}
	}
	b.ReportMetric(median(wall["machine"]), "s/machine")
	b.ReportMetric(median(wall["bare"]), "s/bare")
	b.ReportMetric(median(wall["machine"])/median(wall["bare"]), "machine/bare")
	b.ReportMetric(median(cpu["machine"])/median(cpu["bare"]), "machine/bare-cpu")
}

// bareMachine are machine's arguments without what makes it useful.
func bareMachine(c *Config, initramfs string) []string {
	args := machine(c)
	args = args[:slices.Index(args, "-device")]
	args[slices.Index(args, "-initrd")+1] = initramfs
	return args
}

// processorTime is that of this process and its ended children.
func processorTime(b *testing.B) time.Duration {
	var sum int64
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var r unix.Rusage
		if err := unix.Getrusage(who, &r); err != nil {
			b.Fatal(err)
		}
		sum += r.Utime.Nano() + r.Stime.Nano()
	}
	return time.Duration(sum)
}

func median(list []float64) float64 {
	slices.Sort(list)
	return list[len(list)/2]
}
