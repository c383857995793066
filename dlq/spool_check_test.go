package dlq

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"

	"github.com/holdfast-io/holdfast"
)

// healthy is a spool's file: with branch pages, messages over several pages, and free pages. It is small, because many
// damaged copies are made of it.
func healthy(tb testing.TB) (file []byte, want map[string]holdfast.Message) {
	tb.Helper()
	dir := tb.TempDir()
	s, err := OpenSpool(dir, SpoolConfig{})
	if err != nil {
		tb.Fatal(err)
	}
	want = make(map[string]holdfast.Message)
	for n := range 120 {
		size := 100 + n*n%997
		if n%50 == 7 {
			size = 9000
		}
		m := holdfast.Message{Topic: "orders.dlq", Partition: n % 3, Value: []byte(strings.Repeat(fmt.Sprintf("%d ", n), size/4))}
		if err := s.Append(tb.Context(), m); err != nil {
			tb.Fatal(err)
		}
		want[string(m.Value)] = m
	}
	if err := s.Drain(tb.Context(), func(_ context.Context, messages []holdfast.Message) error { // Of some, so that there are free pages.
		failed := make(map[int]error)
		for i, m := range messages {
			if m.Partition != 0 {
				failed[i] = errors.New("away")
			}
		}
		return &holdfast.BatchError{Items: failed}
	}); err == nil {
		tb.Fatal("everything was drained")
	}
	if err := s.Close(); err != nil {
		tb.Fatal(err)
	}
	if file, err = os.ReadFile(filepath.Join(dir, spoolFile)); err != nil {
		tb.Fatal(err)
	}
	return file, want
}

// mustSurvive opens a spool with this file. Either it is refused, and left as it is, or it works, and whatever it gives was
// put there, bit by bit.
func mustSurvive(t *testing.T, dir string, file []byte, want map[string]holdfast.Message) (refused bool) {
	t.Helper()
	path := filepath.Join(dir, spoolFile)
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := OpenSpool(dir, SpoolConfig{})
	if err != nil {
		if !strings.Contains(err.Error(), path) {
			t.Errorf("the error does not name the file: %v", err)
		}
		if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, file) {
			t.Errorf("the file was changed, %v", err)
		}
		return true
	}
	for range 2 {
		if err := s.Append(t.Context(), holdfast.Message{Topic: "new", Partition: -1, Value: make([]byte, 3000)}); err != nil {
			t.Errorf("Append: %v", err)
		}
	}
	_ = s.Drain(t.Context(), func(_ context.Context, messages []holdfast.Message) error {
		for _, m := range messages {
			if m.Topic != "new" && !reflect.DeepEqual(m, want[string(m.Value)]) {
				t.Errorf("it gives %.100v, which was never put there", m)
			}
		}
		return nil
	})
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	return false
}

// However a file is damaged, opening it ends neither the process nor what the file has.
func TestDamagedSpool(t *testing.T) {
	whole, want := healthy(t)
	if len(whole) > 1<<20 {
		t.Fatalf("the file has %d bytes", len(whole))
	}
	pageSize := os.Getpagesize()
	dir := t.TempDir()
	if mustSurvive(t, dir, whole, want) {
		t.Fatal("it is not damaged, and refused")
	}
	refused := 0
	try := func(damage func(file []byte) []byte) {
		if mustSurvive(t, dir, damage(slices.Clone(whole)), want) {
			refused++
		}
	}
	random := rand.New(rand.NewPCG(1, 2))
	for page := range len(whole) / pageSize { // Each header, where a fault does the most.
		for range 4 {
			try(func(file []byte) []byte {
				file[page*pageSize+random.IntN(pageHeader+2*elementSize)] ^= 1 << random.IntN(8)
				return file
			})
		}
		try(func(file []byte) []byte {
			clear(file[page*pageSize : (page+1)*pageSize])
			return file
		})
	}
	for range 100 {
		try(func(file []byte) []byte {
			at := random.IntN(len(file)/8) * 8
			binary.NativeEndian.PutUint64(file[at:], random.Uint64()>>random.IntN(64))
			return file
		})
	}
	for range 30 {
		try(func(file []byte) []byte { return file[:random.IntN(len(file))] })
	}
	if refused < 50 {
		t.Errorf("only %d were refused: the damage is harmless", refused)
	}
}

func TestDamagedSpoolIsToldOf(t *testing.T) {
	whole, _ := healthy(t)
	for name, damage := range map[string]func(file []byte) []byte{
		"empty":     func([]byte) []byte { return nil },
		"truncated": func(file []byte) []byte { return file[:len(file)/2] },
		"text":      func(file []byte) []byte { return slices.Repeat([]byte("something else\n"), len(file)/15) },
		"zeroes":    func(file []byte) []byte { return make([]byte, len(file)) },
		"no tree":   func(file []byte) []byte { clear(file[2*os.Getpagesize():]); return file },
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, spoolFile)
		if err := os.WriteFile(path, damage(slices.Clone(whole)), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := OpenSpool(dir, SpoolConfig{})
		if !errors.Is(err, ErrSpoolDamaged) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "move it away") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// With its sequence damaged, a spool would put new messages in the place of old ones.
func TestSpoolReplacesNoMessage(t *testing.T) {
	dir := t.TempDir()
	s := openTestSpool(t, dir)
	for range 3 {
		if err := s.Append(t.Context(), holdfast.Message{Topic: "t", Partition: -1}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.db.Update(func(tx *bolt.Tx) error { return tx.Bucket(messageBucket()).SetSequence(1) }); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenSpool(dir, SpoolConfig{}); !errors.Is(err, ErrSpoolDamaged) {
		t.Errorf("got %v", err)
	}
}

// A file that cannot be read is not damaged.
func TestUnreadableSpoolIsNotDamaged(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, spoolFile), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenSpool(dir, SpoolConfig{}); err == nil || errors.Is(err, ErrSpoolDamaged) {
		t.Errorf("got %v", err)
	}
}

func FuzzSpoolFile(f *testing.F) {
	whole, want := healthy(f)
	f.Add(uint32(2*os.Getpagesize()+8), uint64(0), uint8(2))
	f.Add(uint32(16), uint64(1)<<63, uint8(8))
	f.Fuzz(func(t *testing.T, at uint32, value uint64, size uint8) {
		damage := binary.NativeEndian.AppendUint64(nil, value)[:size%9]
		file := slices.Clone(whole)
		copy(file[at%uint32(len(file)):], damage)
		mustSurvive(t, t.TempDir(), file, want)
	})
}
