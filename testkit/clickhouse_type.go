package testkit

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ClickHouse/ch-go/proto"
)

// chType is a ClickHouse data type: how a column of it travels, and how its values look in Go.
type chType interface {
	name() string
	// zero is what a row has that was inserted without the column.
	zero() any
	// decodePrefix and encodePrefix are what stands before the column of a block with rows.
	decodePrefix(r *chReader) error
	encodePrefix(b *proto.Buffer)
	decode(r *chReader, rows int) ([]any, error)
	encode(b *proto.Buffer, values []any)
	literal(l chLiteral) (any, error)
	// compare orders two values of the type, NULL last.
	compare(a, b any) int
}

// chMaxTypeDepth bounds how deep types nest, for the sake of the stack.
const chMaxTypeDepth = 16

// parseChType reads a type's name as it stands in a DDL statement or on the wire.
func parseChType(s string) (chType, error) { return parseChTypeAt(s, 0) }

func parseChTypeAt(s string, depth int) (chType, error) {
	if depth > chMaxTypeDepth {
		return nil, chErrorf(chUnknownType, "types nest deeper than %d", chMaxTypeDepth)
	}
	s = strings.TrimSpace(s)
	base, rest, hasArgs := strings.Cut(s, "(")
	var args []string
	if hasArgs {
		inner, ok := strings.CutSuffix(rest, ")")
		if !ok {
			return nil, chErrorf(chUnknownType, "Unknown data type family: %s", s)
		}
		args = splitTopLevel(inner)
	}
	base = strings.TrimSpace(base)
	switch base {
	case "Nullable", "Array", "LowCardinality":
		if len(args) != 1 {
			return nil, chErrorf(chUnknownType, "%s takes one type, got %s", base, s)
		}
		elem, err := parseChTypeAt(args[0], depth+1)
		if err != nil {
			return nil, err
		}
		return wrapChType(base, elem)
	case "SimpleAggregateFunction":
		if len(args) != 2 {
			return nil, chErrorf(chUnknownType, "SimpleAggregateFunction takes a function and a type, got %s", s)
		}
		return parseChTypeAt(args[1], depth+1)
	case "Map":
		if len(args) != 2 {
			return nil, chErrorf(chUnknownType, "Map takes two types, got %s", s)
		}
		key, err := parseChTypeAt(args[0], depth+1)
		if err != nil {
			return nil, err
		}
		value, err := parseChTypeAt(args[1], depth+1)
		if err != nil {
			return nil, err
		}
		if _, scalar := key.(*chScalar); !scalar {
			if _, scalar = key.(*chLowCardinality); !scalar {
				return nil, chErrorf(chUnknownType, "the stand-in has no Map keys of type %s", key.name())
			}
		}
		return &chMap{key: key, value: value}, nil
	case "Tuple":
		return parseChTuple(args, depth)
	}
	return parseChScalar(base, args)
}

func wrapChType(base string, elem chType) (chType, error) {
	switch base {
	case "Array":
		return &chArray{elem: elem}, nil
	case "Nullable":
		if _, scalar := elem.(*chScalar); !scalar {
			return nil, chErrorf(43, "Nested type %s cannot be inside Nullable type", elem.name())
		}
		return &chNullable{elem: elem}, nil
	default:
		t := &chLowCardinality{elem: elem}
		if n, ok := elem.(*chNullable); ok {
			t.elem, t.nullable = n.elem, true
		}
		if _, scalar := t.elem.(*chScalar); !scalar {
			return nil, chErrorf(43, "LowCardinality of %s is not possible", elem.name())
		}
		return t, nil
	}
}

// splitTopLevel splits at commas that stand in no parentheses and no quotes.
func splitTopLevel(s string) []string {
	var parts []string
	depth, start := 0, 0
	var quote byte
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case quote != 0:
			if c == '\\' {
				i++
			} else if c == quote {
				quote = 0
			}
		case c == '\'' || c == '`' || c == '"':
			quote = c
		case c == '(':
			depth++
		case c == ')':
			depth--
		case c == ',' && depth == 0:
			parts = append(parts, strings.TrimSpace(s[start:i]))
			start = i + 1
		}
	}
	return append(parts, strings.TrimSpace(s[start:]))
}

// noPrefix is for types whose column has nothing before its rows.
type noPrefix struct{}

func (noPrefix) decodePrefix(*chReader) error { return nil }
func (noPrefix) encodePrefix(*proto.Buffer)   {}

// chNullable keeps NULL as nil.
type chNullable struct {
	noPrefix
	elem chType
}

func (t *chNullable) name() string { return "Nullable(" + t.elem.name() + ")" }
func (t *chNullable) zero() any    { return nil }

func (t *chNullable) decode(r *chReader, rows int) ([]any, error) {
	nulls, err := r.bytes(rows)
	if err != nil {
		return nil, err
	}
	values, err := t.elem.decode(r, rows)
	if err != nil {
		return nil, err
	}
	for i, null := range nulls {
		if null != 0 {
			values[i] = nil
		}
	}
	return values, nil
}

func (t *chNullable) encode(b *proto.Buffer, values []any) {
	filled := make([]any, len(values))
	for i, v := range values {
		b.PutBool(v == nil)
		if filled[i] = v; v == nil {
			filled[i] = t.elem.zero()
		}
	}
	t.elem.encode(b, filled)
}

func (t *chNullable) literal(l chLiteral) (any, error) {
	if l.kind == chNullLiteral {
		return nil, nil
	}
	return t.elem.literal(l)
}

func (t *chNullable) compare(a, b any) int { return compareNullable(t.elem, a, b) }

func compareNullable(elem chType, a, b any) int {
	switch {
	case a == nil && b == nil:
		return 0
	case a == nil:
		return 1
	case b == nil:
		return -1
	}
	return elem.compare(a, b)
}

// chArray keeps an array as []any.
type chArray struct{ elem chType }

func (t *chArray) name() string                   { return "Array(" + t.elem.name() + ")" }
func (t *chArray) zero() any                      { return []any{} }
func (t *chArray) decodePrefix(r *chReader) error { return t.elem.decodePrefix(r) }
func (t *chArray) encodePrefix(b *proto.Buffer)   { t.elem.encodePrefix(b) }

// offsets reads where each row's elements end.
func (r *chReader) offsets(rows int) ([]int, error) {
	raw, err := r.bytes(rows * 8)
	if err != nil {
		return nil, err
	}
	ends := make([]int, rows)
	last := 0
	for i := range ends {
		end := littleEndian(raw[i*8 : i*8+8])
		if end < uint64(last) || end > chMaxRows {
			return nil, fmt.Errorf("array offset %d after %d", end, last)
		}
		last = int(end)
		ends[i] = last
	}
	return ends, nil
}

func (t *chArray) decode(r *chReader, rows int) ([]any, error) {
	ends, err := r.offsets(rows)
	if err != nil {
		return nil, err
	}
	elems, err := decodeSome(t.elem, r, ends)
	if err != nil {
		return nil, err
	}
	values := make([]any, rows)
	start := 0
	for i, end := range ends {
		values[i] = elems[start:end:end]
		start = end
	}
	return values, nil
}

// decodeSome reads as many elements as the offsets say; of none there is nothing on the wire.
func decodeSome(t chType, r *chReader, ends []int) ([]any, error) {
	if len(ends) == 0 || ends[len(ends)-1] == 0 {
		return []any{}, nil
	}
	return t.decode(r, ends[len(ends)-1])
}

func (t *chArray) encode(b *proto.Buffer, values []any) {
	var elems []any
	for _, v := range values {
		elems = append(elems, v.([]any)...)
		b.PutUInt64(uint64(len(elems)))
	}
	if len(elems) > 0 {
		t.elem.encode(b, elems)
	}
}

func (t *chArray) literal(l chLiteral) (any, error) {
	if l.kind != chListLiteral {
		return nil, chErrorf(chTypeMismatch, "%s is no literal of type %s", l, t.name())
	}
	values := make([]any, len(l.items))
	for i, item := range l.items {
		var err error
		if values[i], err = t.elem.literal(item); err != nil {
			return nil, err
		}
	}
	return values, nil
}

func (t *chArray) compare(a, b any) int {
	return slices.CompareFunc(a.([]any), b.([]any), t.elem.compare)
}

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

// chMap keeps a map as map[any]any.
type chMap struct{ key, value chType }

func (t *chMap) name() string { return "Map(" + t.key.name() + ", " + t.value.name() + ")" }
func (t *chMap) zero() any    { return map[any]any{} }

func (t *chMap) decodePrefix(r *chReader) error {
	if err := t.key.decodePrefix(r); err != nil {
		return err
	}
	return t.value.decodePrefix(r)
}

func (t *chMap) encodePrefix(b *proto.Buffer) {
	t.key.encodePrefix(b)
	t.value.encodePrefix(b)
}

func (t *chMap) decode(r *chReader, rows int) ([]any, error) {
	ends, err := r.offsets(rows)
	if err != nil {
		return nil, err
	}
	keys, err := decodeSome(t.key, r, ends)
	if err != nil {
		return nil, err
	}
	elems, err := decodeSome(t.value, r, ends)
	if err != nil {
		return nil, err
	}
	values := make([]any, rows)
	start := 0
	for i, end := range ends {
		m := make(map[any]any, end-start)
		for j := start; j < end; j++ {
			m[keys[j]] = elems[j]
		}
		values[i] = m
		start = end
	}
	return values, nil
}

func (t *chMap) encode(b *proto.Buffer, values []any) {
	var keys, elems []any
	for _, v := range values {
		m := v.(map[any]any)
		for _, key := range t.sortedKeys(m) {
			keys = append(keys, key)
			elems = append(elems, m[key])
		}
		b.PutUInt64(uint64(len(keys)))
	}
	if len(keys) > 0 {
		t.key.encode(b, keys)
		t.value.encode(b, elems)
	}
}

func (t *chMap) sortedKeys(m map[any]any) []any {
	return slices.SortedFunc(maps.Keys(m), t.key.compare)
}

func (t *chMap) literal(l chLiteral) (any, error) {
	return nil, chErrorf(chSyntax, "the stand-in has no literals of type %s: insert them in a batch", t.name())
}

func (t *chMap) compare(a, b any) int {
	x, y := a.(map[any]any), b.(map[any]any)
	kx, ky := t.sortedKeys(x), t.sortedKeys(y)
	if c := slices.CompareFunc(kx, ky, t.key.compare); c != 0 {
		return c
	}
	for _, key := range kx {
		if c := t.value.compare(x[key], y[key]); c != 0 {
			return c
		}
	}
	return 0
}

// chTuple keeps a tuple as []any.
type chTuple struct {
	names []string // Empty strings where unnamed.
	elems []chType
}

func parseChTuple(args []string, depth int) (chType, error) {
	t := &chTuple{}
	for _, arg := range args {
		// "name Type" or "Type": a type has no blank before its first parenthesis.
		head, _, _ := strings.Cut(arg, "(")
		name, typeName := "", arg
		if first, _, named := strings.Cut(strings.TrimSpace(head), " "); named {
			name, typeName = strings.Trim(first, "`\""), arg[len(first):]
		}
		elem, err := parseChTypeAt(typeName, depth+1)
		if err != nil {
			return nil, err
		}
		t.names, t.elems = append(t.names, name), append(t.elems, elem)
	}
	if len(t.elems) == 0 {
		return nil, chErrorf(chUnknownType, "Tuple cannot be empty")
	}
	return t, nil
}

func (t *chTuple) name() string {
	parts := make([]string, len(t.elems))
	for i, elem := range t.elems {
		parts[i] = strings.TrimSpace(t.names[i] + " " + elem.name())
	}
	return "Tuple(" + strings.Join(parts, ", ") + ")"
}

func (t *chTuple) zero() any {
	v := make([]any, len(t.elems))
	for i, elem := range t.elems {
		v[i] = elem.zero()
	}
	return v
}

func (t *chTuple) decodePrefix(r *chReader) error {
	for _, elem := range t.elems {
		if err := elem.decodePrefix(r); err != nil {
			return err
		}
	}
	return nil
}

func (t *chTuple) encodePrefix(b *proto.Buffer) {
	for _, elem := range t.elems {
		elem.encodePrefix(b)
	}
}

func (t *chTuple) decode(r *chReader, rows int) ([]any, error) {
	values := make([]any, rows)
	for i, elem := range t.elems {
		column, err := elem.decode(r, rows)
		if err != nil {
			return nil, err
		}
		for row, v := range column {
			if i == 0 {
				values[row] = make([]any, len(t.elems))
			}
			values[row].([]any)[i] = v
		}
	}
	return values, nil
}

func (t *chTuple) encode(b *proto.Buffer, values []any) {
	column := make([]any, len(values))
	for i, elem := range t.elems {
		for row, v := range values {
			column[row] = v.([]any)[i]
		}
		elem.encode(b, column)
	}
}

func (t *chTuple) literal(l chLiteral) (any, error) {
	if l.kind != chListLiteral || len(l.items) != len(t.elems) {
		return nil, chErrorf(chTypeMismatch, "%s is no literal of type %s", l, t.name())
	}
	values := make([]any, len(t.elems))
	for i, item := range l.items {
		var err error
		if values[i], err = t.elems[i].literal(item); err != nil {
			return nil, err
		}
	}
	return values, nil
}

func (t *chTuple) compare(a, b any) int {
	x, y := a.([]any), b.([]any)
	for i, elem := range t.elems {
		if c := elem.compare(x[i], y[i]); c != 0 {
			return c
		}
	}
	return 0
}

// littleEndian reads a number of up to eight bytes.
func littleEndian(b []byte) uint64 {
	var v uint64
	for i := len(b) - 1; i >= 0; i-- {
		v = v<<8 | uint64(b[i])
	}
	return v
}

func putLittleEndian(b []byte, v uint64) {
	for i := range b {
		b[i] = byte(v)
		v >>= 8
	}
}

// compareScalars orders two values of the same Go type.
func compareScalars(a, b any) int {
	switch x := a.(type) {
	case int8:
		return cmp.Compare(x, b.(int8))
	case int16:
		return cmp.Compare(x, b.(int16))
	case int32:
		return cmp.Compare(x, b.(int32))
	case int64:
		return cmp.Compare(x, b.(int64))
	case uint8:
		return cmp.Compare(x, b.(uint8))
	case uint16:
		return cmp.Compare(x, b.(uint16))
	case uint32:
		return cmp.Compare(x, b.(uint32))
	case uint64:
		return cmp.Compare(x, b.(uint64))
	case float32:
		return cmp.Compare(x, b.(float32))
	case float64:
		return cmp.Compare(x, b.(float64))
	case bool:
		return cmp.Compare(strconv.FormatBool(x), strconv.FormatBool(b.(bool)))
	case time.Time:
		return x.Compare(b.(time.Time))
	case *big.Int:
		return x.Cmp(b.(*big.Int))
	case netip.Addr:
		return x.Compare(b.(netip.Addr))
	default:
		return cmp.Compare(fmt.Sprint(a), fmt.Sprint(b))
	}
}

// chLiteral is a literal of a statement; it gets its type from the column it meets.
type chLiteral struct {
	kind  chLiteralKind
	text  string
	items []chLiteral
	zone  *time.Location // Of toDateTime('...', 'zone').
}

type chLiteralKind int

const (
	chNumberLiteral chLiteralKind = iota
	chStringLiteral
	chNullLiteral
	chListLiteral     // An array or a tuple.
	chDatabaseLiteral // currentDatabase(), not known before the statement runs.
)

func (l chLiteral) String() string {
	switch l.kind {
	case chStringLiteral:
		return strconv.Quote(l.text)
	case chNullLiteral:
		return "NULL"
	case chListLiteral:
		parts := make([]string, len(l.items))
		for i, item := range l.items {
			parts[i] = item.String()
		}
		return "(" + strings.Join(parts, ", ") + ")"
	default:
		return l.text
	}
}

// typed gives the literal the type that the server would: the narrowest number, or a String.
func (l chLiteral) typed() (chType, any, error) {
	name := "String"
	if l.kind == chNumberLiteral {
		name = "Float64"
		if l.text == "true" || l.text == "false" {
			name = "Bool"
		} else if u, err := strconv.ParseUint(l.text, 10, 64); err == nil {
			name = "UInt" + strconv.Itoa(widthFor(func(bits int) bool { return u>>bits == 0 }))
		} else if i, err := strconv.ParseInt(l.text, 10, 64); err == nil {
			name = "Int" + strconv.Itoa(widthFor(func(bits int) bool { return i>>(bits-1) == -1 }))
		}
	}
	if l.kind == chNullLiteral || l.kind == chListLiteral {
		return nil, nil, chErrorf(chSyntax, "the stand-in cannot select the literal %s", l)
	}
	t, err := parseChType(name)
	if err != nil {
		return nil, nil, err
	}
	v, err := t.literal(l)
	return t, v, err
}

func widthFor(fits func(bits int) bool) int {
	for _, bits := range []int{8, 16, 32} {
		if fits(bits) {
			return bits
		}
	}
	return 64
}

// unquoteSQL reads a single-quoted literal, as settings and parameters travel.
func unquoteSQL(s string) (string, error) {
	if len(s) < 2 || s[0] != '\'' || s[len(s)-1] != '\'' {
		return "", errors.New("value is no quoted literal")
	}
	return unescapeSQL(s[1 : len(s)-1]), nil
}

// unescapeSQL resolves the escapes of a quoted literal: a backslash and, for quotes, doubling.
func unescapeSQL(s string) string {
	if !strings.ContainsAny(s, "\\'`\"") {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		if (c == '\\' || c == '\'' || c == '`' || c == '"') && i+1 < len(s) && (c == '\\' || s[i+1] == c) {
			i++
			if c = s[i]; s[i-1] == '\\' {
				switch c {
				case 'n':
					c = '\n'
				case 't':
					c = '\t'
				case 'r':
					c = '\r'
				case '0':
					c = 0
				case 'b':
					c = '\b'
				case 'f':
					c = '\f'
				}
			}
		}
		b.WriteByte(c)
	}
	return b.String()
}
