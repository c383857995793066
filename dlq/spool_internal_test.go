package dlq

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/holdfast-io/holdfast"
)

func openTestSpool(t *testing.T, dir string) *Spool {
	t.Helper()
	s, err := OpenSpool(dir, SpoolConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// Those who come while a transaction is written share the next one.
func TestSpoolAppendsShareTransactions(t *testing.T) {
	s := openTestSpool(t, t.TempDir())
	transaction := func() (id int) {
		_ = s.db.View(func(tx *bolt.Tx) error { id = tx.ID(); return nil })
		return id
	}
	before := transaction()
	stall, err := s.db.Begin(true)
	if err != nil {
		t.Fatal(err)
	}
	const calls = 200
	var appends sync.WaitGroup
	for range calls {
		appends.Go(func() {
			if err := s.Append(t.Context(), holdfast.Message{Topic: "t", Partition: -1}); err != nil {
				t.Error(err)
			}
		})
	}
	for s.count.Load() < calls { // All are on their way.
		time.Sleep(time.Millisecond)
	}
	if err := stall.Rollback(); err != nil {
		t.Fatal(err)
	}
	appends.Wait()
	if n := transaction() - before; n > calls/4 {
		t.Errorf("%d appends took %d transactions", calls, n)
	}
}

// Whoever stops waiting is told that the outcome is not known, and the books are right all the same.
func TestSpoolOutcomeIsUnknownToWhoLeaves(t *testing.T) {
	s := openTestSpool(t, t.TempDir())
	begun, finish, settled := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	ctx, leave := context.WithCancel(t.Context())
	go func() {
		<-begun
		leave()
	}()
	err := s.commit(ctx, &change{
		apply: func(*bolt.Bucket) error {
			close(begun)
			<-finish
			return nil
		},
		settle: func(err error) { settled <- err },
	})
	if !errors.Is(err, context.Canceled) || !holdfast.IsAmbiguous(err) {
		t.Errorf("got %v, want an ambiguous end", err)
	}
	close(finish)
	if err := <-settled; err != nil {
		t.Errorf("it was settled with %v, and it was written", err)
	}
}

// A write that the disk refuses leaves nothing, and the next one may do. When it is not known what the disk has, nothing
// more is written.
func TestSpoolDiskFails(t *testing.T) {
	full := &fs.PathError{Op: "write", Path: "spool.db", Err: errors.New("no space left on device")}
	failing := func(err error) *change {
		return &change{apply: func(*bolt.Bucket) error { return err }, settle: func(error) {}}
	}
	s := openTestSpool(t, t.TempDir())
	m := holdfast.Message{Topic: "t", Partition: -1, Key: []byte("k")}
	if err := s.commit(t.Context(), failing(full)); !errors.Is(err, full) || holdfast.IsAmbiguous(err) {
		t.Errorf("full: %v", err)
	}
	if err := s.Append(t.Context(), m); err != nil {
		t.Errorf("after there was room again: %v", err)
	}
	lost := errors.New("input/output error")
	if err := s.commit(t.Context(), failing(lost)); !errors.Is(err, lost) || !holdfast.IsAmbiguous(err) {
		t.Errorf("sync failed: %v", err)
	}
	if err := s.Append(t.Context(), m); !errors.Is(err, lost) {
		t.Errorf("after a failed sync: %v", err)
	}
	if got := s.Stats().Messages; got != 1 {
		t.Errorf("%d messages, want 1", got)
	}
}

func TestSpoolSetsAsideWhatIsDamaged(t *testing.T) {
	dir := t.TempDir()
	s := openTestSpool(t, dir)
	for _, value := range []string{"1", "2", "3"} {
		if err := s.Append(t.Context(), holdfast.Message{Topic: "t", Partition: 0, Value: []byte(value)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, spoolFile)
	db, err := openBolt(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Update(func(tx *bolt.Tx) error {
		b, key := tx.Bucket(messageBucket()), binary.BigEndian.AppendUint64(nil, 2)
		record := bytes.Clone(b.Get(key))
		record[len(record)-2] ^= 1
		return b.Put(key, record)
	}); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s = openTestSpool(t, dir)
	var got string
	err = s.Drain(t.Context(), func(_ context.Context, messages []holdfast.Message) error {
		for _, m := range messages {
			got += string(m.Value)
		}
		return nil
	})
	if !errors.Is(err, errDamaged) || got != "13" || s.Stats().Refused != 1 {
		t.Errorf("drained %s and said %v", got, err)
	}
}

func TestSpoolReadsItsFormatOnly(t *testing.T) {
	dir := t.TempDir()
	s := openTestSpool(t, dir)
	if err := s.db.Update(func(tx *bolt.Tx) error { return tx.Bucket(aboutBucket()).Put(formatKey(), []byte("99")) }); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 { // It does not stay locked.
		if _, err := OpenSpool(dir, SpoolConfig{}); err == nil || !strings.Contains(err.Error(), `format "99"`) {
			t.Errorf("a newer format: %v", err)
		}
	}
	other := t.TempDir()
	db, err := openBolt(filepath.Join(other, spoolFile))
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenSpool(other, SpoolConfig{}); err == nil || !strings.Contains(err.Error(), "no spool") {
		t.Errorf("somebody else's file: %v", err)
	}
}

// What a killed maker left is no spool yet, and in nobody's way.
func TestSpoolMakersRemainsAreRemoved(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, ".new-spool-123"), []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	openTestSpool(t, dir)
	if files, _ := filepath.Glob(filepath.Join(dir, "*")); len(files) != 1 || filepath.Base(files[0]) != spoolFile {
		t.Errorf("there are %v", files)
	}
	if remains, _ := filepath.Glob(filepath.Join(dir, newSpoolFile)); len(remains) != 0 {
		t.Errorf("there are %v", remains)
	}
}

func FuzzSpoolRecord(f *testing.F) {
	m := holdfast.Message{Topic: "t", Partition: -1, Key: []byte("k"), Headers: []holdfast.Header{{Key: "a"}, {Value: []byte("b")}}}
	f.Add(encodeRecord(&m, time.Unix(1, 2)))
	f.Add([]byte("nonsense"))
	f.Fuzz(func(t *testing.T, record []byte) {
		if len(record) >= 4 { // Otherwise the checksum would stop everything.
			record = bytes.Clone(record)
			binary.BigEndian.PutUint32(record, crc32.Checksum(record[4:], crc32.MakeTable(crc32.Castagnoli)))
		}
		at, m, err := decodeRecord(record)
		if err != nil {
			return
		}
		m.Partition = max(m.Partition, -1)
		again, n, err := decodeRecord(encodeRecord(&m, at))
		if err != nil || !again.Equal(at) || !reflect.DeepEqual(m, n) {
			t.Errorf("%+v of %v\ncame back as\n%+v of %v, %v", m, at, n, again, err)
		}
	})
}
