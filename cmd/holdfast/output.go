package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/holdfast-io/holdfast/dlq"
)

const maxCell = 60

// json prints v for programs.
func (t *tool) json(v any) error {
	out := newEncoder(t.out)
	out.SetIndent("", "  ")
	return out.Encode(v)
}

// newEncoder writes JSON that a terminal takes for nothing but text.
func newEncoder(w io.Writer) *json.Encoder {
	out := json.NewEncoder(printable{w})
	out.SetEscapeHTML(false)
	return out
}

// printable is a writer of JSON that escapes what it does not print: characters such as U+009B, which begins a terminal's
// commands as ESC does, or U+202E, which turns what follows around. They stand in strings only, and mean the same. Each
// Write is whole values, as json.Encoder makes it.
type printable struct{ io.Writer }

func (p printable) Write(text []byte) (int, error) {
	hidden := func(r rune) bool { return r >= unicode.MaxASCII && !unicode.IsPrint(r) }
	if bytes.IndexFunc(text, hidden) < 0 {
		return p.Writer.Write(text)
	}
	escaped := make([]byte, 0, len(text)+len(text)/8)
	for _, r := range string(text) {
		if !hidden(r) {
			escaped = utf8.AppendRune(escaped, r)
			continue
		}
		for _, unit := range utf16.Encode([]rune{r}) {
			escaped = fmt.Appendf(escaped, `\u%04x`, unit)
		}
	}
	_, err := p.Writer.Write(escaped)
	return len(text), err
}

// table prints rows for people, the first of them being the headings.
func (t *tool) table(rows [][]string) error {
	w := tabwriter.NewWriter(t.out, 0, 8, 2, ' ', 0)
	for _, row := range rows {
		for i, cell := range row {
			row[i] = clean(cell, maxCell)
		}
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	return w.Flush()
}

// clean makes of what strangers wrote one line that a terminal takes for nothing but text, of limit characters.
func clean(s string, limit int) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '·'
	}, s)
	if runes := []rune(s); len(runes) > limit {
		return string(runes[:limit-1]) + "…"
	}
	return cmp.Or(s, "-")
}

// counted makes rows of counts, the largest first.
func counted[K ~string](heading, of string, counts map[K]int) [][]string {
	keys := slices.SortedFunc(maps.Keys(counts), func(a, b K) int {
		return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a, b))
	})
	rows := [][]string{{heading, of}}
	for _, k := range keys {
		rows = append(rows, []string{string(k), fmt.Sprint(counts[k])})
	}
	return rows
}

// survey prints what was counted.
func (t *tool) survey(s *dlq.Survey) error {
	tables := [][][]string{counted("STATE", "RECORDS", s.States)}
	if len(s.Reasons) > 0 {
		tables = append(tables, counted("REASON", "OPEN", s.Reasons), counted("ERROR CLASS", "OPEN", s.Classes), counted("FROM TOPIC", "OPEN", s.Topics), counted("OF GROUP", "OPEN", s.Groups))
	}
	for i, rows := range tables {
		if i > 0 {
			fmt.Fprintln(t.out)
		}
		if err := t.table(rows); err != nil {
			return err
		}
	}
	if !s.Oldest.IsZero() {
		fmt.Fprintf(t.out, "\nThe open letters are of %s to %s, %d bytes.\n", stamp(s.Oldest), stamp(s.Newest), s.Bytes)
	}
	return nil
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}
