package clickhousex_test

import (
	"context"
	"crypto/x509"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"
	"testing"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/column"
	"github.com/ClickHouse/clickhouse-go/v2/lib/proto"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/clickhousex"
)

func TestClassifyCodes(t *testing.T) {
	codes := map[clickhousex.Class][]int32{
		clickhousex.ClassNone:      {389},
		clickhousex.ClassTransient: {107, 203, 242, 254, 265, 279, 285, 297, 341, 369, 373, 384, 388, 473, 519, 733, 738},
		clickhousex.ClassOverload:  {160, 201, 202, 241, 243, 252, 290, 364, 439, 574, 700, 745},
		clickhousex.ClassAmbiguous: {
			3, 101, 102, 159, 198, 209, 210, 216, 225, 236, 244, 286, 289, 319, 394, 425, 499, 677, 735, 999, 1000, 1001, 1002,
		},
		clickhousex.ClassUnknown: {424242}, // Never taken for a bad row.
		clickhousex.ClassData: {
			6, 25, 26, 27, 33, 38, 41, 53, 70, 72, 117, 131, 321, 349, 376, 407, 441, 469, 675, 676, 691,
		},
		clickhousex.ClassConfig: {
			1, 7, 9, 10, 15, 16, 20, 36, 43, 44, 46, 47, 48, 50, 57, 60, 62, 73, 80, 81, 115, 119, 164, 170, 192, 193, 194, 195, 218,
			291, 344, 392, 446, 452, 455, 456, 472, 497, 516, 701, 720,
		},
	}
	for want, list := range codes {
		for _, code := range list {
			for _, err := range []error{
				&proto.Exception{Code: code, Message: "text"},
				fmt.Errorf("wrapped: %w", &proto.Exception{Code: code}),
				&clickhouse.HTTPError{StatusCode: http.StatusInternalServerError, Err: &proto.Exception{Code: code}},
			} {
				if got := clickhousex.Classify(err); got != want {
					t.Errorf("code %d in %T is %v, want %v", code, err, got, want)
				}
			}
			// Behind a view the table itself may hold the rows.
			viewed := &proto.Exception{Code: code, Message: "text: while pushing to view default.v"}
			if got := clickhousex.Classify(viewed); got != clickhousex.ClassConfig || clickhousex.SafeToRetry(viewed) {
				t.Errorf("code %d while pushing to a view is %v, want config and not safe to retry", code, got)
			}
		}
	}
}

func TestClassify(t *testing.T) {
	dial := &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	tests := []struct {
		name  string
		err   error
		class clickhousex.Class
	}{
		{"nil", nil, clickhousex.ClassNone},
		{"no rows", sql.ErrNoRows, clickhousex.ClassNone},
		{"too many partitions", &proto.Exception{Code: 252, Message: "Too many partitions for single INSERT block (more than 100)"}, clickhousex.ClassData},
		{"too many parts", &proto.Exception{Code: 252, Message: "Too many parts (300). Merges are processing slower than inserts"}, clickhousex.ClassOverload},
		{"estimate", &proto.Exception{Code: 160, Message: "Estimated query execution time (90 seconds) is too long"}, clickhousex.ClassConfig},
		{"sleep", &proto.Exception{Code: 160, Message: "The maximum sleep time is 3000000 microseconds"}, clickhousex.ClassConfig},
		{"http 429", &clickhouse.HTTPError{StatusCode: 429, Err: io.EOF}, clickhousex.ClassOverload},
		{"http 503", &clickhouse.HTTPError{StatusCode: 503, Err: io.EOF}, clickhousex.ClassOverload},
		{"http 502", &clickhouse.HTTPError{StatusCode: 502, Err: errors.New("bad gateway")}, clickhousex.ClassAmbiguous},
		{"http 504", &clickhouse.HTTPError{StatusCode: 504, Err: errors.New("gateway timeout")}, clickhousex.ClassAmbiguous},
		{"http 403", &clickhouse.HTTPError{StatusCode: 403, Err: errors.New("forbidden")}, clickhousex.ClassConfig},
		{"refused", fmt.Errorf("localhost:9000: %w", dial), clickhousex.ClassTransient},
		{"dial timeout", &net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}, clickhousex.ClassTransient},
		{"dns", &net.DNSError{Err: "no such host", Name: "nowhere"}, clickhousex.ClassTransient},
		{"handshake", fmt.Errorf("handshake: failed to read packet: %w", io.EOF), clickhousex.ClassTransient},
		{"eof", fmt.Errorf("failed to read packet: %w", io.EOF), clickhousex.ClassAmbiguous},
		{"unexpected eof", io.ErrUnexpectedEOF, clickhousex.ClassAmbiguous},
		{"reset", &net.OpError{Op: "read", Err: syscall.ECONNRESET}, clickhousex.ClassAmbiguous},
		{"pipe", &net.OpError{Op: "write", Err: syscall.EPIPE}, clickhousex.ClassAmbiguous},
		{"aborted", syscall.ECONNABORTED, clickhousex.ClassAmbiguous},
		{"closed", net.ErrClosed, clickhousex.ClassAmbiguous},
		{"i/o timeout", &net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}, clickhousex.ClassAmbiguous},
		{"deadline", context.DeadlineExceeded, clickhousex.ClassAmbiguous},
		{"bad conn", driver.ErrBadConn, clickhousex.ClassAmbiguous},
		{"decode", &proto.BlockError{Op: "Decode", Err: io.EOF}, clickhousex.ClassAmbiguous},
		{"unexpected packet", &clickhouse.OpError{Op: "process", Err: errors.New("unexpected packet 99")}, clickhousex.ClassAmbiguous},
		{"unknown", errors.New("something new"), clickhousex.ClassAmbiguous},
		{"cancelled", fmt.Errorf("%w: %w", context.Canceled, net.ErrClosed), clickhousex.ClassCancelled},
		{"pool closed", clickhouse.ErrConnectionClosed, clickhousex.ClassCancelled},
		{"pool", clickhouse.ErrAcquireConnTimeout, clickhousex.ClassPool},
		{"open", &breaker.OpenError{Name: "clickhouse"}, clickhousex.ClassRejected},
		{"too many calls", breaker.ErrTooManyCalls, clickhousex.ClassRejected},
		{"append", &proto.BlockError{Op: "AppendRow", Err: errors.New("bad")}, clickhousex.ClassData},
		{"converter", &column.ColumnConverterError{Op: "Append", From: "int", To: "String"}, clickhousex.ClassData},
		{"poisoned batch", fmt.Errorf("%w: bad", clickhouse.ErrBatchInvalid), clickhousex.ClassData},
		{"struct", &clickhouse.OpError{Op: "AppendStruct", Err: errors.New("missing")}, clickhousex.ClassData},
		{"permanent", holdfast.Permanent(io.EOF), clickhousex.ClassData},
		{"sent twice", clickhouse.ErrBatchAlreadySent, clickhousex.ClassConfig},
		{"hold", holdfast.Hold(io.EOF), clickhousex.ClassConfig},
		{"certificate", x509.UnknownAuthorityError{}, clickhousex.ClassConfig},
		{"known ambiguous", holdfast.Ambiguous(&breaker.OpenError{}), clickhousex.ClassAmbiguous},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := clickhousex.Classify(tt.err); got != tt.class {
				t.Errorf("Classify(%v) = %v, want %v", tt.err, got, tt.class)
			}
		})
	}
}

// TestVerdicts ties what may be done about an error, and what it means to a circuit, to its class.
func TestVerdicts(t *testing.T) {
	tests := []struct {
		err             error
		retryable, safe bool
		outcome         breaker.Outcome
	}{
		{nil, false, false, breaker.Success},
		{&proto.Exception{Code: 242}, true, false, breaker.Failure},
		{&proto.Exception{Code: 241}, true, false, breaker.Failure},
		{&proto.Exception{Code: 252}, true, true, breaker.Failure},
		{&proto.Exception{Code: 202}, true, true, breaker.Failure},
		{&proto.Exception{Code: 252, Message: "Received from shard2:9000. DB::Exception: Too many parts"}, true, false, breaker.Failure},
		{&proto.Exception{Code: 424242}, true, false, breaker.Ignore},
		{io.EOF, true, false, breaker.Failure},
		{&proto.Exception{Code: 469}, false, true, breaker.Ignore},
		{&proto.Exception{Code: 60}, false, true, breaker.Ignore},
		{context.Canceled, false, false, breaker.Ignore},
		{clickhouse.ErrAcquireConnTimeout, true, true, breaker.Ignore},
		{&breaker.OpenError{}, false, true, breaker.Ignore},
	}
	classify := clickhousex.BreakerConfig("clickhouse").Classify
	for _, tt := range tests {
		class := clickhousex.Classify(tt.err)
		if got := clickhousex.Retryable(tt.err); got != tt.retryable {
			t.Errorf("%v: Retryable = %v", class, got)
		}
		if got := clickhousex.SafeToRetry(tt.err); got != tt.safe {
			t.Errorf("%v: SafeToRetry = %v", class, got)
		}
		if got := classify(tt.err); got != tt.outcome {
			t.Errorf("%v: outcome = %v, want %v", class, got, tt.outcome)
		}
	}
}
