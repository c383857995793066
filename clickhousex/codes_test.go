package clickhousex_test

import (
	"testing"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/clickhousex"
	"github.com/holdfast-io/holdfast/retry"
	"github.com/holdfast-io/holdfast/testkit"
)

// TestEveryCodeOverTheWire: what each code of the server's means where it comes: as the answer to a statement, to an INSERT
// before its rows, and to its rows.
func TestEveryCodeOverTheWire(t *testing.T) {
	// What an insert's error is when the code is its answer: before its rows and after.
	type verdict struct{ ambiguous, hold, refused bool }
	var (
		again     = verdict{}                // To be tried again, and nothing is stored.
		ambiguous = verdict{ambiguous: true} // May be stored.
		hold      = verdict{hold: true}
		refused   = verdict{refused: true} // The row's own fault.
		unsure    = verdict{ambiguous: true, hold: true}
	)
	rows := []struct {
		class         clickhousex.Class
		before, after verdict
		codes         []int32
	}{
		{clickhousex.ClassTransient, again, ambiguous, []int32{107, 203, 242, 254, 265, 279, 285, 297, 341, 369, 373, 384, 388, 473, 519, 733, 738}},
		{clickhousex.ClassOverload, again, ambiguous, []int32{160, 201, 243, 290, 364, 439, 574, 700, 745}},
		{clickhousex.ClassOverload, again, again, []int32{202, 241, 252}}, // 241 of an insert that is atomic.
		{clickhousex.ClassAmbiguous, again, ambiguous, []int32{
			3, 101, 102, 159, 198, 209, 210, 216, 225, 236, 244, 286, 289, 319, 394, 425, 499, 677, 735, 999, 1000, 1001, 1002,
		}},
		{clickhousex.ClassUnknown, hold, unsure, []int32{4242}},
		{clickhousex.ClassData, hold, refused, []int32{
			6, 25, 26, 27, 33, 38, 41, 53, 70, 72, 117, 131, 321, 349, 376, 407, 441, 469, 675, 676, 691,
		}},
		{clickhousex.ClassConfig, hold, hold, []int32{
			1, 7, 9, 10, 15, 16, 20, 36, 43, 44, 46, 47, 48, 50, 57, 60, 62, 73, 80, 81, 115, 119, 164, 170, 192, 193, 194, 195, 218,
			291, 344, 392, 446, 452, 455, 456, 472, 497, 516, 701, 720,
		}},
	}
	for _, row := range rows {
		for _, code := range row.codes {
			bubble(t, testkit.ClickHouseConfig{}, func(t *testing.T, s *testkit.ClickHouseServer) {
				b := tightBreaker(t, 1000)
				ch := open(t, options(s), clickhousex.Config{Breaker: b})
				in := newInserter[order](t, ch, "orders", clickhousex.InserterConfig{Retry: retry.Policy{Attempts: -1}})
				if err := in.Write(t.Context(), batchOf(100, 1)); err != nil {
					t.Fatal(err)
				}
				before := b.Stats().Totals
				strike := func(on testkit.ClickHouseEvent) (remove func()) {
					return s.Inject(testkit.ClickHouseFault{On: on, Code: code, Times: -1})
				}
				remove := strike(testkit.ClickHouseQuery)
				err := ch.Exec(t.Context(), "TRUNCATE TABLE nowhere")
				remove()
				if got := clickhousex.Classify(err); got != row.class {
					t.Errorf("code %d is %v, want %v", code, got, row.class)
				}
				counts := row.class == clickhousex.ClassTransient || row.class == clickhousex.ClassOverload || row.class == clickhousex.ClassAmbiguous
				if got := b.Stats().Totals.Failures - before.Failures; got != map[bool]uint64{true: 1}[counts] {
					t.Errorf("code %d: %d failures counted", code, got)
				}
				for on, want := range map[testkit.ClickHouseEvent]verdict{
					testkit.ClickHousePrepare: row.before, testkit.ClickHouseInsert: row.after,
				} {
					remove := strike(on)
					err := in.Write(t.Context(), batchOf(0, 1))
					remove()
					got := verdict{holdfast.IsAmbiguous(err), holdfast.IsHold(err), holdfast.IsPermanent(err)}
					if got != want || err == nil {
						t.Errorf("code %d at %s: got %+v, want %+v: %v", code, on, got, want, err)
					}
					_ = in.Write(t.Context(), batchOf(0, 1)) // So that it is not ambiguous any more.
				}
			})
		}
	}
}
