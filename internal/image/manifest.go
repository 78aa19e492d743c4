package image

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// The media types there are (image-spec, media-types.md; docker's distribution, manifest-v2-2).
const (
	MediaIndex          = "application/vnd.oci.image.index.v1+json"
	MediaManifest       = "application/vnd.oci.image.manifest.v1+json"
	MediaConfig         = "application/vnd.oci.image.config.v1+json"
	MediaLayer          = "application/vnd.oci.image.layer.v1.tar"
	MediaDockerIndex    = "application/vnd.docker.distribution.manifest.list.v2+json"
	MediaDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	MediaDockerConfig   = "application/vnd.docker.container.image.v1+json"
	MediaDockerLayer    = "application/vnd.docker.image.rootfs.diff.tar"
)

// Limits on what is held in memory. Registries themselves take no manifest above 4 MiB (distribution-spec, "Pushing
// Manifests").
const (
	MaxManifest = 4 << 20
	MaxConfig   = 8 << 20
	maxLayers   = 1000
	maxIndex    = 1000
)

// Descriptor points to content (image-spec, descriptor.md).
type Descriptor struct {
	MediaType    string            `json:"mediaType"`
	Digest       Digest            `json:"digest"`
	Size         int64             `json:"size"`
	URLs         []string          `json:"urls,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
	Platform     *Platform         `json:"platform,omitempty"`
	ArtifactType string            `json:"artifactType,omitempty"`
}

// IsIndex tells whether it points to an index.
func (d Descriptor) IsIndex() bool {
	return d.MediaType == MediaIndex || d.MediaType == MediaDockerIndex
}

// IsManifest tells whether it points to a manifest.
func (d Descriptor) IsManifest() bool {
	return d.MediaType == MediaManifest || d.MediaType == MediaDockerManifest
}

// Manifest is one image (image-spec, manifest.md), or an artifact that is attached to one.
type Manifest struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType,omitempty"`
	ArtifactType  string            `json:"artifactType,omitempty"`
	Config        Descriptor        `json:"config"`
	Layers        []Descriptor      `json:"layers"`
	Subject       *Descriptor       `json:"subject,omitempty"`
	Annotations   map[string]string `json:"annotations,omitempty"`
}

// Index is images for several platforms (image-spec, image-index.md).
type Index struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType,omitempty"`
	ArtifactType  string            `json:"artifactType,omitempty"`
	Manifests     []Descriptor      `json:"manifests"`
	Subject       *Descriptor       `json:"subject,omitempty"`
	Annotations   map[string]string `json:"annotations,omitempty"`
}

// document is what tells an index from a manifest. A document that is both is an attack: two readers would see two
// images in what has one digest (CVE-2021-41190).
type document struct {
	SchemaVersion int             `json:"schemaVersion"`
	MediaType     string          `json:"mediaType"`
	Config        json.RawMessage `json:"config"`
	Layers        json.RawMessage `json:"layers"`
	Manifests     json.RawMessage `json:"manifests"`
}

// MediaTypeOf tells what a manifest or an index is by its content, and refuses one that says otherwise, or is both.
func MediaTypeOf(data []byte, declared string) (string, error) {
	if len(data) > MaxManifest {
		return "", fmt.Errorf("the manifest is larger than %d MiB", MaxManifest>>20)
	}
	var d document
	if err := json.Unmarshal(data, &d); err != nil {
		return "", fmt.Errorf("the manifest is not valid JSON: %w", err)
	}
	if d.SchemaVersion != 2 {
		return "", fmt.Errorf("the manifest has schema version %d; only 2 is supported", d.SchemaVersion)
	}
	index, manifest := d.Manifests != nil, d.Config != nil || d.Layers != nil
	if index == manifest {
		return "", fmt.Errorf("the manifest is neither an image nor an index, or it is both (CVE-2021-41190)")
	}
	kinds := []string{MediaManifest, MediaDockerManifest}
	if index {
		kinds = []string{MediaIndex, MediaDockerIndex}
	}
	found := d.MediaType
	if found == "" {
		found = kinds[0] // image-spec: the field may be missing in what is OCI's
		if slices.Contains(kinds, declared) {
			found = declared
		}
	}
	declared, _, _ = strings.Cut(declared, ";")
	if !slices.Contains(kinds, found) || declared != "" && declared != found && slices.Contains(manifestTypes, declared) {
		return "", fmt.Errorf("the manifest says it is %q, is declared as %q, and its content is that of %s", d.MediaType, declared, kinds[0])
	}
	return found, nil
}

var manifestTypes = []string{MediaIndex, MediaDockerIndex, MediaManifest, MediaDockerManifest}

// ParseManifest reads a manifest and checks what can be checked without its blobs.
func ParseManifest(data []byte) (*Manifest, error) {
	kind, err := MediaTypeOf(data, "")
	if err != nil {
		return nil, err
	}
	if kind != MediaManifest && kind != MediaDockerManifest {
		return nil, fmt.Errorf("it is an index, not a manifest")
	}
	var m Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, fmt.Errorf("the manifest is not valid: %w", err)
	}
	if len(m.Layers) > maxLayers {
		return nil, fmt.Errorf("the manifest has %d layers; more than %d are refused", len(m.Layers), maxLayers)
	}
	if m.MediaType == "" {
		m.MediaType = kind
	}
	for _, d := range append([]Descriptor{m.Config}, m.Layers...) {
		if d.Digest == "" || d.Size < 0 {
			return nil, fmt.Errorf("the manifest has a descriptor without a digest or with the size %d", d.Size)
		}
	}
	return &m, nil
}

// CheckLayers refuses layers that are not in the registry: foreign ones would make the store fetch from wherever the
// image says.
func (m *Manifest) CheckLayers() error {
	for _, l := range m.Layers {
		if len(l.URLs) > 0 || strings.Contains(l.MediaType, "nondistributable") || strings.Contains(l.MediaType, "foreign") {
			return fmt.Errorf("layer %s is to be fetched from elsewhere (%q): foreign layers are refused", l.Digest, l.URLs)
		}
		if strings.Contains(l.MediaType, "encrypted") {
			return fmt.Errorf("layer %s is encrypted (%s)", l.Digest, l.MediaType)
		}
	}
	return nil
}

// ParseIndex reads an index.
func ParseIndex(data []byte) (*Index, error) {
	kind, err := MediaTypeOf(data, "")
	if err != nil {
		return nil, err
	}
	if kind != MediaIndex && kind != MediaDockerIndex {
		return nil, fmt.Errorf("it is a manifest, not an index")
	}
	var x Index
	if err := json.Unmarshal(data, &x); err != nil {
		return nil, fmt.Errorf("the index is not valid: %w", err)
	}
	if len(x.Manifests) > maxIndex {
		return nil, fmt.Errorf("the index has %d manifests; more than %d are refused", len(x.Manifests), maxIndex)
	}
	return &x, nil
}

// Choose gives the manifest (or the index within) that serves the platform best, the first of equals. The error lists what there is.
func (x *Index) Choose(want Platform) (Descriptor, error) {
	var best Descriptor
	var have []string
	score := 0
	for _, d := range x.Manifests {
		if d.Platform == nil || d.Digest == "" || !d.IsManifest() && !d.IsIndex() {
			continue
		}
		if p := d.Platform; p.OS != "unknown" { // attestations have the platform unknown/unknown
			have = append(have, p.normal().String())
		}
		if n := d.Platform.serves(want); n > score {
			best, score = d, n
		}
	}
	if score == 0 {
		only := 0
		for _, d := range x.Manifests {
			if d.Platform == nil && d.Digest != "" && (d.IsManifest() || d.IsIndex()) {
				best = d
				only++
			}
		}
		if only == 1 && len(have) == 0 {
			return best, nil // an OCI layout of one image says nothing of platforms
		}
		return Descriptor{}, &PlatformError{Want: want, Have: have}
	}
	return best, nil
}

// PlatformError is an image that is not built for a platform.
type PlatformError struct {
	Want Platform
	Have []string
}

func (e *PlatformError) Error() string {
	if len(e.Have) == 0 {
		return fmt.Sprintf("the image is not built for %s", e.Want)
	}
	return fmt.Sprintf("the image is not built for %s; there are %s", e.Want, strings.Join(e.Have, ", "))
}

// Config is what a sandbox takes over of an image's configuration (image-spec, config.md). Whatever else stands there is no
// concern of a sandbox: an image's metadata never becomes a hook, a device, an annotation or a policy.
type Config struct {
	Platform
	Created      string            `json:"created,omitempty"`
	Author       string            `json:"author,omitempty"`
	User         string            `json:"user,omitempty"`
	Env          []string          `json:"env,omitempty"`
	Entrypoint   []string          `json:"entrypoint,omitempty"`
	Cmd          []string          `json:"cmd,omitempty"`
	WorkingDir   string            `json:"workingDir,omitempty"`
	StopSignal   string            `json:"stopSignal,omitempty"`
	Volumes      []string          `json:"volumes,omitempty"`
	ExposedPorts []string          `json:"exposedPorts,omitempty"`
	Labels       map[string]string `json:"labels,omitempty"`
	DiffIDs      []Digest          `json:"diffIDs"`
	History      []History         `json:"history,omitempty"`
}

// History is one step of an image's making.
type History struct {
	Created    string `json:"created,omitempty"`
	CreatedBy  string `json:"created_by,omitempty"`
	Author     string `json:"author,omitempty"`
	Comment    string `json:"comment,omitempty"`
	EmptyLayer bool   `json:"empty_layer,omitempty"`
}

// configFile is the document itself.
type configFile struct {
	Created      string `json:"created"`
	Author       string `json:"author"`
	Architecture string `json:"architecture"`
	Variant      string `json:"variant"`
	OS           string `json:"os"`
	Config       struct {
		User         string
		Env          []string
		Entrypoint   []string
		Cmd          []string
		WorkingDir   string
		StopSignal   string
		Volumes      map[string]struct{}
		ExposedPorts map[string]struct{}
		Labels       map[string]string
	} `json:"config"`
	RootFS struct {
		Type    string   `json:"type"`
		DiffIDs []Digest `json:"diff_ids"`
	} `json:"rootfs"`
	History []History `json:"history"`
}

// ParseConfig reads an image's configuration.
func ParseConfig(data []byte) (*Config, error) {
	if len(data) > MaxConfig {
		return nil, fmt.Errorf("the image's configuration is larger than %d MiB", MaxConfig>>20)
	}
	var f configFile
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, fmt.Errorf("the image's configuration is not valid: %w", err)
	}
	if f.RootFS.Type != "" && f.RootFS.Type != "layers" {
		return nil, fmt.Errorf("the image's configuration has a rootfs of type %q; only \"layers\" is known", f.RootFS.Type)
	}
	c := f.Config
	out := &Config{
		Platform: Platform{OS: f.OS, Architecture: f.Architecture, Variant: f.Variant}.normal(),
		Created:  f.Created, Author: f.Author, User: c.User, Env: c.Env, Entrypoint: c.Entrypoint, Cmd: c.Cmd, WorkingDir: c.WorkingDir,
		StopSignal: c.StopSignal, Labels: c.Labels, DiffIDs: f.RootFS.DiffIDs, History: f.History,
		Volumes: sortedKeys(c.Volumes), ExposedPorts: sortedKeys(c.ExposedPorts),
	}
	return out, nil
}

func sortedKeys(m map[string]struct{}) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
