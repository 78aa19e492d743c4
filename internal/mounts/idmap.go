package mounts

import (
	"fmt"
	"strconv"
	"strings"
)

// IDRange is one range of a mapping that an idmap option carries (crun's extension): Size ids from ID on, as the file system
// has them, are ids from HostID on.
type IDRange struct {
	ID, HostID, Size uint32
	// Relative: HostID is an id of the sandbox's own user namespace, and its host id is meant.
	Relative bool
}

// idmap understands "uids=0-1-10#10-11-10;gids=@0-100-10": ranges are parted by '#', and '@' makes one relative.
func (o *Options) idmap(opt, maps string) error {
	for part := range strings.SplitSeq(maps, ";") {
		key, list, _ := strings.Cut(part, "=")
		var to *[]IDRange
		switch key {
		case "uids":
			to = &o.UID
		case "gids":
			to = &o.GID
		default:
			return fmt.Errorf("mount option %q: %q is neither uids= nor gids=", opt, part)
		}
		for text := range strings.SplitSeq(list, "#") {
			r, err := idRange(text)
			if err != nil {
				return fmt.Errorf("mount option %q: %w", opt, err)
			}
			*to = append(*to, r)
		}
	}
	if len(o.UID) == 0 || len(o.GID) == 0 {
		return fmt.Errorf("mount option %q: uids and gids belong together", opt)
	}
	return nil
}

func idRange(text string) (r IDRange, err error) {
	numbers, relative := strings.CutPrefix(text, "@")
	fields := strings.Split(numbers, "-")
	if len(fields) != 3 {
		return r, fmt.Errorf("%q is not of the form ID-HOSTID-SIZE", text)
	}
	for i, to := range []*uint32{&r.ID, &r.HostID, &r.Size} {
		n, err := strconv.ParseUint(fields[i], 10, 32)
		if err != nil {
			return r, fmt.Errorf("%q is not of the form ID-HOSTID-SIZE: %w", text, err)
		}
		*to = uint32(n)
	}
	r.Relative = relative
	return r, nil
}
