package dlq

import (
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/holdfast-io/holdfast"
)

// How much memory an encoder takes at once: what a letter needs, as a rule, then more and more. The runtime has free lists
// for blocks of up to 32 KiB.
const (
	leastText   = 512
	mostText    = 32 << 10
	mostHeaders = 800

	mostOurs   = 28 // Headers of a letter.
	numberSize = 20 // Of an int64.
	timeSize   = len(time.RFC3339Nano)
)

// Encode makes the record that carries l. Topic and partition are the caller's to choose, its time is that of writing.
// The original's own headers come first and unchanged; what an earlier stay in a dead-letter queue left behind is
// replaced. A message that a Redrive had brought home counts its journeys on. After the letter's own headers come those
// of the other formats that are asked for.
func Encode(l Letter, also ...Format) holdfast.Message {
	var e encoder
	return e.encode(&l, also)
}

// encoder makes the records of letters, which share its memory. The zero value is ready.
type encoder struct {
	headers []holdfast.Header           // Of the letter, and behind them what is free of their block.
	text    []byte                      // The texts in their block, and behind them what is free of it.
	blocks  struct{ headers, text int } // How large the next ones are to be.
}

func (e *encoder) encode(l *Letter, also []Format) holdfast.Message {
	m, redrives := &l.Message, l.Redrives
	e.begin(len(m.Headers) + mostOurs)
	inLetter := false
	for _, h := range m.Headers {
		inLetter = inLetter || h.Key == HeaderSchema
		if h.Key == HeaderRedriveCount {
			redrives = max(redrives, parseCount(string(h.Value)))
		}
		if kindOf(h.Key).own(inLetter) {
			e.headers = append(e.headers, h)
		}
	}
	e.word(HeaderSchema, schemaVersion)
	e.id(l)
	e.name(HeaderOrigTopic, m.Topic)
	e.number(HeaderOrigPartition, int64(m.Partition))
	e.number(HeaderOrigOffset, m.Offset)
	if !m.Time.IsZero() {
		e.number(HeaderOrigTimestamp, m.Time.UnixMilli())
	}
	e.word(HeaderOrigTimestampType, l.TimestampType)
	e.name(HeaderGroup, l.Group)
	e.word(HeaderReason, string(l.Reason))
	e.number(HeaderRedriveCount, int64(redrives))
	e.time(HeaderFirstFailedAt, l.FirstFailedAt)
	e.time(HeaderDeadAt, l.DeadAt)
	e.word(HeaderHandler, l.Handler)
	e.word(HeaderStage, l.Stage)
	e.word(HeaderRetryable, l.Reason.retryable())
	e.word(HeaderCircuit, l.Circuit)
	e.word(HeaderCircuitState, l.CircuitState)
	e.name(HeaderErrorMessage, cut(l.Error, maxText))
	e.word(HeaderErrorClass, l.ErrorClass)
	e.word(HeaderErrorCode, l.ErrorCode)
	e.name(HeaderErrorChain, cut(l.ErrorChain, maxText))
	e.name(HeaderErrorStack, cut(l.Stack, maxStack))
	e.number(HeaderAttempts, int64(l.Attempts))
	e.time(HeaderLastFailedAt, l.LastFailedAt)
	e.word(HeaderHost, l.Host)
	e.word(HeaderApp, l.App)
	e.word(HeaderAppVersion, l.AppVersion)
	e.word(HeaderClientID, l.ClientID)
	for _, f := range also {
		e.headers = append(e.headers, f.headers(l)...)
	}
	return holdfast.Message{Key: m.Key, Value: m.Value, Headers: e.end()}
}

// begin makes room for a letter's headers.
func (e *encoder) begin(n int) {
	if cap(e.headers) < n {
		e.headers = make([]holdfast.Header, 0, max(n, e.blocks.headers))
		e.blocks.headers = min(2*cap(e.headers), mostHeaders)
	}
}

// end gives the letter's headers.
func (e *encoder) end() []holdfast.Header {
	headers := slices.Clip(e.headers)
	e.headers = e.headers[len(headers):]
	return headers
}

// room is where the next text goes, of at most n bytes. put takes it.
func (e *encoder) room(n int) []byte {
	if cap(e.text)-len(e.text) < n {
		e.text = make([]byte, 0, max(n, leastText, e.blocks.text))
		e.blocks.text = min(2*cap(e.text), mostText)
	}
	return e.text[len(e.text):]
}

// put adds a header, for which begin has made room.
func (e *encoder) put(key string, text []byte) {
	e.text = e.text[:len(e.text)+len(text)]
	e.headers = e.headers[:len(e.headers)+1]
	h := &e.headers[len(e.headers)-1] // Field by field: to copy a Header costs the garbage collector's barriers more.
	h.Key = key
	h.Value = slices.Clip(text)
}

func (e *encoder) id(l *Letter) {
	e.put(HeaderID, l.appendID(e.room(len(l.Group)+len(l.Message.Topic)+len("///")+2*numberSize)))
}

// name writes a text as it is.
func (e *encoder) name(key, text string) {
	if text != "" {
		e.put(key, append(e.room(len(text)), text...))
	}
}

func (e *encoder) word(key, text string) { e.name(key, cut(text, maxWord)) }

func (e *encoder) number(key string, n int64) {
	e.put(key, strconv.AppendInt(e.room(numberSize), n, 10))
}

func (e *encoder) time(key string, t time.Time) {
	if !t.IsZero() {
		e.put(key, t.UTC().AppendFormat(e.room(timeSize), time.RFC3339Nano))
	}
}

// cut shortens s to at most limit bytes of valid UTF-8 and marks that it did.
func cut(s string, limit int) string {
	s = strings.ToValidUTF8(s, string(utf8.RuneError))
	if len(s) <= limit {
		return s
	}
	end := limit - len(cutMark)
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + cutMark
}
