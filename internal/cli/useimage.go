package cli

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"

	"brig/internal/cli/output"
	"brig/internal/host"
	"brig/internal/image"
	"brig/internal/image/trust"
	"brig/internal/policy"
	"brig/internal/sandbox"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// runImage runs brig-image for a sandbox that is to come, and passes on what it says and how it ends.
func (a *app) runImage(args ...string) error {
	name, err := imageProgram()
	if err != nil {
		return err
	}
	cmd := exec.Command(name, args...) //nolint:gosec // beside this program
	cmd.Stderr = a.err                 // progress and errors; what it prints for people who call it is none of ours
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM) // it ends first, and says so
	if err = cmd.Start(); err == nil {
		go func() {
			for s := range signals {
				if s == unix.SIGTERM { // Ctrl-C goes to both
					_ = cmd.Process.Signal(s)
				}
			}
		}()
		err = cmd.Wait()
		signal.Stop(signals)
		close(signals)
	}
	var ended *exec.ExitError
	if errors.As(err, &ended) {
		return &imageError{ended}
	}
	if err != nil {
		return fmt.Errorf("run %s: %w", name, err)
	}
	return nil
}

// imageError is an end of brig-image that was no success.
type imageError struct{ ended *exec.ExitError }

func (e *imageError) Error() string { return "brig-image ended with " + e.ended.Error() }

// said tells whether brig-image has said why. By a signal, or by a fault of its own, it ends without a word.
func (e *imageError) said() bool { return e.ended.ExitCode() == 125 || e.interrupted() }

// interrupted tells of Ctrl-C and SIGTERM, after which the words are brig-image's.
func (e *imageError) interrupted() bool {
	return slices.Contains([]int{128 + int(unix.SIGINT), 128 + int(unix.SIGTERM)}, e.ended.ExitCode())
}

// pullError is an image that could not be fetched. What brig-image has said is not said twice.
type pullError struct {
	ref string
	err error
}

func (e *pullError) Error() string {
	var image *imageError
	ended := errors.As(e.err, &image)
	switch {
	case ended && image.said() && !image.interrupted() && !strings.ContainsAny(e.ref, "/:@"):
		return fmt.Sprintf("to run a program of the host's: brig run -- %s", e.ref)
	case ended && image.said():
		return ""
	}
	return fmt.Sprintf("fetch the image %s: %v", e.ref, e.err)
}

func (e *pullError) Unwrap() error { return e.err }

// useImage takes the policy's image into use, and fetches it before if it is not here and fetch allows it. nil for a policy without
// one. The caller closes it.
func (a *app) useImage(p *policy.Policy, fetch bool) (*image.Image, error) {
	if p.Image == "" {
		return nil, nil
	}
	platform, err := image.ParsePlatform(p.Platform)
	if err != nil {
		return nil, fmt.Errorf("--platform: %w", err)
	}
	if platform.OS != "linux" {
		return nil, fmt.Errorf("--platform %s: only Linux programs run here", platform)
	}
	if _, err := host.Serves(platform.Architecture); err != nil {
		return nil, fmt.Errorf("--platform %s: %w", platform, err)
	}
	if _, err := image.ParseRef(p.Image); err != nil {
		return nil, fmt.Errorf("%w; to run a program of the host's: brig run -- %s", err, p.Image)
	}
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("image %s: %w", p.Image, image.ErrNeedsRoot) // before it is fetched for nothing
	}
	store, err := image.Open(os.Getenv("BRIG_STORE"))
	if err != nil {
		return nil, err
	}
	if fetch && p.Pull == "always" {
		if err := a.pull(p); err != nil {
			return nil, err
		}
	}
	img, err := store.Use(p.Image, platform)
	var other *image.PlatformError
	if errors.Is(err, image.ErrNotHere) || errors.As(err, &other) {
		switch {
		case p.Pull == "never":
			return nil, fmt.Errorf("%w, and is not to be fetched (--pull never)", err)
		case !fetch:
			return nil, fmt.Errorf("%w; `brig image pull` fetches it", err)
		}
		if err := a.pull(p); err != nil {
			return nil, err
		}
		img, err = store.Use(p.Image, platform)
	}
	if err != nil {
		return nil, err
	}
	if err := verify(store, p, img); err != nil {
		return nil, errors.Join(err, img.Close())
	}
	return img, nil
}

// images completes the word for an image with those that are here.
func (f *policyFlags) images(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 || f.rootfs != "" {
		return nil, cobra.ShellCompDirectiveDefault
	}
	store, err := image.Open(os.Getenv("BRIG_STORE"))
	if err != nil {
		return nil, cobra.ShellCompDirectiveDefault
	}
	list, _ := store.Entries() // what cannot be read is no name
	var words []string
	for _, e := range list {
		if ref, err := e.Ref(); err == nil {
			words = append(words, ref.String())
		}
	}
	return words, cobra.ShellCompDirectiveNoFileComp
}

func (a *app) pull(p *policy.Policy) error {
	args := []string{"pull"}
	if p.Platform != "" {
		args = append(args, "--platform", p.Platform)
	}
	for _, key := range p.Verify {
		args = append(args, "--verify", key)
	}
	if output.Width(a.err) == 0 {
		fmt.Fprintf(a.err, "brig: fetching the image %s\n", p.Image) // where a terminal has the bars
	}
	if err := a.runImage(append(args, "--", p.Image)...); err != nil {
		return &pullError{p.Image, err}
	}
	return nil
}

// verify holds an image against what the operator and the policy demand of it, at every start: it may have come here before that was
// demanded.
func verify(store *image.Store, p *policy.Policy, img *image.Image) error {
	err := trust.Require(store, trust.Names(img), img.Target, img.Digest, p.Verify)
	var unsigned *trust.UnsignedError
	if errors.As(err, &unsigned) {
		return fmt.Errorf("%w; `brig image pull` fetches signatures that were made since", err)
	}
	if err == nil && p.VerifyImage == "always" {
		err = img.Verify()
	}
	return err
}

// imageFacts mounts an image and gives what a policy takes from it.
func imageFacts(img *image.Image) (*policy.ImageFacts, error) {
	root, err := img.Mount()
	if err != nil {
		return nil, err
	}
	c := img.Config
	return &policy.ImageFacts{
		Root: root, Env: c.Env, Entrypoint: c.Entrypoint, Cmd: c.Cmd, WorkingDir: c.WorkingDir, User: c.User, Volumes: c.Volumes,
	}, nil
}

// filtered refuses an image whose programs the spec's filter would kill: system calls of another architecture than the machine's are
// a back door past the filter unless it has them.
func filtered(img *image.Image, spec *specs.Spec) error {
	if img == nil || spec.Linux.Seccomp == nil {
		return nil
	}
	arch := img.Config.Architecture
	if arch == "" {
		return nil // a root folder that was brought in: nobody knows
	}
	serving, err := host.Serves(arch)
	if err != nil {
		return fmt.Errorf("image %s: %w", img.Ref, err)
	}
	sibling := map[string]specs.Arch{"386": specs.ArchX86, "arm": specs.ArchARM}[arch]
	if serving == host.Sibling && !slices.Contains(spec.Linux.Seccomp.Architectures, sibling) {
		return fmt.Errorf("image %s is for %s, whose system calls the filter does not let in; --preset compat does", img.Ref, img.Config.Platform)
	}
	return nil
}

// stopSignal reads the signal that an image wants to be stopped with; 0 where it says nothing.
func stopSignal(img *image.Image) (int, error) {
	if img == nil || img.Config.StopSignal == "" {
		return 0, nil
	}
	text := img.Config.StopSignal
	s, err := parseSignal(text)
	if err != nil {
		return 0, fmt.Errorf("image %s: its config has %q as config.StopSignal, which is no signal", img.Ref, text)
	}
	return int(s), nil
}

// imageState is what a sandbox's state says of its image.
func imageState(img *image.Image) *sandbox.Image {
	if img == nil {
		return nil
	}
	return &sandbox.Image{Ref: img.Ref, Digest: string(img.Digest)}
}

// realTime reads SIGRTMIN+n and SIGRTMAX-n as glibc numbers them (signal(7)): systemd wants to be stopped with SIGRTMIN+3.
func realTime(name string) (unix.Signal, bool) {
	var base, sign int
	switch {
	case strings.HasPrefix(name, "SIGRTMIN"):
		base, sign = 34, 1
	case strings.HasPrefix(name, "SIGRTMAX"):
		base, sign = 64, -1
	default:
		return 0, false
	}
	rest := name[len("SIGRTMIN"):]
	if rest == "" {
		return unix.Signal(base), true
	}
	if rest[0] != "-+"[(sign+1)/2] {
		return 0, false
	}
	n, err := strconv.ParseUint(rest[1:], 10, 5)
	s := base + sign*int(n) //nolint:gosec // five bits
	return unix.Signal(s), err == nil && s >= 34 && s <= 64
}
