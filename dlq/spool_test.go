package dlq_test

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/dlq"
)

// The shape in which a producer asks for a spool.
var _ interface {
	Append(ctx context.Context, messages ...holdfast.Message) error
	Holds(m *holdfast.Message) bool
	Drain(ctx context.Context, send func(context.Context, []holdfast.Message) error) error
} = (*dlq.Spool)(nil)

func openSpool(t *testing.T, dir string, cfg dlq.SpoolConfig) *dlq.Spool {
	t.Helper()
	s, err := dlq.OpenSpool(dir, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// keyed is a message that its key sends somewhere.
func keyed(key, value string) holdfast.Message {
	return holdfast.Message{Topic: "t", Partition: -1, Key: []byte(key), Value: []byte(value)}
}

func keep(t *testing.T, s *dlq.Spool, messages ...holdfast.Message) {
	t.Helper()
	if err := s.Append(t.Context(), messages...); err != nil {
		t.Fatal(err)
	}
}

// target takes what a spool sends, but for what it refuses.
type target struct {
	taken  []string
	refuse func(value string) error
}

func (k *target) send(_ context.Context, messages []holdfast.Message) error {
	failed := make(map[int]error)
	for i, m := range messages {
		if k.refuse != nil {
			if err := k.refuse(string(m.Value)); err != nil {
				failed[i] = err
				continue
			}
		}
		k.taken = append(k.taken, string(m.Value))
	}
	if len(failed) > 0 {
		return &holdfast.BatchError{Items: failed}
	}
	return nil
}

func drained(t *testing.T, s *dlq.Spool, want ...string) {
	t.Helper()
	var k target
	if err := s.Drain(t.Context(), k.send); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(k.taken, want) {
		t.Fatalf("drained %q, want %q", k.taken, want)
	}
}

func TestSpoolKeepsMessagesAsTheyAre(t *testing.T) {
	dir := t.TempDir()
	want := []holdfast.Message{
		{
			Topic: "t", Partition: 3, Key: []byte("k"), Value: []byte{0, 255}, Time: time.Date(2026, 3, 4, 5, 6, 7, 8, time.UTC),
			Headers: []holdfast.Header{{Key: "a", Value: []byte{0xff}}, {Key: "a"}, {Key: "", Value: []byte{}}},
		},
		{Topic: "t", Partition: -1},                                         // Neither key nor value nor time.
		{Topic: "", Partition: 0, Key: []byte{}, Value: []byte{}},           // Empty is not nil.
		{Topic: "t", Partition: -1, Time: time.UnixMilli(-1).UTC()},         // Before 1970.
		{Topic: "t", Partition: -1, Value: slices.Repeat([]byte("x"), 3e6)}, // Many pages.
	}
	s, err := dlq.OpenSpool(dir, dlq.SpoolConfig{})
	if err != nil {
		t.Fatal(err)
	}
	keep(t, s, want[:2]...)
	keep(t, s, want[2:]...)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	s = openSpool(t, dir, dlq.SpoolConfig{})
	var got []holdfast.Message
	if err := s.Drain(t.Context(), func(_ context.Context, m []holdfast.Message) error {
		got = append(got, m...)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("drained\n%.300v\nwant\n%.300v", got, want)
	}
	if stats := s.Stats(); stats != (dlq.SpoolStats{MaxBytes: 1 << 30}) {
		t.Errorf("it is empty and says %+v", stats)
	}
}

func TestSpoolHoldsWhatIsBehindItsMessages(t *testing.T) {
	dir := t.TempDir()
	s, err := dlq.OpenSpool(dir, dlq.SpoolConfig{})
	if err != nil {
		t.Fatal(err)
	}
	keep(t, s, keyed("k", "1"), keyed("k", "2"), holdfast.Message{Topic: "t", Partition: 7}, holdfast.Message{Topic: "u", Partition: -1})
	check := func(s *dlq.Spool) {
		t.Helper()
		for _, c := range []struct {
			m    holdfast.Message
			want bool
		}{
			{keyed("k", "later"), true},
			{holdfast.Message{Topic: "t", Partition: 5, Key: []byte("k")}, true},
			{holdfast.Message{Topic: "t", Partition: 7, Key: []byte("x")}, true},
			{holdfast.Message{Topic: "t", Partition: 8, Key: []byte("x")}, false},
			{keyed("other", ""), false},
			{holdfast.Message{Topic: "u", Partition: -1, Key: []byte("k")}, false},
			{holdfast.Message{Topic: "u", Partition: -1}, false}, // Without a key there is no order.
			{holdfast.Message{Topic: "u", Partition: 7}, false},
		} {
			if got := s.Holds(&c.m); got != c.want {
				t.Errorf("%s/%d key %q: held is %v", c.m.Topic, c.m.Partition, c.m.Key, got)
			}
		}
	}
	check(s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openSpool(t, dir, dlq.SpoolConfig{})
	check(s)

	// It holds until what was sent is removed.
	newcomer := keyed("k", "3")
	if err := s.Drain(t.Context(), func(context.Context, []holdfast.Message) error {
		check(s)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if s.Holds(&newcomer) {
		t.Error("it holds a key that it has no message of")
	}
}

func TestSpoolDrainKeepsOrderPerKey(t *testing.T) {
	away := errors.New("away")
	s := openSpool(t, t.TempDir(), dlq.SpoolConfig{})
	keep(t, s, keyed("a", "a1"), keyed("b", "b1"), keyed("a", "a2"), keyed("c", "c1"), keyed("b", "b2"))
	once := target{refuse: func(value string) error {
		if value == "b1" {
			return away
		}
		return nil
	}}
	if err := s.Drain(t.Context(), once.send); !errors.Is(err, away) {
		t.Errorf("got %v, want %v", err, away)
	}
	if b := keyed("b", ""); !s.Holds(&b) {
		t.Error("b is not held, and its first message is there")
	}
	// b2 was sent, but before b1: it comes again behind it.
	keep(t, s, keyed("a", "a3"), keyed("b", "b3"))
	drained(t, s, "b1", "b2", "a3", "b3")
}

// What stays holds up what is behind it in later batches too, and nothing else.
func TestSpoolDrainGoesOnBehindWhatStays(t *testing.T) {
	away := errors.New("away")
	s := openSpool(t, t.TempDir(), dlq.SpoolConfig{})
	var all []holdfast.Message
	for i := range 2500 { // More than two batches.
		all = append(all, keyed([]string{"a", "b"}[i%2], fmt.Sprint(i)))
	}
	keep(t, s, all...)
	k := target{refuse: func(value string) error {
		if value == "0" {
			return away
		}
		return nil
	}}
	batches := 0
	err := s.Drain(t.Context(), func(ctx context.Context, m []holdfast.Message) error {
		if batches++; batches > 1 && slices.ContainsFunc(m, func(m holdfast.Message) bool { return string(m.Key) == "a" }) {
			t.Error("a message came to be sent before one of its key that stays")
		}
		return k.send(ctx, m)
	})
	if !errors.Is(err, away) {
		t.Errorf("got %v, want %v", err, away)
	}
	if got := s.Stats().Messages; got != 1250 {
		t.Errorf("%d messages stay, want the 1250 of a", got)
	}
	k = target{}
	if err := s.Drain(t.Context(), k.send); err != nil || len(k.taken) != 1250 || k.taken[0] != "0" {
		t.Errorf("then %d came, and %v", len(k.taken), err)
	}
}

func TestSpoolDrainEndsWhereNothingCanBeSent(t *testing.T) {
	rejected := fmt.Errorf("producer: %w", breaker.ErrCircuitOpen)
	for name, answer := range map[string]error{
		"an error":          errors.New("away"),
		"an open circuit":   rejected,
		"all of them":       &holdfast.BatchError{Items: map[int]error{0: rejected, 1: rejected}},
		"one and no others": &holdfast.BatchError{Items: map[int]error{0: rejected}},
	} {
		s := openSpool(t, t.TempDir(), dlq.SpoolConfig{})
		big := strings.Repeat("x", 1<<20)
		keep(t, s, keyed("a", big), keyed("b", big), keyed("c", big))
		calls := 0
		err := s.Drain(t.Context(), func(context.Context, []holdfast.Message) error {
			calls++
			return answer
		})
		if err == nil || calls != 1 || s.Stats().Messages == 0 {
			t.Errorf("%s: %v after %d calls", name, err, calls)
		}
	}
}

func TestSpoolSetsAsideWhatIsRefusedForGood(t *testing.T) {
	dir := t.TempDir()
	tooLarge := holdfast.Permanent(errors.New("too large"))
	picky := func(value string) error {
		if value == "a1" {
			return tooLarge
		}
		return nil
	}
	s, err := dlq.OpenSpool(dir, dlq.SpoolConfig{})
	if err != nil {
		t.Fatal(err)
	}
	keep(t, s, keyed("a", "a1"), keyed("a", "a2"))
	k := target{refuse: picky}
	if err := s.Drain(t.Context(), k.send); !errors.Is(err, tooLarge) || !slices.Equal(k.taken, []string{"a2"}) {
		t.Errorf("%q were taken, and %v", k.taken, err)
	}
	if a := keyed("a", ""); s.Holds(&a) {
		t.Error("what is set aside holds up its key")
	}
	drained(t, s) // It is not tried again,
	if stats := s.Stats(); stats.Messages != 1 || stats.Refused != 1 || stats.Bytes == 0 {
		t.Errorf("%+v", stats)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openSpool(t, dir, dlq.SpoolConfig{})
	drained(t, s, "a1") // but by the next process.
}

func TestSpoolIsBounded(t *testing.T) {
	dir := t.TempDir()
	s := openSpool(t, dir, dlq.SpoolConfig{MaxBytes: 16 << 20})
	n := 0
	for size := 10; ; size = 1 + size*7%9973 { // All sizes up to some pages.
		if err := s.Append(t.Context(), slices.Repeat([]holdfast.Message{keyed("k", strings.Repeat("x", size))}, 100)...); errors.Is(err, dlq.ErrSpoolFull) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if n += 100; s.Stats().Bytes > 16<<20 {
			t.Fatal("there is no bound")
		}
	}
	if stats := s.Stats(); stats.Bytes > 16<<20 || stats.Bytes < 14<<20 || stats.Messages != int64(n) {
		t.Errorf("full with %+v", stats)
	}
	keep(t, s, keyed("k", "small enough"))
	if info, err := os.Stat(filepath.Join(dir, "spool.db")); err != nil || info.Size() > 48<<20 {
		t.Errorf("the file takes %d bytes, and may take twice 16 MiB and 16 MiB", info.Size())
	}
	var k target
	if err := s.Drain(t.Context(), k.send); err != nil || len(k.taken) != n+1 {
		t.Fatalf("%d of %d drained: %v", len(k.taken), n+1, err)
	}
	keep(t, s, keyed("k", "there is room again"))
}

func TestSpoolIsForOneProcessAndNobodyElsesEyes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	openSpool(t, dir, dlq.SpoolConfig{})
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		if _, err := dlq.OpenSpool(dir, dlq.SpoolConfig{}); !errors.Is(err, dlq.ErrSpoolInUse) || time.Since(began) != 0 {
			t.Errorf("got %v after %v, want ErrSpoolInUse at once", err, time.Since(began))
		}
	})
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 {
		t.Errorf("there are %v, %v", files, err)
	}
	for path, want := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, files[0].Name()): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v", path, info.Mode().Perm(), want)
		}
	}
}

// However many open a new spool at once, one has it.
func TestSpoolIsMadeOnce(t *testing.T) {
	for range 20 {
		dir := t.TempDir()
		var open sync.WaitGroup
		got := make([]*dlq.Spool, 8)
		for i := range got {
			open.Go(func() {
				s, err := dlq.OpenSpool(dir, dlq.SpoolConfig{})
				if err != nil && !errors.Is(err, dlq.ErrSpoolInUse) {
					t.Error(err)
				}
				got[i] = s
			})
		}
		open.Wait()
		var first *dlq.Spool
		for _, s := range got {
			switch {
			case s == nil:
			case first != nil:
				t.Error("two have it")
			default:
				first = s
			}
		}
		if first == nil {
			t.Fatal("nobody has it")
		}
		keep(t, first, keyed("k", "1"))
		drained(t, first, "1")
		if err := first.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A lone message waits for no company: no timer runs between Append and the disk.
func TestSpoolDoesNotLinger(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := openSpool(t, dir, dlq.SpoolConfig{})
		began := time.Now()
		keep(t, s, keyed("k", "1"))
		if took := time.Since(began); took != 0 {
			t.Errorf("it lingered for %v", took)
		}
		oldest := s.Stats().Oldest
		time.Sleep(time.Minute)
		keep(t, s, keyed("k", "2"))
		if got := s.Stats().Oldest; !got.Equal(began) || !got.Equal(oldest) {
			t.Errorf("the oldest is of %v, and came at %v", got, began)
		}
	})
}

func TestSpoolLeavesNothingBehindWhenItRefuses(t *testing.T) {
	s := openSpool(t, t.TempDir(), dlq.SpoolConfig{MaxBytes: 1000})
	gone, leave := context.WithCancel(t.Context())
	leave()
	if err := s.Append(gone, keyed("k", "1")); !errors.Is(err, context.Canceled) || holdfast.IsAmbiguous(err) {
		t.Errorf("after the end: %v", err)
	}
	if err := s.Append(t.Context(), keyed("k", "1"), keyed("k", strings.Repeat("x", 1000))); !errors.Is(err, dlq.ErrSpoolFull) {
		t.Errorf("too large: %v", err)
	}
	if err := s.Append(t.Context()); err != nil {
		t.Errorf("no messages: %v", err)
	}
	if k := keyed("k", ""); s.Holds(&k) || s.Stats() != (dlq.SpoolStats{MaxBytes: 1000}) {
		t.Errorf("it holds %+v", s.Stats())
	}
	drained(t, s)
}

func TestSpoolIsClosedForGood(t *testing.T) {
	s, err := dlq.OpenSpool(t.TempDir(), dlq.SpoolConfig{})
	if err != nil {
		t.Fatal(err)
	}
	keep(t, s, keyed("k", "1"))
	for range 2 {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := s.Append(t.Context(), keyed("k", "2")); !errors.Is(err, dlq.ErrSpoolClosed) {
		t.Errorf("Append: %v", err)
	}
	var k target
	if err := s.Drain(t.Context(), k.send); !errors.Is(err, dlq.ErrSpoolClosed) {
		t.Errorf("Drain: %v", err)
	}
	if got := s.Stats().Messages; got != 1 {
		t.Errorf("%d messages, want the 1 that is on the disk", got)
	}
}

func TestSpoolRefusesNonsense(t *testing.T) {
	if _, err := dlq.OpenSpool("", dlq.SpoolConfig{}); err == nil || !strings.Contains(err.Error(), "directory") {
		t.Errorf("no directory: %v", err)
	}
	if _, err := dlq.OpenSpool(t.TempDir(), dlq.SpoolConfig{MaxBytes: -1}); err == nil || !strings.Contains(err.Error(), "MaxBytes") {
		t.Errorf("negative bound: %v", err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "spool.db"), []byte("something else"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := dlq.OpenSpool(dir, dlq.SpoolConfig{}); err == nil || errors.Is(err, dlq.ErrSpoolInUse) {
		t.Errorf("not a spool: %v", err)
	}
}

// keptMessages are what testdata's spools hold.
func keptMessages() []holdfast.Message {
	return []holdfast.Message{
		{Topic: "orders.dlq", Partition: 3, Key: []byte("k"), Value: []byte("v"), Headers: []holdfast.Header{{Key: "a", Value: []byte{0xff}}, {Key: "b"}}},
		{Topic: "orders", Partition: -1, Key: []byte("k"), Value: []byte{}, Time: time.UnixMilli(1_700_000_000_123).UTC()},
		{Topic: "orders", Partition: -1},
	}
}

// A spool that a release with this format has left is read by every later one that says so.
func TestSpoolReadsWhatAnEarlierReleaseLeft(t *testing.T) {
	packed, err := os.Open(filepath.Join("testdata", "spool-format-1.db.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = packed.Close() }()
	file, err := gzip.NewReader(packed)
	if err != nil {
		t.Fatal(err)
	}
	whole, err := io.ReadAll(file)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "spool.db"), whole, 0o600); err != nil {
		t.Fatal(err)
	}
	var got []holdfast.Message
	if err := openSpool(t, dir, dlq.SpoolConfig{}).Drain(t.Context(), func(_ context.Context, m []holdfast.Message) error {
		got = append(got, m...)
		return nil
	}); err != nil || !reflect.DeepEqual(got, keptMessages()) {
		t.Errorf("%v, %v", got, err)
	}
}
