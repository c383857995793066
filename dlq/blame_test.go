package dlq_test

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"testing"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/segmentio/kafka-go"

	"github.com/holdfast-io/holdfast"
)

type nilError struct{ text string }

func (e *nilError) Error() string { return e.text }

type embeddingError struct{ *clickhouse.Exception }

func TestBlame(t *testing.T) {
	server := &clickhouse.Exception{Code: 252, Message: "too many parts"}
	var nobody *nilError
	for name, c := range map[string]struct {
		err                error
		class, code, chain string
	}{
		"text only":   {errors.New("x"), "*errors.errorString", "", "*errors.errorString"},
		"wrapped":     {fmt.Errorf("insert: %w", holdfast.Permanent(server)), "*proto.Exception", "252", "*fmt.wrapError > *holdfast.permanentError > *proto.Exception"},
		"kafka":       {fmt.Errorf("produce: %w", kafka.NotEnoughReplicas), "kafka.Error", "19", "*fmt.wrapError > kafka.Error"},
		"system":      {&fs.PathError{Op: "open", Path: "x", Err: syscall.ENOENT}, "*fs.PathError", "2", "*fs.PathError > syscall.Errno"},
		"several":     {errors.Join(nil, server, errors.New("y")), "*proto.Exception", "252", "*errors.joinError > *proto.Exception"},
		"only text":   {fmt.Errorf("a: %w", errors.New("b")), "*errors.errorString", "", "*fmt.wrapError > *errors.errorString"},
		"nil pointer": {nobody, "*dlq_test.nilError", "", "*dlq_test.nilError"},
		"deep nil":    {embeddingError{}, "dlq_test.embeddingError", "", "dlq_test.embeddingError"},
		"nothing":     {nil, "", "", ""},
	} {
		l := letter()
		l.Blame(c.err)
		if l.ErrorClass != c.class || l.ErrorCode != c.code || l.ErrorChain != c.chain || (l.Error == "") != (c.err == nil) {
			t.Errorf("%s: class %q, code %q, chain %q, error %q", name, l.ErrorClass, l.ErrorCode, l.ErrorChain, l.Error)
		}
	}
}
