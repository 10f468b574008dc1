package channel

import "strings"

// Nearest is the word of known that was most likely meant by word: the same but
// for upper case, or at most two letters away (one in a short word). It is empty
// when none is near. It serves hints alone.
func Nearest(word string, known []string) string {
	const longest = 32 // no key is longer, and the work grows with the square
	if word == "" || len(word) > longest {
		return ""
	}
	best, bestDistance := "", 3
	if len(word) < 4 {
		bestDistance = 2
	}
	for _, k := range known {
		if d := distance(strings.ToLower(word), k); d < bestDistance {
			best, bestDistance = k, d
		}
	}
	return best
}

// distance counts the insertions, deletions, replacements and swaps of
// neighbours that turn a into b (optimal string alignment), over bytes.
func distance(a, b string) int {
	before, prev, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(prev[j]+1, row[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, prev, row = prev, row, before
	}
	return prev[len(b)]
}
