package layers

// Limits bound what the layers of one image may cost. What the kernel bounds has no limit here, since nothing could use more: a
// path (PATH_MAX), a name (NAME_MAX), an extended attribute. A PAX header is at most 1 MiB, which archive/tar sees to.
type Limits struct {
	// Size is how many bytes the regular files of all layers may have together, holes included, and how many bytes their
	// archives may.
	Size int64
	// Entries is how many entries all layers may have together, with the folders made on the way and with whiteouts.
	Entries int64
	// Metadata is how many bytes the names, link targets and extended attributes of all layers may have together, with what attributes
	// take of memory beside them.
	Metadata int64
	// Ratio is how many bytes may come out of the compressed layers for each byte of them. Blocks of zeros are not counted: they
	// take no disk. It counts from RatioFrom bytes on, so that a small image may be as repetitive as it likes.
	Ratio, RatioFrom int64
	// Window is how much memory a zstd frame may ask for to look back.
	Window int64
}

// DefaultLimits are far above what images are known to have, and far below what would fill a machine from a small download. The
// size is bounded by the time that zeros take, since they take no space; entries by their memory, half a KiB each, which makes 1 GiB
// at most; the window is the most that the zstd program accepts unless told otherwise.
func DefaultLimits() Limits {
	return Limits{
		Size:     256 << 30,
		Entries:  2 << 20,
		Metadata: 512 << 20,
		Ratio:    200, RatioFrom: 1 << 30,
		Window: 128 << 20,
	}
}

// used is what of the limits an image has taken so far.
type used struct{ size, entries, metadata, detours int64 }

func (m *Merger) takeSize(n int64) error {
	if n > m.limits.Size-m.used.size {
		return &LimitError{Limit: "Size", Max: m.limits.Size, What: "the files of the image have more bytes than they may"}
	}
	m.used.size += n
	return nil
}

// takeEntry counts one more file, folder, link or node, and the bytes kept of it in memory.
func (m *Merger) takeEntry(metadata int) error {
	if m.used.entries >= m.limits.Entries {
		return &LimitError{Limit: "Entries", Max: m.limits.Entries, What: "the image has more entries than it may"}
	}
	m.used.entries++
	return m.takeMetadata(metadata)
}

func (m *Merger) takeMetadata(n int) error {
	if int64(n) > m.limits.Metadata-m.used.metadata {
		return &LimitError{Limit: "Metadata", Max: m.limits.Metadata,
			What: "the names, link targets and extended attributes of the image have more bytes than they may"}
	}
	m.used.metadata += int64(n)
	return nil
}

// takeDetour counts the names that links lead through on the way to entries. Each costs time; images have few.
func (m *Merger) takeDetour(names int) error {
	const perEntry = 16
	m.used.detours += int64(names)
	if m.used.detours/perEntry > m.limits.Entries {
		return &LimitError{Limit: "Entries", Max: m.limits.Entries,
			What: "the ways to the entries of the image lead through more links than those of as many entries as there may be"}
	}
	return nil
}
