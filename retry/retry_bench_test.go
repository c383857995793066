package retry_test

import (
	"context"
	"testing"

	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/retry"
)

func succeed(context.Context) error { return nil }

func BenchmarkDo(b *testing.B) {
	b.Run("success", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_ = retry.Do(b.Context(), retry.Policy{}, succeed)
		}
	})
	b.Run("success through a breaker", func(b *testing.B) {
		br, err := breaker.New(breaker.Config{})
		if err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for b.Loop() {
			_ = retry.DoThrough(b.Context(), br, retry.Policy{}, succeed)
		}
	})
	b.Run("three failures", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_ = retry.Do(b.Context(), retry.Policy{Delay: -1}, fail)
		}
	})
}
