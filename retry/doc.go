// Package retry tries again, by a Policy, what may succeed the next time, and stops at once where trying cannot help: at
// an open circuit, at a verdict of package holdfast, at the end of the caller's context. It stands on
// github.com/avast/retry-go.
//
//	err := retry.DoThrough(ctx, b, retry.DefaultPolicy(), func(ctx context.Context) error {
//		return client.Send(ctx, mail)
//	})
//
// With a breaker each attempt asks it: one breaker call around all attempts would hide how often the dependency failed.
//
// Retry in one layer only. Stacked layers multiply the attempts.
package retry
