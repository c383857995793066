// Package breaker is a circuit breaker: it stops calling what does not answer, finds out by itself when it answers
// again, and tells callers apart who wait from callers who must not.
//
//	b, err := breaker.New(breaker.DefaultConfig("orders-db"))
//	...
//	err = b.Execute(ctx, func(ctx context.Context) error { return db.PingContext(ctx) })
//	if errors.Is(err, breaker.ErrCircuitOpen) { ... } // was not called
//
// A breaker is closed (calls pass), open (calls are rejected with an OpenError) or half-open (a few calls probe). It
// opens by consecutive failures, which no window ages away; by the rate of failures or of slow calls over a sliding
// window; by a rule of the program's own; or at once on a telling error. All rules work side by side.
//
// What is no failure: a call that its own caller cancelled, an error that is the message's or the configuration's fault
// (see DefaultClassify), and a rejection by another breaker. A panic and a runtime.Goexit are failures; they are
// counted and pass on.
//
// A closed breaker with the default rules takes no lock, reads no clock and allocates nothing. A breaker has no
// goroutine and no timer of its own; it moves from open to half-open when somebody calls it after the timeout, while
// State and Stats say half-open from that moment on. All time is monotonic.
//
// When not to use one: around calls that cannot fail together, such as lookups in memory; or around a whole loop of
// retries, where one outcome would hide how often the dependency failed. Package retry asks the breaker per attempt.
package breaker
