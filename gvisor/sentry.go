package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"time"

	"brig/internal/isolation/gvisor/job"
	"brig/internal/resident"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/fd"
	"gvisor.dev/gvisor/pkg/gomaxprocs"
	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/metric"
	"gvisor.dev/gvisor/runsc/boot"
	"gvisor.dev/gvisor/runsc/config"
	"gvisor.dev/gvisor/runsc/flag"
	"gvisor.dev/gvisor/runsc/specutils"
)

// sentry serves one sandbox to its end.
func sentry() error {
	j, f, err := receive()
	if j == nil || err != nil {
		return err
	}
	status := os.NewFile(uintptr(f.status), "status")
	l, end, err := serve(j, f, status)
	if err != nil {
		end.Error = err.Error()
	}
	tell(status, end)
	if err != nil {
		return err
	}
	l.Destroy() // and with it answer the calls that are waited for: a wait, a checkpoint
	if ws := unix.WaitStatus(end.Status); j.Exits && ws.Signaled() {
		os.Exit(128 + int(ws.Signal())) // by a signal it could not: it may be the first of its pid namespace
	} else if j.Exits {
		os.Exit(ws.ExitStatus())
	}
	return nil
}

// tell says how it ended, in a line of its own.
func tell(status *os.File, end job.End) {
	if text, err := json.Marshal(end); err == nil {
		_, _ = fmt.Fprintf(status, "\n%s\n", text)
	}
}

// whileStarting is how many of Go's threads a start may have more than there are processors. Goroutines that only now begin to wait in a
// system call (for a call, for the file server) each keep their place among the threads that run until the runtime looks, which it does
// every 10 ms (sysmon of package runtime), and with two places the start stood still for that long.
const whileStarting = 4

func serve(j *job.Job, f *files, status *os.File) (*boot.Loader, job.End, error) {
	conf, err := configuration(j)
	if err != nil {
		return nil, job.End{}, err
	}
	log.SetTarget(log.GoogleEmitter{Writer: &log.Writer{Next: io.Discard}})
	prepare()
	if j.Spec.Linux != nil {
		j.Spec.Linux.Seccomp = job.Refusals(j.Spec.Linux.Seccomp, calls())
	}
	l, err := boot.New(arguments(j, f, conf))
	if err != nil {
		return nil, job.End{}, fmt.Errorf("start gVisor's kernel: %w", err)
	}
	gomaxprocs.Add(whileStarting)
	watchStubs(status, j.Exits)
	failed := func(err error) {
		tell(status, job.End{Error: err.Error()})
		os.Exit(1)
	}
	useMasks(l, j.ID, failed)
	if err := useCompiledFilter(conf, f.control, l, failed); err != nil {
		return nil, job.End{}, err
	}
	if err := metric.Initialize(); err != nil {
		return nil, job.End{}, fmt.Errorf("start gVisor's kernel: %w", err)
	}
	if j.Pod || j.Saved {
		if err := ready(status, conf); err != nil {
			return nil, job.End{}, err
		}
	}
	l.WaitForStartSignal()
	if err := l.Run(); err != nil {
		return nil, job.End{}, err
	}
	gomaxprocs.Add(-whileStarting)
	settled := time.AfterFunc(resident.Settled, settle)
	defer settled.Stop()
	ws := l.WaitExit()
	return l, job.End{Status: uint32(ws)}, nil
}

// settle gives back what only the start needed. What it left on Go's heap is a sixth of what an idle kernel has of its own.
func settle() {
	debug.FreeOSMemory()
	resident.Trim()
}

// ready tells what a container that comes later is started with: the settings, and that its filter is there already.
func ready(status *os.File, conf *config.Config) error {
	text, err := json.Marshal(conf)
	if err != nil {
		return fmt.Errorf("tell the settings of gVisor's kernel: %w", err)
	}
	return json.NewEncoder(status).Encode(job.Ready{Config: text, Calls: calls()})
}

func readJob(fd int) (*job.Job, error) {
	f := os.NewFile(uintptr(fd), "job")
	defer f.Close() //nolint:errcheck // it was only read
	j := &job.Job{}
	if err := json.NewDecoder(f).Decode(j); err != nil {
		return nil, fmt.Errorf("this program is brig's own and reads its job from file descriptor %d: %w", fd, err)
	}
	return j, nil
}

// configuration is gVisor's: its defaults, and what the job says.
func configuration(j *job.Job) (*config.Config, error) {
	flags := flag.NewFlagSet("sentry", flag.ContinueOnError)
	config.RegisterFlags(flags)
	set := map[string]string{
		"platform":    platformName,
		"network":     "none",
		"directfs":    "false", // the kernel process opens no file of the host's
		"overlay2":    "none",
		"oci-seccomp": "true", // the guest has the filter of the policy, beside the host's
		"host-uds":    "none",
		"net-raw":     "true", // who may open raw sockets is the spec's to say, and they are of the guest's own network
		// Whoever calls nothing at the end is let go at once.
		"control-rpc-stop-timeout": "0s",
	}
	if j.HostNetwork {
		set["network"] = "host"
	}
	for name, value := range set {
		if err := flags.Set(name, value); err != nil {
			return nil, fmt.Errorf("gVisor's setting %s=%s: %w", name, value, err)
		}
	}
	return config.NewFromFlags(flags)
}

// arguments are what runsc's boot command hands to the kernel after it has confined itself.
func arguments(j *job.Job, f *files, conf *config.Config) boot.Args {
	root := specutils.GoferMountConf{Lower: specutils.Erofs}
	if j.Gofer {
		root.Lower = specutils.Lisafs
	}
	if j.Writable {
		root.Upper = specutils.MemoryOverlay
		if j.Size > 0 {
			root.Size = strconv.FormatUint(j.Size, 10)
		}
	}
	a := boot.Args{
		ID: j.ID, Spec: j.Spec, Conf: conf, ControllerFD: f.control, StdioFDs: f.streams,
		GoferFDs: []int{f.root}, GoferMountConfs: []specutils.GoferMountConf{root},
		NumCPU: j.CPUs, TotalMem: j.Memory, CPUQuota: j.CPUQuota, CPUPeriod: j.CPUPeriod,
		PinRingFD: -1, Device: fd.New(-1), DevGoferFD: -1, ExecFD: -1, PodInitConfigFD: -1, RootfsUpperTarFD: -1,
	}
	for i := range j.PassFDs {
		if slices.Contains(j.Closed, 3+i) {
			continue
		}
		a.PassFDs = append(a.PassFDs, boot.FDMapping{Host: f.more[i], Guest: 3 + i})
	}
	for i := range j.Mounts {
		a.GoferFDs = append(a.GoferFDs, f.more[j.PassFDs+i])
		a.GoferMountConfs = append(a.GoferMountConfs, specutils.GoferMountConf{Lower: specutils.Lisafs})
	}
	return a
}
