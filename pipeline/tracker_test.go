package pipeline

import (
	"math/rand/v2"
	"strconv"
	"testing"
	"time"
)

// plainTracker is what a tracker is for, without a thought for its costs.
type plainTracker []slot

func (p plainTracker) settled() int {
	n := 0
	for n < len(p) && p[n].pending == 0 {
		n++
	}
	return n
}

func (p plainTracker) settle(n int) (next int64, moved bool) {
	before := p.settled()
	if n >= 0 && n < len(p) && p[n].pending > 0 {
		p[n].pending--
	}
	if after := p.settled(); after > before {
		return p[after-1].offset + 1, true
	}
	return 0, false
}

func (p plainTracker) inFlight() int {
	n := 0
	for _, s := range p {
		if s.pending > 0 && !s.handed {
			n++
		}
	}
	return n
}

// driveTracker does what the bytes say to a tracker and to a plain one: each is an operation and the message it is done
// to, counted back from the newest.
func driveTracker(t *testing.T, operations []byte) {
	t.Helper()
	var (
		fast  tracker
		plain plainTracker
	)
	for i, op := range operations {
		back := int(op >> 3)
		n := len(plain) - back
		switch op & 7 {
		case 0, 1, 2: // One that becomes several values, and leaves a gap before it.
			s := slot{offset: int64(3 * i), fetched: int64(i), pending: 1 + back%3}
			if got := fast.add(s.offset, s.fetched); got != len(plain) {
				t.Fatalf("operation %d: number %d, want %d", i, got, len(plain))
			}
			fast.expect(len(plain), s.pending)
			plain = append(plain, s)
		case 3:
			fast.handBack(n)
			if n < len(plain) && n >= 0 {
				plain[n].handed = true
			}
		default:
			next, moved := fast.settle(n)
			if wantNext, wantMoved := plain.settle(n); next != wantNext || moved != wantMoved {
				t.Fatalf("operation %d: settling %d gives %d, %v, want %d, %v", i, n, next, moved, wantNext, wantMoved)
			}
		}
		settled := plain.settled()
		if got, want := fast.span(), len(plain)-settled; got != want {
			t.Fatalf("operation %d: span %d, want %d", i, got, want)
		}
		if got, want := fast.inFlight(), plain.inFlight(); got != want {
			t.Fatalf("operation %d: %d in flight, want %d", i, got, want)
		}
		if oldest, ok := fast.oldest(); ok != (settled < len(plain)) || (ok && oldest != plain[settled]) {
			t.Fatalf("operation %d: oldest %+v, %v, want that of %+v", i, oldest, ok, plain[settled:])
		}
	}
}

func TestTrackerDoesAsAPlainOne(t *testing.T) {
	dice := rand.New(rand.NewPCG(1, 1))
	for range 300 {
		operations := make([]byte, 600)
		for i := range operations {
			operations[i] = byte(dice.UintN(256))
		}
		driveTracker(t, operations)
	}
}

func FuzzTracker(f *testing.F) {
	f.Add([]byte{0, 8, 16, 12, 20, 28, 11, 12, 12, 12})
	f.Fuzz(driveTracker)
}

// However long a message stays in flight and however much goes by behind it, a ring of its size is what that takes.
func TestTrackerGrowsWithItsSpan(t *testing.T) {
	var tr tracker
	for i := range 100_000 {
		n := tr.add(int64(i), 0)
		if i >= 50 {
			tr.settle(n - 50)
		}
	}
	if len(tr.slots) != 64 || tr.span() != 50 {
		t.Errorf("%d slots for a span of %d, want 64 for 50", len(tr.slots), tr.span())
	}
}

// When nothing is in flight any more, nothing is kept of what a burst took, and the next one need not grow step by step.
func TestTrackerForgetsABurst(t *testing.T) {
	var tr tracker
	for range 2 {
		for range 10_000 {
			tr.add(0, 0)
		}
		for n := tr.head; n < tr.tail; n++ {
			tr.settle(n)
		}
		if len(tr.slots) != 64 || tr.usual != 8192 || tr.span() != 0 {
			t.Errorf("%d slots for a span of %d, and %d for the next burst; want 64, 0, and 8192", len(tr.slots), tr.span(), tr.usual)
		}
	}
}

// What a message costs does not grow with how many are in flight: a hundred thousand times as many may take several times as
// long, for caches and a busy machine, but not by orders of magnitude.
func TestTrackerCostDoesNotGrow(t *testing.T) {
	cost := func(inFlight int) time.Duration {
		var tr tracker
		for i := range inFlight {
			tr.add(int64(i), 0)
		}
		least := time.Hour
		for range 20 {
			began := time.Now()
			for range 5000 { // The second of each two is settled first.
				n := tr.tail
				tr.add(int64(n), 0)
				tr.settle((n - inFlight) ^ 1)
				if _, ok := tr.oldest(); !ok || tr.span() > inFlight+2 {
					t.Fatal("not what is to be measured")
				}
			}
			least = min(least, time.Since(began))
		}
		return least
	}
	if few, many := cost(2), cost(100_000); many > 50*few {
		t.Errorf("5000 messages take %v with 2 in flight, and %v with 100,000", few, many)
	}
}

// BenchmarkTracker is what a message costs the tracker, however many are in flight.
func BenchmarkTracker(b *testing.B) {
	for _, inFlight := range []int{1, 100, 10_000, 100_000} {
		b.Run(strconv.Itoa(inFlight), func(b *testing.B) {
			var tr tracker
			for i := range inFlight {
				tr.add(int64(i), 0)
			}
			b.ReportAllocs()
			n := 0
			for b.Loop() { // Of each two the second is settled first.
				tr.add(int64(n+inFlight), 0)
				tr.settle(n ^ 1)
				n++
			}
		})
	}
}
