package dlq

import (
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"github.com/holdfast-io/holdfast"
)

// Blame notes what err says of the failure: its text, class, code and chain. The class is the type of the first error in
// the chain that adds more than text or a verdict. The code is that of the first error that is a number, as kafka-go's
// and the system's are, or has a number called Code, as ClickHouse's has. Nil takes back what an earlier Blame noted.
func (l *Letter) Blame(err error) {
	l.Error, l.ErrorClass, l.ErrorCode, l.ErrorChain = "", "", "", ""
	if err == nil {
		return
	}
	l.Error = errorText(err)
	var chain []string
	for ; err != nil; err = unwrap(err) {
		kind := reflect.TypeOf(err)
		chain = append(chain, kind.String())
		if l.ErrorClass == "" && (!isWrapper(kind) || unwrap(err) == nil) {
			l.ErrorClass = kind.String()
		}
		if l.ErrorCode == "" {
			l.ErrorCode = errorCode(err)
		}
	}
	l.ErrorChain = strings.Join(chain, " > ")
}

// errorText is what err says, or its type if it panics instead, as a nil pointer in an error may.
func errorText(err error) (text string) {
	defer func() {
		if recover() != nil {
			text = fmt.Sprintf("%T", err)
		}
	}()
	return err.Error()
}

// unwrap goes one step down the chain, to the first of several errors.
func unwrap(err error) (next error) {
	defer func() {
		if recover() != nil {
			next = nil
		}
	}()
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		for _, one := range many.Unwrap() {
			if one != nil {
				return one
			}
		}
		return nil
	}
	return errors.Unwrap(err)
}

// isWrapper says whether an error of this type only adds text, or a verdict, to another.
func isWrapper(kind reflect.Type) bool {
	if kind.Kind() == reflect.Pointer {
		kind = kind.Elem()
	}
	switch kind.PkgPath() {
	case "fmt", "errors", reflect.TypeFor[holdfast.Message]().PkgPath():
		return true
	default:
		return false
	}
}

func errorCode(err error) string {
	v := reflect.ValueOf(err)
	if v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	if v.Kind() == reflect.Struct {
		f, ok := v.Type().FieldByName("Code")
		if !ok || len(f.Index) > 1 {
			return ""
		}
		v = v.FieldByIndex(f.Index)
	}
	switch {
	case v.IsValid() && v.CanInt():
		return strconv.FormatInt(v.Int(), 10)
	case v.IsValid() && v.CanUint():
		return strconv.FormatUint(v.Uint(), 10)
	default:
		return ""
	}
}
