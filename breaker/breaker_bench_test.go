package breaker_test

import (
	"context"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/breaker"
)

func BenchmarkExecute(b *testing.B) {
	for _, bb := range []struct {
		name string
		cfg  breaker.Config
	}{
		{"closed", breaker.Config{}},
		{"limit", breaker.Config{MaxConcurrentCalls: 1000}},
		{"window", breaker.Config{FailureRate: 0.5, Window: 10 * time.Second}},
		{"slow", breaker.Config{SlowCallDuration: time.Second}},
	} {
		br := mustNew(b, bb.cfg)
		ctx := b.Context()
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = br.Execute(ctx, succeed)
			}
		})
		b.Run(bb.name+"-parallel", func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					_ = br.Execute(ctx, succeed)
				}
			})
		})
	}
}

func BenchmarkExecuteOpen(b *testing.B) {
	br := mustNew(b, breaker.Config{MaxFailures: 1, Timeout: time.Hour})
	_ = br.Execute(b.Context(), fail)
	b.ReportAllocs()
	for b.Loop() {
		_ = br.Execute(b.Context(), succeed)
	}
}

func BenchmarkExecuteValue(b *testing.B) {
	br := mustNew(b, breaker.Config{})
	fn := func(context.Context) (int, error) { return 1, nil }
	b.ReportAllocs()
	for b.Loop() {
		_, _ = breaker.ExecuteValue(b.Context(), br, fn)
	}
}

func BenchmarkAllow(b *testing.B) {
	br := mustNew(b, breaker.Config{})
	b.ReportAllocs()
	for b.Loop() {
		p, _ := br.Allow()
		p.Done(nil)
	}
}
