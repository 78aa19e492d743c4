package seccomp

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// maxProfile bounds a profile file, in bytes; Docker's own has 13 KiB.
const maxProfile = 1 << 20

// ParseOptions says for which sandbox a profile with conditional parts is read.
type ParseOptions struct {
	Native specs.Arch // empty: this program's own
	Caps   []string   // what includes.caps and excludes.caps are compared with
	Kernel string     // "6.1" or "6.1.0-13-amd64", for includes.minKernel; empty: every minimum is met
}

// profileFile is the union of Docker's profile format and the OCI object.
type profileFile struct {
	specs.LinuxSeccomp
	DefaultErrno string `json:"defaultErrno"` // Podman's name of the number beside it
	ArchMap      []struct {
		Architecture     specs.Arch   `json:"architecture"`
		SubArchitectures []specs.Arch `json:"subArchitectures"`
	} `json:"archMap"`
	Syscalls []syscallFile `json:"syscalls"`
}

type syscallFile struct {
	specs.LinuxSyscall
	Name     string    `json:"name"` // Docker's format before names
	Errno    string    `json:"errno"`
	Comment  string    `json:"comment"`
	Includes condition `json:"includes"`
	Excludes condition `json:"excludes"`
}

type condition struct {
	Caps      []string `json:"caps"`
	Arches    []string `json:"arches"`
	MinKernel string   `json:"minKernel"`
}

// ParseProfile reads a profile a person wrote, in Docker's format (archMap, includes, excludes, comments) or as an OCI
// object, for one sandbox. Keys that do not exist and calls that do not exist are errors, with line and column where
// JSON tells; the caller adds the file's name. Compile the result with Options.Strict.
func ParseProfile(r io.Reader, o ParseOptions) (*specs.LinuxSeccomp, error) {
	if o.Native == "" {
		o.Native = Native()
	}
	text, err := io.ReadAll(io.LimitReader(r, maxProfile+1))
	if err != nil {
		return nil, fmt.Errorf("seccomp: reading the profile: %w", err)
	}
	if len(text) > maxProfile {
		return nil, fmt.Errorf("seccomp: the profile is larger than %d bytes", maxProfile)
	}
	var f profileFile
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&f); err != nil {
		return nil, positioned(text, err, dec.InputOffset())
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, positioned(text, errors.New("something follows the profile's closing brace"), dec.InputOffset())
	}
	return f.resolve(o)
}

// positioned adds line and column to an error of the JSON decoder.
func positioned(text []byte, err error, offset int64) error {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		offset = syntax.Offset - 1 // the decoder counts the byte it stumbled over
	case errors.As(err, &kind):
		offset = kind.Offset
	default:
		// An unknown key is told by name alone, and by the place where its object ends.
		if _, key, ok := strings.Cut(err.Error(), "unknown field "); ok {
			if at := bytes.Index(text, []byte(key)); at >= 0 {
				offset = int64(at)
			}
		}
	}
	offset = min(max(offset, 0), int64(len(text)))
	line := 1 + bytes.Count(text[:offset], []byte{'\n'})
	column := offset - int64(bytes.LastIndexByte(text[:offset], '\n'))
	return fmt.Errorf("seccomp: the profile, line %d column %d: %w", line, column, err)
}

// resolve picks the parts that apply to the sandbox.
func (f *profileFile) resolve(o ParseOptions) (*specs.LinuxSeccomp, error) {
	out := f.LinuxSeccomp
	if len(f.ArchMap) > 0 && len(out.Architectures) > 0 {
		return nil, errors.New("seccomp: the profile has both architectures and archMap: keep one")
	}
	for _, m := range f.ArchMap {
		if m.Architecture == o.Native {
			out.Architectures = append([]specs.Arch{m.Architecture}, m.SubArchitectures...)
		}
	}
	for i := range f.Syscalls {
		s := &f.Syscalls[i]
		if s.Name != "" {
			if len(s.Names) > 0 {
				return nil, fmt.Errorf("seccomp: syscalls[%d] has both name and names: keep one", i)
			}
			s.Names = []string{s.Name}
		}
		for _, name := range s.Names {
			if !Known(name) {
				return nil, &UnknownCallError{name, nearest(name)}
			}
		}
		applies, err := s.applies(o)
		if err != nil {
			return nil, fmt.Errorf("seccomp: syscalls[%d]: %w", i, err)
		}
		if applies {
			out.Syscalls = append(out.Syscalls, s.LinuxSyscall)
		}
	}
	return &out, nil
}

// applies is Docker's test: all of includes, nothing of excludes.
func (s *syscallFile) applies(o ParseOptions) (bool, error) {
	goarch := findArch(o.Native)
	inArch := func(list []string) bool {
		return goarch != nil && slices.Contains(list, goarch.goarch)
	}
	granted := (&profile{caps: o.Caps}).has
	newEnough, err := atLeast(o.Kernel, s.Includes.MinKernel)
	if err != nil {
		return false, err
	}
	tooNew := false
	if s.Excludes.MinKernel != "" {
		if tooNew, err = atLeast(o.Kernel, s.Excludes.MinKernel); err != nil {
			return false, err
		}
	}
	switch {
	case len(s.Includes.Arches) > 0 && !inArch(s.Includes.Arches),
		slices.ContainsFunc(s.Includes.Caps, func(c string) bool { return !granted(c) }),
		!newEnough,
		inArch(s.Excludes.Arches),
		slices.ContainsFunc(s.Excludes.Caps, granted),
		tooNew:
		return false, nil
	}
	return true, nil
}

// atLeast compares major.minor of kernel releases.
func atLeast(kernel, least string) (bool, error) {
	if least == "" {
		return true, nil
	}
	want, err := release(least)
	if err != nil {
		return false, fmt.Errorf("minKernel %q is no kernel version such as 5.10", least)
	}
	if kernel == "" {
		return true, nil
	}
	have, err := release(kernel)
	if err != nil {
		return false, fmt.Errorf("kernel release %q: %w", kernel, err)
	}
	return slices.Compare(have[:], want[:]) >= 0, nil
}

func release(s string) (v [2]int, err error) {
	parts := strings.SplitN(s, ".", 3)
	if len(parts) < 2 {
		return v, errors.New("major.minor expected")
	}
	minor := strings.TrimRight(parts[1], "+")
	minor, _, _ = strings.Cut(minor, "-")
	if v[0], err = strconv.Atoi(parts[0]); err != nil {
		return v, err
	}
	v[1], err = strconv.Atoi(minor)
	return v, err
}
