package archive

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"brig/internal/image"

	"github.com/mattn/go-shellwords"
	"golang.org/x/sys/unix"
)

// config is the document that an import writes (image-spec, config.md). Its order of fields is part of the image's digest.
type config struct {
	Architecture string    `json:"architecture"`
	Variant      string    `json:"variant,omitempty"`
	OS           string    `json:"os"`
	Config       settings  `json:"config"`
	RootFS       rootFS    `json:"rootfs"`
	History      []history `json:"history"`
}

type settings struct {
	User         string              `json:",omitempty"`
	ExposedPorts map[string]struct{} `json:",omitempty"`
	Env          []string            `json:",omitempty"`
	Entrypoint   []string            `json:",omitempty"`
	Cmd          []string            `json:",omitempty"`
	Volumes      map[string]struct{} `json:",omitempty"`
	WorkingDir   string              `json:",omitempty"`
	Labels       map[string]string   `json:",omitempty"`
	StopSignal   string              `json:",omitempty"`
}

type rootFS struct {
	Type    string         `json:"type"`
	DiffIDs []image.Digest `json:"diff_ids"`
}

type history struct {
	CreatedBy string `json:"created_by"`
	Comment   string `json:"comment,omitempty"`
}

func newConfig(o ImportOptions) (*config, error) {
	p, err := image.ParsePlatform(o.Platform)
	if err != nil {
		return nil, err
	}
	c := &config{Architecture: p.Architecture, Variant: p.Variant, OS: p.OS, History: []history{{CreatedBy: "brig image import", Comment: o.Message}}}
	for _, text := range o.Changes {
		if err := c.Config.change(text); err != nil {
			return nil, fmt.Errorf("--change %q: %w", text, err)
		}
	}
	return c, nil
}

// change obeys an instruction as it stands in a Dockerfile (docker import's documentation lists them): CMD, ENTRYPOINT, ENV, EXPOSE, LABEL,
// STOPSIGNAL, USER, VOLUME, WORKDIR. ONBUILD is for builds, and HEALTHCHECK for engines; both are refused. No variable is expanded.
func (s *settings) change(text string) error {
	word, rest, _ := strings.Cut(strings.TrimSpace(text), " ")
	rest = strings.TrimSpace(rest)
	if rest == "" {
		return errors.New("it is INSTRUCTION ARGUMENTS, as in CMD /bin/sh")
	}
	switch strings.ToUpper(word) {
	case "CMD":
		return program(&s.Cmd, rest)
	case "ENTRYPOINT":
		return program(&s.Entrypoint, rest)
	case "ENV":
		return pairs(rest, func(k, v string) {
			s.Env = slices.DeleteFunc(s.Env, func(e string) bool { return strings.HasPrefix(e, k+"=") })
			s.Env = append(s.Env, k+"="+v)
		})
	case "LABEL":
		return pairs(rest, func(k, v string) { set(&s.Labels, k, v) })
	case "EXPOSE":
		return s.expose(rest)
	case "VOLUME":
		return s.volumes(rest)
	case "USER":
		s.User = rest
	case "WORKDIR":
		if !strings.HasPrefix(rest, "/") {
			return errors.New("the folder must be absolute")
		}
		s.WorkingDir = rest
	case "STOPSIGNAL":
		if n, err := strconv.Atoi(rest); (err != nil || n < 1 || n > 64) && unix.SignalNum("SIG"+strings.TrimPrefix(strings.ToUpper(rest), "SIG")) == 0 {
			return fmt.Errorf("%q is no signal", rest)
		}
		s.StopSignal = rest
	default:
		return errors.New("the instructions are CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME and WORKDIR")
	}
	return nil
}

// program reads a JSON list of words, or a line for the shell.
func program(to *[]string, text string) error {
	if !strings.HasPrefix(text, "[") {
		*to = []string{"/bin/sh", "-c", text}
		return nil
	}
	*to = nil
	if err := json.Unmarshal([]byte(text), to); err != nil {
		return fmt.Errorf("it is no list of words in JSON: %w", err)
	}
	return nil
}

// pairs reads KEY=VALUE words, with quotes as a shell has them, or KEY VALUE.
func pairs(text string, use func(k, v string)) error {
	words, err := split(text)
	if err != nil {
		return err
	}
	if !strings.Contains(words[0], "=") {
		k, v, ok := strings.Cut(text, " ")
		if !ok {
			return errors.New("there is no value")
		}
		use(k, strings.TrimSpace(v))
		return nil
	}
	for _, w := range words {
		k, v, ok := strings.Cut(w, "=")
		if !ok || k == "" {
			return fmt.Errorf("%q is no KEY=VALUE", w)
		}
		use(k, v)
	}
	return nil
}

func split(text string) ([]string, error) {
	words, err := shellwords.Parse(text)
	if err != nil || len(words) == 0 {
		return nil, fmt.Errorf("its words cannot be told: %w", errors.Join(err))
	}
	return words, nil
}

func (s *settings) expose(text string) error {
	for _, w := range strings.Fields(text) {
		port, protocol, ok := strings.Cut(w, "/")
		if !ok {
			protocol = "tcp"
		}
		from, to, ranged := strings.Cut(port, "-")
		if !ranged {
			to = from
		}
		a, errA := strconv.ParseUint(from, 10, 16)
		b, errB := strconv.ParseUint(to, 10, 16)
		if errA != nil || errB != nil || a == 0 || b < a || !slices.Contains([]string{"tcp", "udp", "sctp"}, protocol) {
			return fmt.Errorf("%q is no PORT[/tcp|/udp|/sctp]", w)
		}
		for ; a <= b; a++ {
			set(&s.ExposedPorts, fmt.Sprintf("%d/%s", a, protocol), struct{}{})
		}
	}
	return nil
}

func (s *settings) volumes(text string) error {
	var paths []string
	if strings.HasPrefix(text, "[") {
		if err := json.Unmarshal([]byte(text), &paths); err != nil {
			return fmt.Errorf("it is no list of folders in JSON: %w", err)
		}
	} else {
		var err error
		if paths, err = split(text); err != nil {
			return err
		}
	}
	for _, p := range paths {
		if !strings.HasPrefix(p, "/") {
			return fmt.Errorf("the folder %q must be absolute", p)
		}
		set(&s.Volumes, p, struct{}{})
	}
	return nil
}

func set[V any](m *map[string]V, k string, v V) {
	if *m == nil {
		*m = map[string]V{}
	}
	(*m)[k] = v
}
