// Package spelling tells how near a word is to one that is known, for the question what was meant. It knows nothing of what words name:
// policies, capabilities and system calls each say what is near enough.
package spelling

// Distance is Levenshtein's: how many bytes must be put in, taken out or changed to make b of a. Its time is the product of the lengths.
func Distance(a, b string) int {
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
