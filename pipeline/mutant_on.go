//go:build mutants

package pipeline

import (
	"os"
	"sync"
)

// mutant is the rule that the environment wants broken.
var mutant = sync.OnceValue(func() string { return os.Getenv("MUTANT") }) //nolint:gochecknoglobals // Only in a build for one test.

func broken(rule string) bool { return mutant() == rule }
