package wire_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/kafkax/internal/wire"
)

func startCluster(t *testing.T, opts ...kfake.Opt) (addr string) {
	t.Helper()
	cluster, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1), kfake.SeedTopics(1, "orders")}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	return cluster.ListenAddrs()[0]
}

func newProducer(t *testing.T, addr string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	client, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(addr), kgo.DefaultProduceTopic("orders")}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

func produce(t *testing.T, client *kgo.Client, records ...*kgo.Record) {
	t.Helper()
	if err := client.ProduceSync(t.Context(), records...).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

func dial(t *testing.T, addr string, d kafka.Dialer, cfg wire.Config) *wire.Conn {
	t.Helper()
	conn, err := wire.Dial(t.Context(), &d, "tcp", addr, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// response is an answer with all of its messages.
type response struct {
	wire.Answer
	Messages []holdfast.Message
}

func fetch(t *testing.T, conn *wire.Conn, req wire.Request) (response, error) {
	t.Helper()
	if err := conn.Send(req); err != nil {
		t.Fatal(err)
	}
	return receive(t, conn)
}

func receive(t *testing.T, conn *wire.Conn) (resp response, err error) {
	t.Helper()
	if resp.Answer, err = conn.Receive(t.Context()); err != nil {
		return resp, err
	}
	r := wire.NewReader(wire.Config{}, 3)
	for r.Begin(resp.Answer); r.More(); {
		messages, _, err := r.Next()
		if err != nil {
			return resp, err
		}
		resp.Messages = append(resp.Messages, messages...)
	}
	return resp, nil
}

// readAll fetches until everything below end is read and returns the messages' values.
func readAll(t *testing.T, conn *wire.Conn, req wire.Request, end int64) (values []string) {
	t.Helper()
	for req.Offset < end {
		resp, err := fetch(t, conn, req)
		if err != nil {
			t.Fatal(err)
		}
		if resp.NextOffset <= req.Offset {
			t.Fatalf("no progress at offset %d of %d", req.Offset, end)
		}
		for _, m := range resp.Messages {
			if m.Offset < req.Offset || m.Offset >= resp.NextOffset {
				t.Errorf("message at %d in the answer to %d, next %d", m.Offset, req.Offset, resp.NextOffset)
			}
			values = append(values, string(m.Value))
		}
		req.Offset = resp.NextOffset
	}
	return values
}

func TestFetchEveryCodec(t *testing.T) {
	addr := startCluster(t)
	at := time.UnixMilli(1_700_000_000_123)
	codecs := []kgo.CompressionCodec{
		kgo.NoCompression(), kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression(),
	}
	long := strings.Repeat("compressible ", 100)
	var want []holdfast.Message
	for _, codec := range codecs {
		client := newProducer(t, addr, kgo.ProducerBatchCompression(codec))
		records := []*kgo.Record{
			{Key: nil, Value: nil},
			{Key: []byte{}, Value: []byte{}},
			{Key: []byte("key"), Value: []byte(long), Headers: []kgo.RecordHeader{
				{Key: "a", Value: []byte("1")}, {Key: "a", Value: nil}, {Key: "", Value: []byte{}},
			}},
			{Key: []byte("other"), Value: []byte("value")},
		}
		for i, r := range records {
			r.Timestamp = at.Add(time.Duration(i) * time.Second)
			m := holdfast.Message{Topic: "orders", Offset: int64(len(want)), Key: r.Key, Value: r.Value, Time: r.Timestamp}
			for _, h := range r.Headers {
				m.Headers = append(m.Headers, holdfast.Header(h))
			}
			want = append(want, m)
		}
		produce(t, client, records...)
	}

	conn := dial(t, addr, kafka.Dialer{}, wire.Config{})
	resp, err := fetch(t, conn, wire.Request{Topic: "orders"})
	if err != nil {
		t.Fatal(err)
	}
	end := int64(len(want))
	if resp.NextOffset != end || resp.HighWatermark != end || resp.LastStable != end {
		t.Errorf("next %d, end %d, stable %d, want %d", resp.NextOffset, resp.HighWatermark, resp.LastStable, end)
	}
	if len(resp.Messages) != len(want) {
		t.Fatalf("%d messages, want %d", len(resp.Messages), len(want))
	}
	for i := range want {
		if got, want := fmt.Sprintf("%#v", resp.Messages[i]), fmt.Sprintf("%#v", want[i]); got != want {
			t.Errorf("message %d is\n%s, want\n%s", i, got, want)
		}
	}
}

func TestFetchVersions(t *testing.T) {
	for _, versions := range []*kversion.Versions{
		kversion.V0_11_0(), kversion.V1_0_0(), kversion.V1_1_0(), kversion.V2_0_0(), kversion.V2_1_0(), kversion.V2_3_0(), kversion.V4_0_0(),
	} {
		highest, _ := versions.LookupMaxKeyVersion(1)
		t.Run(fmt.Sprint(highest), func(t *testing.T) {
			addr := startCluster(t, kfake.MaxVersions(versions))
			produce(t, newProducer(t, addr, kgo.DisableIdempotentWrite(), kgo.RequiredAcks(kgo.LeaderAck())), kgo.StringRecord("a"), kgo.StringRecord("b"))
			conn := dial(t, addr, kafka.Dialer{}, wire.Config{})
			for _, committed := range []bool{false, true} {
				if got := readAll(t, conn, wire.Request{Topic: "orders", ReadCommitted: committed}, 2); fmt.Sprint(got) != "[a b]" {
					t.Errorf("got %v, want [a b]", got)
				}
			}
		})
	}
}

func TestFetchTooOldBroker(t *testing.T) {
	addr := startCluster(t, kfake.MaxVersions(kversion.V0_10_0()))
	_, err := wire.Dial(t.Context(), &kafka.Dialer{}, "tcp", addr, wire.Config{})
	if !errors.Is(err, kafka.UnsupportedVersion) && (err == nil || !strings.Contains(err.Error(), "no Fetch")) {
		t.Errorf("got %v, want an error that names the versions", err)
	}
}

func TestFetchTransactions(t *testing.T) {
	addr := startCluster(t)
	var committed, all []string
	end := int64(0)
	transact := func(id string, how kgo.TransactionEndTry, values ...string) {
		t.Helper()
		client := newProducer(t, addr, kgo.TransactionalID(id))
		if err := client.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		for _, v := range values {
			produce(t, client, kgo.StringRecord(v))
			end++
			all = append(all, v)
			if how == kgo.TryCommit {
				committed = append(committed, v)
			}
		}
		if err := client.EndTransaction(t.Context(), how); err != nil {
			t.Fatal(err)
		}
		end++ // the marker
	}
	transact("one", kgo.TryCommit, "a", "b")
	transact("two", kgo.TryAbort, "c", "d")
	transact("one", kgo.TryAbort, "e")
	transact("two", kgo.TryCommit, "f")
	produce(t, newProducer(t, addr), kgo.StringRecord("g"))
	end++
	all, committed = append(all, "g"), append(committed, "g")
	transact("one", kgo.TryAbort, "h")

	conn := dial(t, addr, kafka.Dialer{}, wire.Config{})
	for _, maxBytes := range []int{1, 200, 1 << 20} { // one batch per answer, some, all
		req := wire.Request{Topic: "orders", MaxBytes: maxBytes}
		if got := readAll(t, conn, req, end); fmt.Sprint(got) != fmt.Sprint(all) {
			t.Errorf("max bytes %d, uncommitted: got %v, want %v", maxBytes, got, all)
		}
		req.ReadCommitted = true
		if got := readAll(t, conn, req, end); fmt.Sprint(got) != fmt.Sprint(committed) {
			t.Errorf("max bytes %d, committed: got %v, want %v", maxBytes, got, committed)
		}
	}
	// From within an aborted transaction on, whose beginning the answer does not hold.
	if got := readAll(t, conn, wire.Request{Topic: "orders", Offset: 4, ReadCommitted: true}, end); fmt.Sprint(got) != "[f g]" {
		t.Errorf("from offset 4: got %v, want [f g]", got)
	}

	open := newProducer(t, addr, kgo.TransactionalID("open"))
	if err := open.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	produce(t, open, kgo.StringRecord("i"))
	resp, err := fetch(t, conn, wire.Request{Topic: "orders", Offset: end, ReadCommitted: true})
	if err != nil || len(resp.Messages) != 0 || resp.NextOffset != end || resp.LastStable != end || resp.HighWatermark != end+1 {
		t.Errorf("open transaction: got %+v, %v, want nothing and the last stable offset at %d", resp, err, end)
	}
	if err := open.EndTransaction(t.Context(), kgo.TryAbort); err != nil {
		t.Fatal(err)
	}
}

func TestFetchPartitionErrors(t *testing.T) {
	addr := startCluster(t)
	conn := dial(t, addr, kafka.Dialer{}, wire.Config{})
	for _, c := range []struct {
		name string
		req  wire.Request
		want kafka.Error
	}{
		{"beyond the end", wire.Request{Topic: "orders", Offset: 7}, kafka.OffsetOutOfRange},
		{"no such partition", wire.Request{Topic: "orders", Partition: 9}, kafka.UnknownTopicOrPartition},
		{"no such topic", wire.Request{Topic: "nothing"}, kafka.UnknownTopicOrPartition},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := fetch(t, conn, c.req)
			if !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
	produce(t, newProducer(t, addr), kgo.StringRecord("still here"))
	if got := readAll(t, conn, wire.Request{Topic: "orders"}, 1); fmt.Sprint(got) != "[still here]" {
		t.Errorf("after the errors: got %v", got)
	}
}

func TestSendAhead(t *testing.T) {
	addr := startCluster(t)
	conn := dial(t, addr, kafka.Dialer{}, wire.Config{})
	produce(t, newProducer(t, addr, kgo.ProducerBatchMaxBytes(1<<10)), kgo.StringRecord("0"))
	produce(t, newProducer(t, addr), kgo.StringRecord("1"))
	for i := range wire.MaxOutstanding {
		if err := conn.Send(wire.Request{Topic: "orders", Offset: int64(i % 2), MaxBytes: 1}); err != nil {
			t.Fatal(err)
		}
	}
	if err := conn.Send(wire.Request{Topic: "orders"}); !errors.Is(err, wire.ErrTooMany) {
		t.Errorf("request %d: got %v, want ErrTooMany", wire.MaxOutstanding, err)
	}
	for i := range wire.MaxOutstanding {
		resp, err := receive(t, conn)
		if err != nil || len(resp.Messages) != 1 || resp.Messages[0].Offset != int64(i%2) {
			t.Fatalf("answer %d: %+v, %v", i, resp, err)
		}
	}
	if _, err := conn.Receive(t.Context()); err == nil {
		t.Error("no error without an outstanding request")
	}
}

func TestFetchNothing(t *testing.T) {
	addr := startCluster(t)
	conn := dial(t, addr, kafka.Dialer{}, wire.Config{})
	produce(t, newProducer(t, addr), kgo.StringRecord("a"))
	resp, err := fetch(t, conn, wire.Request{Topic: "orders", Offset: 1, MaxWait: time.Millisecond})
	if err != nil || len(resp.Messages) != 0 || resp.NextOffset != 1 || resp.HighWatermark != 1 || resp.Size() != 0 {
		t.Errorf("got %+v, %v", resp, err)
	}
}

func TestRequestOnTheWire(t *testing.T) {
	for version := int16(4); version <= 11; version++ {
		synctest.Test(t, func(t *testing.T) {
			server := newServer(t, version)
			server.dialer.ClientID = "billing"
			conn := dial(t, "broker:9092", server.dialer, wire.Config{})
			req := wire.Request{Topic: "t", Partition: 3, Offset: 1 << 40, MaxWait: 250 * time.Millisecond, MaxBytes: 1 << 19, ReadCommitted: true}
			if err := conn.Send(req); err != nil {
				t.Fatal(err)
			}
			request := <-server.requests
			if header, want := string(request[:4])+string(request[8:17]), "\x00\x01\x00"+string(rune(version))+"\x00\x07billing"; header != want {
				t.Errorf("version %d: header %q, want %q", version, header, want)
			}
			got := kmsg.NewPtrFetchRequest()
			got.Version = version
			if err := got.ReadFrom(request[17:]); err != nil {
				t.Fatalf("version %d: %v", version, err)
			}
			if again := got.AppendTo(nil); !bytes.Equal(again, request[17:]) {
				t.Errorf("version %d: %x, want %x", version, request[17:], again)
			}
			if got.ReplicaID != -1 || got.MaxWaitMillis != 250 || got.MinBytes != 1 || got.IsolationLevel != 1 || got.SessionEpoch != -1 {
				t.Errorf("version %d: %+v", version, got)
			}
			partition := got.Topics[0].Partitions[0]
			if got.Topics[0].Topic != "t" || partition.Partition != 3 || partition.FetchOffset != 1<<40 || partition.PartitionMaxBytes != 1<<19 || partition.CurrentLeaderEpoch != -1 {
				t.Errorf("version %d: %+v", version, got.Topics)
			}
		})
	}
}

func TestReceiveUnblocks(t *testing.T) {
	cause := errors.New("enough")
	for _, c := range []struct {
		name    string
		unblock func(*wire.Conn, context.CancelCauseFunc)
		want    error
	}{
		{"close", func(conn *wire.Conn, _ context.CancelCauseFunc) { _ = conn.Close() }, net.ErrClosed},
		{"context", func(_ *wire.Conn, cancel context.CancelCauseFunc) { cancel(cause) }, cause},
		{"timeout", func(*wire.Conn, context.CancelCauseFunc) {}, os.ErrDeadlineExceeded},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := newServer(t, 11)
				conn := dial(t, "broker:9092", server.dialer, wire.Config{})
				if err := conn.Send(wire.Request{Topic: "t", MaxWait: 5 * time.Second}); err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				begin := time.Now()
				received := make(chan error)
				go func() {
					_, err := conn.Receive(ctx)
					received <- err
				}()
				synctest.Wait()
				c.unblock(conn, cancel)
				if err := <-received; !errors.Is(err, c.want) {
					t.Errorf("got %v, want %v", err, c.want)
				}
				if waited := time.Since(begin); waited != 0 && (c.name != "timeout" || waited != 15*time.Second) {
					t.Errorf("unblocked after %v", waited)
				}
				if err := conn.Send(wire.Request{Topic: "t"}); !errors.Is(err, c.want) {
					t.Errorf("send afterwards: got %v, want %v", err, c.want)
				}
				if _, err := conn.Receive(t.Context()); !errors.Is(err, c.want) {
					t.Errorf("receive afterwards: got %v, want %v", err, c.want)
				}
				if err := conn.Close(); err != nil {
					t.Errorf("second close: %v", err)
				}
				for range server.requests { // ends when the broker sees the connection's end
				}
			})
		})
	}
}

func TestSendIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newServer(t, 11)
		conn := dial(t, "broker:9092", server.dialer, wire.Config{})
		for range cap(server.requests) {
			server.requests <- nil
		}
		if err := conn.Send(wire.Request{Topic: "t"}); err != nil {
			t.Fatal(err)
		}
		// The broker is stuck with this request and reads no further.
		if err := conn.Send(wire.Request{Topic: "t"}); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("got %v, want a timeout", err)
		}
		for range cap(server.requests) {
			<-server.requests
		}
	})
}

// A broker over its quota answers at once and is silent afterwards.
func TestReceiveAllowsForThrottle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newServer(t, 11)
		conn := dial(t, "broker:9092", server.dialer, wire.Config{Timeout: time.Second})
		const throttle = 30 * time.Second
		done := make(chan struct{})
		go func() {
			defer close(done)
			for request := range server.requests {
				if server.answer(request, emptyAnswer(int32(throttle.Milliseconds()))) != nil {
					return
				}
				time.Sleep(throttle)
			}
		}()
		for range 3 {
			if resp, err := fetch(t, conn, wire.Request{Topic: "t"}); err != nil || resp.Throttle != throttle {
				t.Fatalf("got %+v, %v", resp, err)
			}
		}
		_ = conn.Close()
		<-done
	})
}

// An answer may take long over a slow link that it shares with others, as long as it comes.
func TestReceiveSlowly(t *testing.T) {
	for _, c := range []struct {
		name    string
		perRead int
		want    error
		within  time.Duration
	}{
		{"a slow link", 8 << 10, nil, time.Hour},
		{"hardly anything", 100, os.ErrDeadlineExceeded, 15 * time.Second},
		{"nothing more", 0, os.ErrDeadlineExceeded, 15 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := newServer(t, 11)
				conn := dial(t, "broker:9092", server.dialer, wire.Config{})
				var batch wire.Encoder
				batch.Append(&holdfast.Message{Value: make([]byte, 1<<20)}, 0)
				if err := batch.Seal(0); err != nil {
					t.Fatal(err)
				}
				batch.Stamp(-1, -1, -1)
				answer := emptyAnswer(0)
				answer.Topics[0].Partitions[0].RecordBatches = batch.Bytes()
				if err := conn.Send(wire.Request{Topic: "t", MaxBytes: 2 << 20}); err != nil {
					t.Fatal(err)
				}
				frame := frame(<-server.requests, answer)
				done := make(chan struct{})
				go func() {
					defer close(done)
					for n := 4 << 10; len(frame) > 0; n = min(c.perRead, len(frame)) {
						if _, err := server.conn.Write(frame[:n]); err != nil {
							return
						}
						frame = frame[n:]
						time.Sleep(time.Second)
					}
				}()
				began := time.Now()
				resp, err := receive(t, conn)
				if !errors.Is(err, c.want) || err == nil && len(resp.Messages) != 1 {
					t.Errorf("%d messages, %v, want %v", len(resp.Messages), err, c.want)
				}
				if took := time.Since(began); took > c.within {
					t.Errorf("took %v", took)
				}
				_ = conn.Close()
				<-done
			})
		})
	}
}

func TestHostileAnswer(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer []byte // size and correlation id included
		want   string
	}{
		{"size over the limit", []byte{0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 1}, "2147483643 bytes"},
		{"negative size", []byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1}, "-5 bytes"},
		{"size below its own header", []byte{0, 0, 0, 3, 0, 0, 0, 1}, "-1 bytes"},
		{"another request's id", []byte{0, 0, 0, 4, 0, 0, 0, 9}, "request 9"},
		{"ends early", []byte{0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0}, "malformed"},
		{"cut off", []byte{0, 0, 1, 0, 0, 0, 0, 1, 0, 0}, "unexpected EOF"},
		{"claims much, sends little", []byte{0x07, 0xff, 0xff, 0xff, 0, 0, 0, 1, 0, 0}, "unexpected EOF"},
		{"nothing", nil, "EOF"},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := newServer(t, 11)
			conn := dial(t, "broker:9092", server.dialer, wire.Config{})
			if err := conn.Send(wire.Request{Topic: "t"}); err != nil {
				t.Fatal(err)
			}
			<-server.requests
			go func() {
				_, _ = server.conn.Write(c.answer)
				_ = server.conn.Close()
			}()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := conn.Receive(t.Context())
			runtime.ReadMemStats(&after)
			if took := after.TotalAlloc - before.TotalAlloc; took > 8<<20 {
				t.Errorf("took %d bytes of memory", took)
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
			if again := conn.Send(wire.Request{Topic: "t"}); again == nil || again.Error() != err.Error() {
				t.Errorf("send afterwards: got %v, want %v", again, err)
			}
		})
	}
}

func TestRequestRefused(t *testing.T) {
	addr := startCluster(t)
	conn := dial(t, addr, kafka.Dialer{}, wire.Config{MaxBytes: 1 << 20})
	for field, req := range map[string]wire.Request{
		"Topic":     {},
		"Partition": {Topic: "t", Partition: -1},
		"Offset":    {Topic: "t", Offset: -1},
		"MaxWait":   {Topic: "t", MaxWait: -1},
		"MaxBytes":  {Topic: "t", MaxBytes: 2 << 20},
	} {
		if err := conn.Send(req); err == nil || !strings.Contains(err.Error(), "Request."+field) {
			t.Errorf("%s: got %v", field, err)
		}
	}
	if got := readAll(t, conn, wire.Request{Topic: "orders"}, 0); got != nil {
		t.Errorf("got %v", got)
	}
	if _, err := fetch(t, conn, wire.Request{Topic: "orders"}); err != nil {
		t.Errorf("after the refusals: %v", err)
	}
}

func TestConfigRefused(t *testing.T) {
	err := wire.Config{Timeout: -1, MaxBytes: -1}.Validate()
	for _, field := range []string{"Config.Timeout", "Config.MaxBytes"} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("got %v, want %s named", err, field)
		}
	}
	if err := (wire.Config{}).Validate(); err != nil {
		t.Errorf("zero value: %v", err)
	}
}
