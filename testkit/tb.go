package testkit

// TB is what testkit needs of a test. A *testing.T, *testing.B and *testing.F have it. Testkit does not import the
// testing package, so that a demonstration program may link it too.
type TB interface {
	Helper()
	Cleanup(func())
	Logf(format string, args ...any)
	Fatalf(format string, args ...any)
}
