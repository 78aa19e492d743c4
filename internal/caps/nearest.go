package caps

import "strings"

// nearest is the known name that a slip of the hand would turn into bare, with its prefix. A name that contains bare or
// is contained in it counts as near ("ADMIN" alone does not: it would be a guess among three).
func nearest(bare string) string {
	best, bestDist, ties := "", 4, 0
	for _, n := range names {
		d := distance(bare, n)
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

// distance is Levenshtein's: how many letters must be put in, taken out or changed.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
