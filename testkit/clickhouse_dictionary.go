package testkit

import (
	"fmt"

	"github.com/ClickHouse/ch-go/proto"
)

// chLowCardinality keeps its element's values; only the wire knows of a dictionary.
type chLowCardinality struct {
	elem     chType
	nullable bool
}

// The dictionary's marks: format 1, and in the index's header the flags "additional keys" and "update dictionary".
const (
	chDictionaryVersion = 1
	chHasAdditionalKeys = 1 << 9
	chUpdateDictionary  = 1 << 10
)

func (t *chLowCardinality) name() string {
	if t.nullable {
		return "LowCardinality(Nullable(" + t.elem.name() + "))"
	}
	return "LowCardinality(" + t.elem.name() + ")"
}

func (t *chLowCardinality) zero() any {
	if t.nullable {
		return nil
	}
	return t.elem.zero()
}

func (t *chLowCardinality) decodePrefix(r *chReader) error {
	version, err := r.UInt64()
	if err == nil && version != chDictionaryVersion {
		err = fmt.Errorf("dictionary version %d, known is %d", version, chDictionaryVersion)
	}
	return err
}

func (t *chLowCardinality) encodePrefix(b *proto.Buffer) { b.PutUInt64(chDictionaryVersion) }

func (t *chLowCardinality) decode(r *chReader, rows int) ([]any, error) {
	meta, err := r.UInt64()
	if err != nil {
		return nil, err
	}
	width := meta & 0xff // 0 to 3: keys of 1, 2, 4 or 8 bytes.
	if width > 3 || meta&chHasAdditionalKeys == 0 {
		return nil, fmt.Errorf("dictionary flags %#x", meta)
	}
	size, err := r.UInt64()
	if err != nil {
		return nil, err
	}
	if size > chMaxRows {
		return nil, fmt.Errorf("dictionary of %d values", size)
	}
	dictionary, err := t.elem.decode(r, int(size))
	if err != nil {
		return nil, err
	}
	if t.nullable && len(dictionary) > 0 {
		dictionary[0] = nil
	}
	keys, err := r.UInt64()
	if err != nil {
		return nil, err
	}
	if keys != uint64(rows) {
		return nil, fmt.Errorf("%d dictionary keys for %d rows", keys, rows)
	}
	raw, err := r.bytes(rows << width)
	if err != nil {
		return nil, err
	}
	values := make([]any, rows)
	for i := range values {
		key := littleEndian(raw[i<<width : (i+1)<<width])
		if key >= size {
			return nil, fmt.Errorf("dictionary key %d of %d", key, size)
		}
		values[i] = dictionary[key]
	}
	return values, nil
}

func (t *chLowCardinality) encode(b *proto.Buffer, values []any) {
	// The place 0 is NULL's, or the default value's.
	dictionary := []any{t.elem.zero()}
	if t.nullable {
		dictionary = append(dictionary, t.elem.zero()) // As the server does it.
	}
	known := map[any]uint32{}
	keys := make([]uint32, len(values))
	for i, v := range values {
		if v == nil {
			continue
		}
		key, ok := known[v]
		if !ok {
			key = uint32(len(dictionary))
			known[v] = key
			dictionary = append(dictionary, v)
		}
		keys[i] = key
	}
	const width4 = 2
	b.PutUInt64(chHasAdditionalKeys | chUpdateDictionary | width4)
	b.PutUInt64(uint64(len(dictionary)))
	t.elem.encode(b, dictionary)
	b.PutUInt64(uint64(len(keys)))
	for _, key := range keys {
		b.PutUInt32(key)
	}
}

func (t *chLowCardinality) literal(l chLiteral) (any, error) {
	if t.nullable && l.kind == chNullLiteral {
		return nil, nil
	}
	return t.elem.literal(l)
}

func (t *chLowCardinality) compare(a, b any) int { return compareNullable(t.elem, a, b) }
