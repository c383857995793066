package clickhousex

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"strings"
	"syscall"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/column"
	"github.com/ClickHouse/clickhouse-go/v2/lib/proto"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
)

// Class says what an error of ClickHouse, of its driver or of the network in between asks for.
type Class int

// The classes. Transient, overload and ambiguous count as failures of the server; the others move no circuit. What a class
// says of trying again is of reads: a write may have been done in part whatever the class, unless it is SafeToRetry.
const (
	ClassNone      Class = iota // No failure: nil, an empty result, an insert that the server knew already.
	ClassTransient              // It failed, and that clears by itself: try again.
	ClassOverload               // The server is at a limit: try again, more slowly.
	ClassAmbiguous              // The answer was lost, or says that the work may have been done.
	ClassUnknown                // The server answered with a code that this package does not know: try a few times, then look.
	ClassData                   // A row, or a value to scan into, is at fault: the same rows fail again.
	ClassConfig                 // Schema, views, rights, settings or certificates are at fault until someone mends them.
	ClassCancelled              // The caller gave up, or closed the connection; whether it was done is not known.
	ClassPool                   // Our own pool had no free connection: nothing was sent.
	ClassRejected               // The circuit breaker let it not pass: nothing was sent.
)

// String gives the class in lower case, as used in logs.
func (c Class) String() string {
	switch c {
	case ClassNone:
		return "none"
	case ClassTransient:
		return "transient"
	case ClassOverload:
		return "overload"
	case ClassAmbiguous:
		return "ambiguous"
	case ClassUnknown:
		return "unknown"
	case ClassData:
		return "data"
	case ClassConfig:
		return "config"
	case ClassCancelled:
		return "cancelled"
	case ClassPool:
		return "pool"
	case ClassRejected:
		return "rejected"
	default:
		return fmt.Sprintf("Class(%d)", int(c))
	}
}

// Retryable says whether the same call may succeed later by itself. It does not say that repeating it is harmless: for
// a write see SafeToRetry. A call that an open circuit refused is not retryable: wait until the circuit is ready.
func Retryable(err error) bool {
	switch Classify(err) {
	case ClassTransient, ClassOverload, ClassAmbiguous, ClassUnknown, ClassPool:
		return true
	default:
		return false
	}
}

// SafeToRetry says whether err guarantees that nothing was stored, of an insert of one block at least: an INSERT of many,
// or a SELECT's, may have stored some before it met a bad row. It is false for nil.
func SafeToRetry(err error) bool {
	switch Classify(err) {
	case ClassPool, ClassRejected:
		return true
	case ClassTransient, ClassOverload, ClassData, ClassConfig:
		var (
			known     *failure
			exception *proto.Exception
		)
		if errors.As(err, &known) {
			return !known.unknown
		}
		return !errors.As(err, &exception) || raisedBeforeWriting(exception)
	default:
		return false
	}
}

// Classify finds the class of an error that a Conn, an Inserter or the driver returned. What it does not know is unknown
// when the server said it and else ambiguous: tried again a few times, and never taken for a bad row.
func Classify(err error) Class {
	switch {
	case err == nil:
		return ClassNone
	case holdfast.IsAmbiguous(err): // An Inserter has already found out that a row may be stored.
		return ClassAmbiguous
	case errors.Is(err, context.Canceled): // First, since a cancelled call also breaks its connection.
		return ClassCancelled
	case errors.Is(err, breaker.ErrCircuitOpen), errors.Is(err, breaker.ErrTooManyCalls):
		return ClassRejected
	case errors.Is(err, clickhouse.ErrAcquireConnTimeout): // Before timeouts: it says nothing about the server.
		return ClassPool
	case errors.Is(err, sql.ErrNoRows): // The server did answer.
		return ClassNone
	case holdfast.IsHold(err):
		return ClassConfig
	case holdfast.IsPermanent(err):
		return ClassData
	}
	if known, ok := errors.AsType[*failure](err); ok { // An Inserter knew how far it had come.
		return known.class
	}
	if exception, ok := errors.AsType[*proto.Exception](err); ok {
		return classifyException(exception)
	}
	if httpError, ok := errors.AsType[*clickhouse.HTTPError](err); ok {
		return classifyHTTP(httpError.StatusCode)
	}
	if class := classifyDriver(err); class != ClassNone {
		return class
	}
	return classifyNetwork(err)
}

// classifyException goes by the server's code, and by its text where one code means two things. Codes are those of
// ClickHouse's src/Common/ErrorCodes.cpp; where the known consumers (clickhouse-kafka-connect, Vector, glassflow)
// disagree, the reading that loses nothing wins.
func classifyException(e *proto.Exception) Class {
	if whilePushing(e) {
		return ClassConfig // Whatever it is, the table takes rows that its view does not.
	}
	switch e.Code {
	case 389: // INSERT_WAS_DEDUPLICATED: an earlier attempt is stored.
		return ClassNone

	case 252: // TOO_MANY_PARTS
		if strings.Contains(e.Message, "partitions for single INSERT block") {
			return ClassData // Rows of too many partitions in one block: fails again as it is, halves may pass.
		}
		return ClassOverload // Back-pressure, before anything is written. Never a reason to drop a batch.
	case 160: // TOO_SLOW
		if strings.Contains(e.Message, "Estimated") || strings.Contains(e.Message, "maximum sleep time") {
			return ClassConfig // Refused by a limit before it ran: refused again.
		}
		return ClassOverload // Slower than the minimal speed.

	case 201, // QUOTA_EXCEEDED: clears with the quota's interval.
		202,      // TOO_MANY_SIMULTANEOUS_QUERIES
		241,      // MEMORY_LIMIT_EXCEEDED: the total clears; a single query's limit asks for smaller batches.
		243,      // NOT_ENOUGH_SPACE: clears when merges or people make room.
		290, 364, // LIMIT_EXCEEDED, RECEIVED_ERROR_TOO_MANY_REQUESTS
		439, // CANNOT_SCHEDULE_TASK: no thread.
		574, // DISTRIBUTED_TOO_MANY_PENDING_BYTES
		700, // USER_SESSION_LIMIT_EXCEEDED
		745: // SERVER_OVERLOADED
		return ClassOverload

	case 107, // FILE_DOESNT_EXIST: a part was merged away under a read.
		203, 279, 297, // NO_FREE_CONNECTION, ALL_CONNECTION_TRIES_FAILED, SHARD_HAS_NO_CONNECTIONS: the server's own connections.
		242, 254, 265, // TABLE_IS_READ_ONLY, NO_ACTIVE_REPLICAS, NO_AVAILABLE_REPLICA: a replica without its Keeper.
		285,                // TOO_FEW_LIVE_REPLICAS: the quorum is checked before the write.
		341, 384, 388, 473, // UNFINISHED, PART_IS_TEMPORARILY_LOCKED, CANNOT_ASSIGN_OPTIMIZE, DEADLOCK_AVOIDED: a lock conflict.
		369, 519, // ALL_REPLICAS_ARE_STALE, NO_REMOTE_SHARD_AVAILABLE
		373,      // SESSION_IS_LOCKED: an HTTP session in use.
		733, 738: // TABLE_IS_BEING_RESTARTED, PART_IS_LOCKED
		return ClassTransient

	case 3, // UNEXPECTED_END_OF_FILE: the stream was cut.
		159,           // TIMEOUT_EXCEEDED: the insert may be half done.
		198, 209, 210, // DNS_ERROR, SOCKET_TIMEOUT, NETWORK_ERROR: between servers, or on the way back to us.
		216,           // QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING: an earlier attempt still runs.
		225, 244, 999, // NO_ZOOKEEPER, UNEXPECTED_ZOOKEEPER_ERROR, KEEPER_EXCEPTION: may come after the commit.
		236, 677, // ABORTED, THREAD_WAS_CANCELED: shutdown or KILL.
		286, 289, // UNSATISFIED_QUORUM_FOR_PREVIOUS_WRITE, REPLICA_IS_NOT_IN_QUORUM: written, quorum unknown.
		319,      // UNKNOWN_STATUS_OF_INSERT
		394, 735, // QUERY_WAS_CANCELLED(_BY_CLIENT): by someone else, or the caller's context would have said so.
		425, 499, 1000, // SYSTEM_ERROR, S3_ERROR, POCO_EXCEPTION: disk, object store, network.
		101, 102, 1001, 1002: // UNEXPECTED_PACKET_*, STD_EXCEPTION, UNKNOWN_EXCEPTION: anything.
		return ClassAmbiguous

	case 6, 26, 27, 38, 41, // CANNOT_PARSE_TEXT, _QUOTED_STRING, _INPUT_ASSERTION_FAILED, _DATE, _DATETIME
		72, 376, 441, 675, 676, // CANNOT_PARSE_NUMBER, _UUID, _DOMAIN_VALUE, _IPV4, _IPV6
		25, 33, // CANNOT_PARSE_ESCAPE_SEQUENCE, CANNOT_READ_ALL_DATA
		53, 70, // TYPE_MISMATCH, CANNOT_CONVERT_TYPE: a value's. When it is every row's, the Inserter's cap on bad rows says so.
		117, 131, // INCORRECT_DATA, TOO_LARGE_STRING_SIZE
		321, 349, // VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE, CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN
		407, // DECIMAL_OVERFLOW
		469, // VIOLATED_CONSTRAINT
		691: // UNKNOWN_ELEMENT_OF_ENUM
		return ClassData

	case 7, 9, 10, 15, 16, 20, 47, // columns: wrong count or size, not found, duplicate, not in the table, unknown identifier
		36, 43, 44, 46, 446, // BAD_ARGUMENTS, ILLEGAL_TYPE_OF_ARGUMENT, ILLEGAL_COLUMN, UNKNOWN_FUNCTION, FUNCTION_NOT_ALLOWED
		1, 48, 50, 344, 455, // UNSUPPORTED_METHOD, NOT_IMPLEMENTED, UNKNOWN_TYPE, SUPPORT_IS_DISABLED, SUSPICIOUS_TYPE_FOR_LOW_CARDINALITY
		119, 170, 701, // ENGINE_REQUIRED, BAD_GET, CLUSTER_DOESNT_EXIST: BAD_GET is old servers' word for a missing cluster.
		57, 60, 81, 218, // TABLE_ALREADY_EXISTS, UNKNOWN_TABLE, UNKNOWN_DATABASE, TABLE_IS_DROPPED: a DDL may bring it back.
		62, 73, 80, // SYNTAX_ERROR, UNKNOWN_FORMAT, INCORRECT_QUERY
		115, 452, 456, 472, // UNKNOWN_SETTING, SETTING_CONSTRAINT_VIOLATION, UNKNOWN_QUERY_PARAMETER, READONLY_SETTING
		164,                // READONLY: the user's or the profile's.
		192, 193, 194, 195, // UNKNOWN_USER, WRONG_PASSWORD, REQUIRED_PASSWORD, IP_ADDRESS_NOT_ALLOWED
		291, 497, 516, 720, // DATABASE_ACCESS_DENIED, ACCESS_DENIED, AUTHENTICATION_FAILED, USER_EXPIRED
		392: // QUERY_IS_PROHIBITED
		return ClassConfig

	default:
		return ClassUnknown // New codes appear with every release. Guessing "bad row" would lose data.
	}
}

// whilePushing says that the exception came out of a materialized view. The table itself may hold the rows by then.
func whilePushing(e *proto.Exception) bool {
	return strings.Contains(e.Message, "while pushing to view")
}

// raisedElsewhere says that the exception is a view's, or a shard's: it does not speak of the table as a whole.
func raisedElsewhere(e *proto.Exception) bool {
	return whilePushing(e) || strings.Contains(e.Message, "Received from ")
}

// raisedBeforeWriting says that the server raises this exception before it writes the first row of a block: when it reads
// the statement, takes the block in, converts it and checks its constraints, and when it counts the table's parts, which
// it never does in the middle (MergeTreeSink::onStart). What a shard says of its rows is not known of the others'.
func raisedBeforeWriting(e *proto.Exception) bool {
	if raisedElsewhere(e) {
		return false
	}
	switch classifyException(e) {
	case ClassData, ClassConfig:
		return true
	default:
		return e.Code == 202 || e.Code == 252 // TOO_MANY_SIMULTANEOUS_QUERIES, TOO_MANY_PARTS
	}
}

// classifyHTTP is for answers that carry no exception of ClickHouse, mostly a proxy's.
func classifyHTTP(status int) Class {
	switch status {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable: // Refused before it was passed on.
		return ClassOverload
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusProxyAuthRequired:
		return ClassConfig
	default: // 502 and 504 above all: it was passed on, and the answer did not come back.
		return ClassAmbiguous
	}
}

// classifyDriver knows the errors that the driver makes without asking the server, ClassNone when it is none of them.
func classifyDriver(err error) Class {
	switch {
	case errors.Is(err, clickhouse.ErrConnectionClosed): // Our own Close.
		return ClassCancelled
	case errors.Is(err, clickhouse.ErrBatchAlreadySent), errors.Is(err, clickhouse.ErrBatchNotSent), // misuse
		errors.Is(err, clickhouse.ErrFormatNativeUnsupported),
		errors.Is(err, clickhouse.ErrBindMixedParamsFormats),
		errors.Is(err, clickhouse.ErrUnsupportedQueryParameter),
		errors.Is(err, clickhouse.ErrInvalidValueInNamedDateValue),
		errors.Is(err, clickhouse.ErrUnsupportedServerRevision),
		errors.Is(err, clickhouse.ErrAcquireConnNoAddress):
		return ClassConfig
	case errors.Is(err, clickhouse.ErrBatchInvalid): // An Append before failed.
		return ClassData
	case strings.Contains(err.Error(), "has unsupported data type"): // A setting's value, to a server of before 20.6.
		return ClassConfig
	}
	var block *proto.BlockError
	if errors.As(err, &block) && block.Op != "Decode" { // A failed Decode is the connection's, seen from inside a block.
		return ClassData
	}
	var op *clickhouse.OpError
	if errors.As(err, &op) && op.Op != "process" { // "process" is a packet that nobody expects.
		return ClassData
	}
	var (
		converter   *column.ColumnConverterError
		value       *column.Error
		unsupported *column.UnsupportedColumnTypeError
	)
	switch {
	case errors.As(err, &unsupported): // The driver does not know the table's type.
		return ClassConfig
	case errors.As(err, &converter), errors.As(err, &value):
		return ClassData
	default:
		return ClassNone
	}
}

// classifyNetwork separates what failed before a query could be sent from all the rest.
func classifyNetwork(err error) Class {
	var (
		dns         *net.DNSError
		op          *net.OpError
		certificate *tls.CertificateVerificationError
		authority   x509.UnknownAuthorityError
		hostname    x509.HostnameError
		record      tls.RecordHeaderError
	)
	switch {
	case errors.As(err, &certificate), errors.As(err, &authority), errors.As(err, &hostname), errors.As(err, &record),
		errors.Is(err, fs.ErrNotExist): // No such certificate or socket file; a port that does not speak TLS.
		return ClassConfig
	case errors.Is(err, syscall.ECONNREFUSED), errors.As(err, &dns), errors.As(err, &op) && op.Op == "dial":
		return ClassTransient
	case strings.Contains(err.Error(), "handshake: failed"): // The driver marks the phase by text only.
		return ClassTransient
	default:
		// EOF, reset, broken pipe, aborted, closed, timeout, bad connection: the query may have arrived. And whatever
		// else there is.
		return ClassAmbiguous
	}
}
