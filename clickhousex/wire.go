package clickhousex

import (
	"io"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/ClickHouse/clickhouse-go/v2/lib/column"
)

// wire gives columns that are encoded already to the driver, as if they came from a server: its columns copy them in one
// go, where their Append would grow them value by value. Not safe for concurrent use.
type wire struct {
	pieces [][]byte
	reader *proto.Reader
}

func newWire() *wire {
	w := new(wire)
	w.reader = proto.NewReader(w)
	return w
}

// decode fills a fresh column with rows from the pieces, which must be just that. After an error the wire is of no use.
func (w *wire) decode(dst column.Interface, rows int, pieces ...[]byte) error {
	w.pieces = pieces
	return dst.Decode(w.reader, rows)
}

// Read is what the driver's reader calls.
func (w *wire) Read(p []byte) (int, error) {
	for len(w.pieces) > 0 && len(w.pieces[0]) == 0 {
		w.pieces = w.pieces[1:]
	}
	if len(w.pieces) == 0 {
		return 0, io.EOF
	}
	n := copy(p, w.pieces[0])
	w.pieces[0] = w.pieces[0][n:]
	return n, nil
}
