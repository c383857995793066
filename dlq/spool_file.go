package dlq

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

const (
	spoolFile    = "spool.db"
	spoolFormat  = "1" // A release reads its own format and the one before.
	newSpoolFile = ".new-spool-*"
	lookOnce     = time.Nanosecond // At a lock: 0 would wait for ever.
)

// The file has two buckets: what it is, and the messages by their number, big-endian (numberBytes).
func aboutBucket() []byte   { return []byte("holdfast-spool") }
func messageBucket() []byte { return []byte("messages") }
func formatKey() []byte     { return []byte("format") }

// openFile opens the file of a directory, and makes both if they are not there.
func openFile(dir string) (*bolt.DB, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, spoolFile)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if err := makeFile(dir, path); err != nil {
			return nil, err
		}
	}
	var db *bolt.DB
	err := checkFile(path)
	if err == nil {
		db, err = openBolt(path)
	}
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("%w: another process, or this one, has it open", ErrSpoolInUse)
	}
	if err != nil {
		return nil, err
	}
	if err := errors.Join(os.Chmod(path, 0o600), checkFormat(db), removeRemains(dir)); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// openBolt opens a file as bbolt has it. The list of free pages is made anew at each opening instead of being written
// with each transaction, where it would cost more than the messages once the file is large.
func openBolt(path string) (*bolt.DB, error) {
	return bolt.Open(path, 0o600, &bolt.Options{
		Timeout:        lookOnce,
		NoFreelistSync: true,
		FreelistType:   bolt.FreelistMapType,
	})
}

// makeFile makes a whole file under another name first: bbolt's own first write can be torn by a kill. A link, unlike a
// renaming, never replaces the file of a process that was faster.
func makeFile(dir, path string) error {
	blank, err := os.CreateTemp(dir, newSpoolFile)
	if err != nil {
		return err
	}
	if err := blank.Close(); err != nil {
		return err
	}
	db, err := openBolt(blank.Name())
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bolt.Tx) error {
		_, err := tx.CreateBucket(messageBucket())
		about, err2 := tx.CreateBucket(aboutBucket())
		if err := errors.Join(err, err2); err != nil {
			return err
		}
		return about.Put(formatKey(), []byte(spoolFormat))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		return err
	}
	if err := os.Link(blank.Name(), path); err != nil && !exists(path) {
		return err
	}
	return errors.Join(removeRemains(dir), syncDir(dir), syncDir(filepath.Dir(dir)))
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// removeRemains removes what killed makers left behind. A maker who is at work does not miss it: somebody's file is there.
func removeRemains(dir string) error {
	remains, err := filepath.Glob(filepath.Join(dir, newSpoolFile))
	for _, name := range remains {
		if gone := os.Remove(name); gone != nil && !errors.Is(gone, fs.ErrNotExist) {
			err = errors.Join(err, gone)
		}
	}
	return err
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// checkFormat refuses a file that something else has made, or a release that is too new.
func checkFormat(db *bolt.DB) error {
	return db.View(func(tx *bolt.Tx) error {
		about := tx.Bucket(aboutBucket())
		if about == nil || tx.Bucket(messageBucket()) == nil {
			return fmt.Errorf("%s is no spool", db.Path())
		}
		if format := about.Get(formatKey()); string(format) != spoolFormat {
			return fmt.Errorf("%s has format %q, and this release reads %q: a newer one has written it", db.Path(), format, spoolFormat)
		}
		return nil
	})
}
