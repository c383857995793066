package dlq

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// How bbolt 1.4 lays its file out: pages with a header, and elements in them that say where keys and values lie. Numbers
// are in the machine's own order.
const (
	pageHeader  = 16 // Its own number (8 bytes), what it is (2), how many elements (2), how many more pages it takes (4).
	elementSize = 16
	branchPage  = 1
	leafPage    = 2
	bucketFlag  = 1 // Of a leaf's element.
	metaPages   = 2 // The first ones: one of them is the current one.
	metaSize    = 64
	metaSum     = metaSize - 8
	bucketSize  = 16 // In an element's value: the root's page, 0 for one that follows at once, and a sequence.
)

// checkFile walks all of a spool's pages as bbolt does when it opens a file to write. bbolt trusts them: one that is
// damaged would end the process, from a goroutine of its own, where nobody can recover. What the pages hold is not
// looked at. Meanwhile nobody else can write to the file.
func checkFile(path string) error {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is no file", path)
	case info.Size() == 0:
		return damaged(path, errors.New("it is empty")) // To bbolt that would be a new one.
	}
	lock, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: lookOnce, ReadOnly: true})
	if _, system := errors.AsType[*fs.PathError](err); err != nil && !system && !errors.Is(err, bolterrors.ErrTimeout) {
		err = damaged(path, err)
	}
	if err != nil {
		return err
	}
	file, err := os.Open(path)
	if err != nil {
		return errors.Join(err, lock.Close())
	}
	err = newPages(file, lock.Info().PageSize).check()
	if err != nil {
		err = damaged(path, err)
	}
	return errors.Join(err, file.Close(), lock.Close())
}

func damaged(path string, why error) error {
	return fmt.Errorf("%w: %s: %w; nothing in it was changed: put a copy in its place, or move it away to begin with an empty one",
		ErrSpoolDamaged, path, why)
}

// pages is a file in bbolt's format.
type pages struct {
	file *os.File
	size int             // Of a page.
	end  uint64          // The first number behind those in use.
	seen map[uint64]bool // A page has one place in one tree.
}

func newPages(file *os.File, size int) *pages {
	return &pages{file: file, size: size, seen: make(map[uint64]bool)}
}

// check walks the tree of buckets.
func (p *pages) check() error {
	meta, err := p.meta()
	if err != nil {
		return err
	}
	p.end = binary.NativeEndian.Uint64(meta[40:])
	if info, err := p.file.Stat(); err != nil || p.end > uint64(info.Size())/uint64(p.size) {
		return errors.Join(err, fmt.Errorf("its end is missing: it has %d pages", p.end))
	}
	return p.tree(binary.NativeEndian.Uint64(meta[16:]), nil, nil, p.bucket)
}

// meta is what of the two says of the file, the later one that is whole.
func (p *pages) meta() (latest []byte, err error) {
	for n := range int64(metaPages) {
		m := make([]byte, metaSize)
		if _, err := p.file.ReadAt(m, n*int64(p.size)+pageHeader); err != nil {
			return nil, err
		}
		sum := fnv.New64a()
		_, _ = sum.Write(m[:metaSum])
		whole := sum.Sum64() == binary.NativeEndian.Uint64(m[metaSum:])
		if whole && (latest == nil || binary.NativeEndian.Uint64(m[48:]) > binary.NativeEndian.Uint64(latest[48:])) {
			latest = m
		}
	}
	if latest == nil {
		return nil, bolterrors.ErrChecksum
	}
	return latest, nil
}

// tree walks what is below a page. Its keys begin with the first one given, where bbolt looks for the page when it changes
// it, and lie before the other; nil bounds nothing.
func (p *pages) tree(number uint64, from, before []byte, leaf func(bucket bool, value []byte) error) error {
	page, err := p.page(number)
	if err == nil && pageCount(page) == 0 && (pageKind(page) == branchPage || from != nil) {
		err = errors.New("is in the tree and has nothing")
	}
	if err == nil {
		err = p.elements(page, from, before, leaf)
	}
	if _, inner := errors.AsType[*pageError](err); err != nil && !inner {
		err = &pageError{number, err}
	}
	return err
}

// pageError says which page is damaged.
type pageError struct {
	number uint64
	err    error
}

func (e *pageError) Error() string { return fmt.Sprintf("page %d %v", e.number, e.err) }
func (e *pageError) Unwrap() error { return e.err }

func pageKind(page []byte) uint16 { return binary.NativeEndian.Uint16(page[8:]) }
func pageCount(page []byte) int   { return int(binary.NativeEndian.Uint16(page[10:])) }

// page reads one, with those that it goes on in.
func (p *pages) page(number uint64) ([]byte, error) {
	if number < metaPages || number >= p.end {
		return nil, errors.New("is not in the file")
	}
	header := make([]byte, pageHeader)
	if _, err := p.file.ReadAt(header, int64(number)*int64(p.size)); err != nil {
		return nil, err
	}
	more := uint64(binary.NativeEndian.Uint32(header[12:]))
	switch {
	case binary.NativeEndian.Uint64(header) != number:
		return nil, errors.New("says that it is another one")
	case pageKind(header) != branchPage && pageKind(header) != leafPage:
		return nil, errors.New("is of no kind that belongs there")
	case more >= p.end-number:
		return nil, errors.New("goes on behind the end")
	}
	for n := number; n <= number+more; n++ {
		if p.seen[n] {
			return nil, errors.New("has two places")
		}
		p.seen[n] = true
	}
	page := make([]byte, (1+more)*uint64(p.size))
	_, err := p.file.ReadAt(page, int64(number)*int64(p.size))
	return page, err
}

// elements walks a page's elements, and the pages that they lead to.
func (p *pages) elements(page, from, before []byte, leaf func(bucket bool, value []byte) error) error {
	n := pageCount(page)
	if pageHeader+n*elementSize > len(page) {
		return errors.New("has more elements than it has room for")
	}
	element := func(i int) []byte { return page[pageHeader+i*elementSize:] }
	keys, values := make([][]byte, n), make([][]byte, n)
	for i := range n {
		e := element(i)
		at, key, value := uint64(binary.NativeEndian.Uint32(e)), uint64(binary.NativeEndian.Uint32(e[4:])), uint64(0)
		if pageKind(page) == leafPage {
			at, key, value = key, uint64(binary.NativeEndian.Uint32(e[8:])), uint64(binary.NativeEndian.Uint32(e[12:]))
		}
		if key == 0 || at+key+value > uint64(len(e)) {
			return errors.New("has an element outside of it")
		}
		keys[i], values[i] = e[at:at+key], e[at+key:at+key+value]
		switch {
		case i == 0 && from != nil && !bytes.Equal(keys[i], from),
			i > 0 && bytes.Compare(keys[i-1], keys[i]) >= 0,
			before != nil && bytes.Compare(keys[i], before) >= 0:
			return errors.New("is out of order")
		}
	}
	for i := range n {
		var err error
		switch {
		case pageKind(page) == branchPage && i+1 < n:
			err = p.tree(binary.NativeEndian.Uint64(element(i)[8:]), keys[i], keys[i+1], leaf)
		case pageKind(page) == branchPage:
			err = p.tree(binary.NativeEndian.Uint64(element(i)[8:]), keys[i], before, leaf)
		default:
			err = leaf(binary.NativeEndian.Uint32(element(i)) == bucketFlag, values[i])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// bucket walks what an element of the file's root holds.
func (p *pages) bucket(bucket bool, value []byte) error {
	if !bucket || len(value) < bucketSize {
		return errors.New("has something else than buckets")
	}
	if root := binary.NativeEndian.Uint64(value); root != 0 {
		return p.tree(root, nil, nil, record)
	}
	page := value[bucketSize:]
	if len(page) < pageHeader || pageKind(page) != leafPage {
		return errors.New("has a small bucket that is none")
	}
	return p.elements(page, nil, nil, record)
}

func record(bucket bool, _ []byte) error {
	if bucket {
		return errors.New("has a bucket among records")
	}
	return nil
}
