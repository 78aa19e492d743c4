package caps

import (
	"strings"

	"brig/internal/spelling"
)

// nearest is the known name that a slip of the hand would turn into bare, with its prefix. A name that contains bare or
// is contained in it counts as near ("ADMIN" alone does not: it would be a guess among three).
func nearest(bare string) string {
	best, bestDist, ties := "", 4, 0
	for _, n := range names {
		d := spelling.Distance(bare, n)
		switch {
		case d < bestDist:
			best, bestDist, ties = n, d, 0
		case d == bestDist:
			ties++
		}
	}
	if best != "" && (bestDist < 3 || ties == 0) && bestDist < len(bare) {
		return "CAP_" + best
	}
	return onlyContaining(bare)
}

// onlyContaining is the one name that has bare inside, or none when there are several.
func onlyContaining(bare string) string {
	if len(bare) < 3 {
		return ""
	}
	found := ""
	for _, n := range names {
		if strings.Contains(n, bare) {
			if found != "" {
				return ""
			}
			found = "CAP_" + n
		}
	}
	return found
}
