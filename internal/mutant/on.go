//go:build mutants

package mutant

import (
	"os"
	"sync"
)

var (
	chosen = sync.OnceValue(func() string { return os.Getenv("MUTANT") }) //nolint:gochecknoglobals // Only in a build for one test.
	kept   sync.Map                                                       //nolint:gochecknoglobals // The same.
)

// Is tells whether a rule is broken: the one that the environment names in MUTANT.
func Is(rule string) bool { return chosen() == rule }

// Swap keeps a value in place of the one that was kept for key before, which it returns: what a mutant remembers has no
// place in the code that it breaks.
func Swap[T any](key any, value T) (before T, ok bool) {
	old, _ := kept.Swap(key, value)
	before, ok = old.(T)
	return before, ok
}
