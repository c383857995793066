//go:build !mutants

package pipeline

// broken tells whether a rule is broken on purpose, for a test that must notice (mutant_on.go). It never is: the
// compiler leaves nothing of it in a build without the tag.
func broken(string) bool { return false }
