package configs

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// suggest ends an error about an unknown word: with the candidate that was probably meant, else with all of them.
func suggest(word string, candidates []string) string {
	if near := nearest(word, candidates); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	if len(candidates) == 1 {
		return "write " + candidates[0]
	}
	return "write one of " + strings.Join(candidates, ", ")
}

// nearest gives the candidate that is a few typing errors away from word or that word abbreviates, or "".
func nearest(word string, candidates []string) string {
	if len(word) > 64 {
		return ""
	}
	best, bestDistance := "", 0
	lower := strings.ToLower(word)
	for _, c := range candidates {
		distance, limit := editDistance(lower, strings.ToLower(c)), max(1, min(len(word), len(c))/3)
		if distance > limit && len(word) >= 3 && strings.HasPrefix(strings.ToLower(c), lower) {
			distance = limit
		}
		if distance <= limit && (best == "" || distance < bestDistance) {
			best, bestDistance = c, distance
		}
	}
	return best
}

// editDistance counts the characters to insert, delete, replace, or swap with their neighbour, to make b of a.
func editDistance(a, b string) int {
	s, t := []rune(a), []rune(b)
	before, last, row := make([]int, len(t)+1), make([]int, len(t)+1), make([]int, len(t)+1)
	for j := range last {
		last[j] = j
	}
	for i := range s {
		row[0] = i + 1
		for j := range t {
			cost := 1
			if s[i] == t[j] {
				cost = 0
			}
			row[j+1] = min(last[j+1]+1, row[j]+1, last[j]+cost)
			if i > 0 && j > 0 && s[i] == t[j-1] && s[i-1] == t[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(t)]
}

// quote gives text in quotes, shortened where it is long.
func quote(text string) string {
	const limit = 60
	if utf8.RuneCountInString(text) > limit {
		text = string([]rune(text)[:limit]) + "…"
	}
	return fmt.Sprintf("%q", text)
}
