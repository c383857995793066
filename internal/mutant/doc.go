// Package mutant breaks rules of the library on purpose, for tests that must notice: with the build tag "mutants", the
// one that the environment names; in any other build, none. `make sim-mutants` runs the pipeline's simulation on each.
package mutant
