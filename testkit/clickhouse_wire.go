package testkit

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"

	"github.com/ClickHouse/ch-go/compress"
	"github.com/ClickHouse/ch-go/proto"
)

const (
	// chMaxRows bounds the rows that one block may announce, ch-go's own limit.
	chMaxRows = 100_000_000
	// chMaxColumns bounds the columns that one block may announce.
	chMaxColumns = 10_000
	// chReadStep is how much is believed of an announced length before its bytes have come.
	chReadStep = 1 << 20
)

// chReader reads the client's side of the native protocol. It does not believe the lengths it reads: memory grows with
// the bytes that come, so that nonsense costs one connection and not the test process.
type chReader struct {
	*proto.Reader
	revision int // What client and server have agreed on.
}

func newChReader(r io.Reader) *chReader { return &chReader{Reader: proto.NewReader(r)} }

// bytes reads n bytes into a buffer of its own.
func (r *chReader) bytes(n int) ([]byte, error) {
	var buf []byte
	for len(buf) < n {
		step := min(n-len(buf), max(chReadStep, len(buf)))
		buf = slices.Grow(buf, step)[:len(buf)+step]
		if err := r.ReadFull(buf[len(buf)-step:]); err != nil {
			return nil, err
		}
	}
	return buf, nil
}

func (r *chReader) str() (string, error) {
	n, err := r.StrLen()
	if err != nil {
		return "", err
	}
	b, err := r.bytes(n)
	return string(b), err
}

// skip reads what the stand-in has no use for: 's' a string, 'u' a variable-length number, 'b' a byte, '8' eight bytes.
func (r *chReader) skip(fields string) error {
	for _, f := range fields {
		var err error
		switch f {
		case 's':
			_, err = r.str()
		case 'u':
			_, err = r.UVarInt()
		case 'b':
			_, err = r.UInt8()
		case '8':
			_, err = r.UInt64()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// chQuery is a query packet.
type chQuery struct {
	id         string
	body       string
	settings   map[string]string
	params     map[string]string
	compressed bool
}

// query reads a query packet behind its code. Field by field it is ClickHouse's TCPHandler::receivePacket.
func (r *chReader) query() (*chQuery, error) {
	q := &chQuery{settings: map[string]string{}, params: map[string]string{}}
	var err error
	if q.id, err = r.str(); err != nil {
		return nil, err
	}
	if err := r.clientInfo(); err != nil {
		return nil, fmt.Errorf("client info: %w", err)
	}
	if err := r.pairs(q.settings); err != nil {
		return nil, fmt.Errorf("settings: %w", err)
	}
	if proto.FeatureInterServerSecret.In(r.revision) {
		if err := r.skip("s"); err != nil {
			return nil, err
		}
	}
	if err := r.skip("u"); err != nil { // The stage to stop at; clients want the complete result.
		return nil, err
	}
	compression, err := r.UVarInt()
	if err != nil {
		return nil, err
	}
	q.compressed = compression != 0
	if q.body, err = r.str(); err != nil {
		return nil, err
	}
	if proto.FeatureParameters.In(r.revision) {
		if err := r.pairs(q.params); err != nil {
			return nil, fmt.Errorf("parameters: %w", err)
		}
	}
	return q, nil
}

func (r *chReader) clientInfo() error {
	kind, err := r.UInt8()
	if err != nil || kind == byte(proto.ClientQueryNone) {
		return err
	}
	if err := r.skip("sss"); err != nil { // The first query's user, id and address.
		return err
	}
	if proto.FeatureQueryStartTime.In(r.revision) {
		if err := r.skip("8"); err != nil {
			return err
		}
	}
	iface, err := r.UInt8()
	if err != nil {
		return err
	}
	if proto.Interface(iface) != proto.InterfaceTCP {
		return fmt.Errorf("interface %d, only TCP (%d) is known", iface, proto.InterfaceTCP)
	}
	if err := r.skip("sssuuu"); err != nil { // The client's user, host, name and version.
		return err
	}
	for _, f := range []struct {
		since  proto.Feature
		fields string
	}{
		{proto.FeatureQuotaKeyInClientInfo, "s"},
		{proto.FeatureDistributedDepth, "u"},
		{proto.FeatureVersionPatch, "u"},
	} {
		if f.since.In(r.revision) {
			if err := r.skip(f.fields); err != nil {
				return err
			}
		}
	}
	if proto.FeatureOpenTelemetry.In(r.revision) {
		traced, err := r.UInt8()
		if err != nil {
			return err
		}
		if traced != 0 {
			if err := r.skip("888sb"); err != nil {
				return err
			}
		}
	}
	if proto.FeatureParallelReplicas.In(r.revision) {
		return r.skip("uuu")
	}
	return nil
}

// pairs reads settings or parameters to the empty name. Before revision 54429 a setting's value has no type on the wire,
// and clickhouse-go sends numbers only.
func (r *chReader) pairs(into map[string]string) error {
	for {
		name, err := r.str()
		if err != nil || name == "" {
			return err
		}
		if r.revision <= proto.FeatureSettingsSerializedAsStrings.Version() { // Not at the revision itself: as clickhouse-go does it.
			v, err := r.UVarInt()
			if err != nil {
				return err
			}
			into[name] = strconv.FormatUint(v, 10)
			continue
		}
		flags, err := r.UVarInt()
		if err != nil {
			return err
		}
		value, err := r.str()
		if err != nil {
			return err
		}
		const custom = 2 // A custom setting and a parameter come as quoted literals.
		if flags&custom != 0 {
			if value, err = unquoteSQL(value); err != nil {
				return err
			}
		}
		into[name] = value
	}
}

// block reads one data packet behind its code. The block without columns that ends the data comes back empty.
func (r *chReader) block(compressed bool) (*chBlock, error) {
	if err := r.skip("s"); err != nil { // The name of an external table.
		return nil, err
	}
	if compressed {
		r.EnableCompression()
		defer r.DisableCompression()
	}
	var info proto.BlockInfo
	if err := info.Decode(r.Reader); err != nil {
		return nil, err
	}
	columns, err := r.Int()
	if err != nil {
		return nil, err
	}
	rows, err := r.Int()
	if err != nil {
		return nil, err
	}
	if columns < 0 || columns > chMaxColumns || rows < 0 || rows > chMaxRows {
		return nil, fmt.Errorf("block of %d columns and %d rows, at most %d and %d are taken", columns, rows, chMaxColumns, chMaxRows)
	}
	b := &chBlock{rows: rows}
	for range columns {
		if err := r.column(b, rows); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func (r *chReader) column(b *chBlock, rows int) error {
	name, err := r.str()
	if err != nil {
		return err
	}
	typeName, err := r.str()
	if err != nil {
		return err
	}
	t, err := parseChType(typeName)
	if err != nil {
		return fmt.Errorf("column %q: %w", name, err)
	}
	if proto.FeatureCustomSerialization.In(r.revision) {
		custom, err := r.Bool()
		if err != nil {
			return err
		}
		if custom {
			return errors.New("custom serialization is unknown to the stand-in")
		}
	}
	var values []any
	if rows > 0 {
		if err := t.decodePrefix(r); err != nil {
			return fmt.Errorf("column %q: %w", name, err)
		}
		if values, err = t.decode(r, rows); err != nil {
			return fmt.Errorf("column %q: %w", name, err)
		}
	}
	b.columns = append(b.columns, chColumn{name: name, typ: t, values: values})
	return nil
}

// chColumn is a named, typed run of values.
type chColumn struct {
	name   string
	typ    chType
	values []any
}

// chBlock is a set of columns of the same length.
type chBlock struct {
	columns []chColumn
	rows    int
}

// chWriter gathers the server's packets until they are sent in one write.
type chWriter struct {
	proto.Buffer
	revision int
}

// block appends a data packet with the block's rows, or with its columns' names and types only.
func (w *chWriter) block(b *chBlock, withRows, compressed bool) error {
	w.PutByte(byte(proto.ServerCodeData))
	w.PutString("") // No external table.
	start := len(w.Buf)
	rows := 0
	if withRows {
		rows = b.rows
	}
	proto.Block{Info: proto.BlockInfo{BucketNum: -1}, Columns: len(b.columns), Rows: rows}.EncodeAware(&w.Buffer, w.revision)
	for _, c := range b.columns {
		w.PutString(c.name)
		w.PutString(c.typ.name())
		if proto.FeatureCustomSerialization.In(w.revision) {
			w.PutBool(false)
		}
		if rows > 0 {
			c.typ.encodePrefix(&w.Buffer)
			c.typ.encode(&w.Buffer, c.values)
		}
	}
	if !compressed {
		return nil
	}
	// The server answers in its own method, LZ4 by default, whatever the client's is.
	frame := compress.NewWriter(compress.LevelZero, compress.LZ4)
	plain := slices.Clone(w.Buf[start:])
	w.Buf = w.Buf[:start]
	for part := range slices.Chunk(plain, chReadStep) {
		if err := frame.Compress(part); err != nil {
			return err
		}
		w.PutRaw(frame.Data)
	}
	return nil
}

// exception appends an error packet in the server's way: the name stands before the text once more.
func (w *chWriter) exception(e *chError) {
	w.PutByte(byte(proto.ServerCodeException))
	const name = "DB::Exception"
	(&proto.Exception{Code: proto.Error(e.code), Name: name, Message: name + ": " + e.text}).EncodeAware(&w.Buffer, w.revision)
}

// chError is an error that the client is told.
type chError struct {
	code int32
	text string
}

func (e *chError) Error() string { return fmt.Sprintf("code %d: %s", e.code, e.text) }

// The codes that the stand-in raises of itself, from ClickHouse's ErrorCodes.cpp.
const (
	chNumberOfColumns  = 7
	chNoSuchColumn     = 16
	chCannotParse      = 27
	chBadArguments     = 36
	chUnknownFunction  = 46
	chUnknownName      = 47
	chUnknownType      = 50
	chTypeMismatch     = 53
	chTableExists      = 57
	chUnknownTable     = 60
	chSyntax           = 62
	chNotImplemented   = 48
	chNotAnAggregate   = 215
	chUnexpectedPacket = 101
)

func chErrorf(code int32, format string, args ...any) *chError {
	return &chError{code: code, text: fmt.Sprintf(format, args...)}
}

// asChError is err as the client is told it.
func asChError(err error) *chError {
	if e, ok := errors.AsType[*chError](err); ok {
		return e
	}
	return chErrorf(1001, "%v", err)
}
