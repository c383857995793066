package clickhousex

import (
	"errors"
	"fmt"
	"strings"

	"github.com/ClickHouse/clickhouse-go/v2/lib/proto"
)

// failure is an error of an insert with what it means at the place where it came.
type failure struct {
	class    Class
	unknown  bool // Rows may be stored.
	tooLarge bool // The server had not the memory for the rows.
	text     string
	err      error
}

func (f *failure) Error() string { return f.text }
func (f *failure) Unwrap() error { return f.err }

// beforeSend is what an error means that came before the first row was sent: nothing is ambiguous, and no row at fault.
func beforeSend(err error) error {
	class := Classify(err)
	if class == ClassAmbiguous {
		class = ClassTransient
	}
	if class == ClassData {
		class = ClassConfig
	}
	return &failure{class: class, text: err.Error(), err: err}
}

// afterSend is what an error means that came when rows were on their way. Only an exception of the server's, and only one
// that it raises before it writes, says that none is stored; of an atomic insert also one that it raises for want of memory
// while it writes. Its text is left out where it may repeat rows.
func afterSend(err error, atomic bool) error {
	if err == nil {
		return nil
	}
	var exception *proto.Exception
	if !errors.As(err, &exception) {
		if isCutShort(err) {
			return &failure{class: ClassTransient, tooLarge: true, text: err.Error(), err: err}
		}
		return &failure{class: ClassAmbiguous, unknown: true, text: err.Error(), err: err}
	}
	class := classifyException(exception)
	if class == ClassNone {
		return nil
	}
	text := err.Error()
	if class == ClassData || class == ClassUnknown || whilePushing(exception) {
		text = fmt.Sprintf("the server answered with code %d", exception.Code)
	}
	tooLarge := exception.Code == 241 && !raisedElsewhere(exception) // MEMORY_LIMIT_EXCEEDED
	definite := raisedBeforeWriting(exception) || atomic && tooLarge
	return &failure{class: class, unknown: !definite, tooLarge: tooLarge, text: text, err: err}
}

// isCutShort knows the driver's word for a connection that broke before the last column of the rows was written: the server
// does not have them. One that has not the memory for a large insert may hang up so, and its exception gets lost.
func isCutShort(err error) bool {
	return strings.Contains(err.Error(), "failed to flush partial block")
}
