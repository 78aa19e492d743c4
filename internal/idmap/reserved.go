package idmap

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// spans are id ranges that belong to somebody else.
type spans []span

type span struct{ first, count uint64 }

func (s spans) overlaps(first, count uint32) bool {
	for _, r := range s {
		if uint64(first) < r.first+r.count && r.first < uint64(first)+uint64(count) {
			return true
		}
	}
	return false
}

// reservedFiles are read for every allocation, but parsed only when they changed: in a process that starts many
// sandboxes a check costs three stats.
var reservedFiles = []*cachedFile{
	{path: "/etc/subuid", parse: parseSubIDs},
	{path: "/etc/subgid", parse: parseSubIDs},
	{path: "/etc/passwd", parse: parsePasswd},
}

type cachedFile struct {
	path  string
	parse func(text string) spans

	mu      sync.Mutex // guards what is below
	size    int64
	changed time.Time
	spans   spans
}

func reserved() (spans, error) {
	var all spans
	for _, f := range reservedFiles {
		s, err := f.read()
		if err != nil {
			return nil, err
		}
		all = append(all, s...)
	}
	return all, nil
}

func (f *cachedFile) read() (spans, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	info, err := os.Stat(f.path)
	if errors.Is(err, os.ErrNotExist) {
		f.spans, f.size, f.changed = nil, 0, time.Time{}
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if info.Size() == f.size && info.ModTime().Equal(f.changed) {
		return f.spans, nil
	}
	text, err := os.ReadFile(f.path)
	if err != nil {
		return nil, err
	}
	f.spans, f.size, f.changed = f.parse(string(text)), info.Size(), info.ModTime()
	return f.spans, nil
}

// parseSubIDs reads lines of "user:first:count", subuid(5). A line that is not of this form reserves nothing, as
// newuidmap sees it, too.
func parseSubIDs(text string) spans {
	var s spans
	for line := range strings.Lines(text) {
		if _, r, ok := subIDLine(line); ok && r.first+r.count > First && r.first <= Last {
			s = append(s, r)
		}
	}
	return s
}

func subIDLine(line string) (owner string, r span, ok bool) {
	parts := strings.Split(strings.TrimSpace(line), ":")
	if len(parts) != 3 {
		return "", span{}, false
	}
	first, err1 := strconv.ParseUint(parts[1], 10, 32)
	count, err2 := strconv.ParseUint(parts[2], 10, 32)
	return parts[0], span{first, count}, err1 == nil && err2 == nil && count > 0
}

// parsePasswd reserves the uid and the gid of each user that lie in our part of the id space.
func parsePasswd(text string) spans {
	var s spans
	for line := range strings.Lines(text) {
		parts := strings.Split(line, ":")
		if len(parts) < 4 {
			continue
		}
		for _, p := range parts[2:4] {
			if id, err := strconv.ParseUint(p, 10, 32); err == nil && id >= First && id <= Last {
				s = append(s, span{id, 1})
			}
		}
	}
	return s
}
