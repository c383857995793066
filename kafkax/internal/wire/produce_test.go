package wire_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdfast-io/holdfast/kafkax/internal/wire"
)

// broker answers requests at the other end of a pipe; nil answers are not given. As long as it throttles it reads nothing.
func broker(t *testing.T, version int16, answer func(kmsg.Request) kmsg.Response) *kafka.Dialer {
	t.Helper()
	client, conn := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer conn.Close()
		for {
			var size [4]byte
			if _, err := io.ReadFull(conn, size[:]); err != nil {
				return
			}
			frame := make([]byte, binary.BigEndian.Uint32(size[:]))
			if _, err := io.ReadFull(conn, frame); err != nil {
				return
			}
			request := kmsg.RequestForKey(int16(binary.BigEndian.Uint16(frame)))
			request.SetVersion(int16(binary.BigEndian.Uint16(frame[2:])))
			id := frame[4:8]
			if err := request.ReadFrom(frame[10+binary.BigEndian.Uint16(frame[8:]):]); err != nil {
				t.Errorf("request: %v", err)
				return
			}
			var response kmsg.Response
			if _, ok := request.(*kmsg.ApiVersionsRequest); ok {
				versions := kmsg.NewPtrApiVersionsResponse()
				versions.ApiKeys = []kmsg.ApiVersionsResponseApiKey{
					{ApiKey: kmsg.Produce.Int16(), MaxVersion: version}, {ApiKey: kmsg.InitProducerID.Int16(), MaxVersion: version},
				}
				response = versions
			} else if response = answer(request); response == nil {
				continue
			}
			response.SetVersion(request.GetVersion())
			body := response.AppendTo(slices.Clone(id))
			if _, err := conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)); err != nil {
				return
			}
			if produced, ok := response.(*kmsg.ProduceResponse); ok {
				time.Sleep(time.Duration(produced.ThrottleMillis) * time.Millisecond)
			}
		}
	}()
	t.Cleanup(func() {
		_ = conn.Close()
		<-done
	})
	return &kafka.Dialer{DialFunc: func(context.Context, string, string) (net.Conn, error) { return client, nil }}
}

// request sends parts to a broker and returns the error of each.
func request(t *testing.T, d *kafka.Dialer, parts ...wire.ProducePart) []error {
	t.Helper()
	conn, err := wire.DialProduce(t.Context(), d, "tcp", "broker:9092", 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error)
	go func() { served <- conn.Serve(func() {}) }()
	answers := make([]chan error, len(parts))
	for i := range parts {
		answers[i] = make(chan error, 1)
		parts[i].Answer = answers[i]
	}
	if err := conn.Send(time.Second, slices.Clone(parts)); err != nil {
		t.Fatal(err)
	}
	errs := make([]error, len(parts))
	for i := range errs {
		errs[i] = <-answers[i]
	}
	_ = conn.Close()
	if err := <-served; err == nil {
		t.Error("Serve ended without an error")
	}
	if err := conn.Send(time.Second, parts); !errors.Is(err, net.ErrClosed) && errs[0] == nil {
		t.Errorf("Send on a closed Conn: %v", err)
	}
	return errs
}

func TestProduceRequest(t *testing.T) {
	for version := int16(3); version <= 9; version++ {
		synctest.Test(t, func(t *testing.T) {
			dialer := broker(t, version, func(request kmsg.Request) kmsg.Response {
				r := request.(*kmsg.ProduceRequest)
				if r.Version != min(version, 8) || r.Acks != -1 || r.TransactionID != nil || r.TimeoutMillis != 1000 {
					t.Errorf("version %d: %+v", version, r)
				}
				response := r.ResponseKind().(*kmsg.ProduceResponse)
				for _, topic := range slices.Backward(r.Topics) { // In another order.
					answer := kmsg.ProduceResponseTopic{Topic: topic.Topic}
					for _, p := range slices.Backward(topic.Partitions) {
						part := kmsg.NewProduceResponseTopicPartition()
						part.Partition = p.Partition
						if string(p.Records) == "refused" {
							text := "because"
							part.ErrorCode, part.ErrorMessage = 87, &text
							part.ErrorRecords = []kmsg.ProduceResponseTopicPartitionErrorRecord{{RelativeOffset: 1, ErrorMessage: &text}}
						}
						answer.Partitions = append(answer.Partitions, part)
					}
					response.Topics = append(response.Topics, answer)
				}
				return response
			})
			errs := request(t, dialer,
				wire.ProducePart{Topic: "b", Partition: 1, Records: []byte("one")},
				wire.ProducePart{Topic: "a", Partition: 1, Records: make([]byte, 100_000)},
				wire.ProducePart{Topic: "b", Partition: 2, Records: []byte("refused")},
			)
			if errs[0] != nil || errs[1] != nil || !errors.Is(errs[2], kafka.Error(87)) {
				t.Errorf("version %d: %v", version, errs)
			}
		})
	}
}

func TestProduceUncertain(t *testing.T) {
	part := wire.ProducePart{Topic: "a", Records: []byte("x")}
	for name, answer := range map[string]func(kmsg.Request) kmsg.Response{
		"no answer":                       func(kmsg.Request) kmsg.Response { return nil },
		"an answer without the partition": func(r kmsg.Request) kmsg.Response { return r.ResponseKind() },
		"an answer for another partition": func(r kmsg.Request) kmsg.Response {
			response := r.ResponseKind().(*kmsg.ProduceResponse)
			response.Topics = []kmsg.ProduceResponseTopic{{Topic: "a", Partitions: []kmsg.ProduceResponseTopicPartition{{Partition: 1}}}}
			return response
		},
		"an answer with the partition twice": func(r kmsg.Request) kmsg.Response {
			response := r.ResponseKind().(*kmsg.ProduceResponse)
			response.Topics = []kmsg.ProduceResponseTopic{{Topic: "a", Partitions: []kmsg.ProduceResponseTopicPartition{{ErrorCode: 6}, {}}}}
			return response
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				if errs := request(t, broker(t, 8, answer), part); !errors.Is(errs[0], wire.ErrUncertain) {
					t.Errorf("got %v", errs[0])
				}
				if took := time.Since(began); took > 5*time.Second {
					t.Errorf("took %v", took)
				}
			})
		})
	}
}

// TestProduceHostileAnswer has a broker say what answers no request.
func TestProduceHostileAnswer(t *testing.T) {
	request := []byte{0, 0, 0, 8, 0, 0, 0, 1} // kind, version, correlation id
	response := kmsg.NewPtrProduceResponse()
	response.Topics = []kmsg.ProduceResponseTopic{{Topic: "a", Partitions: []kmsg.ProduceResponseTopicPartition{{}}}}
	whole := frame(request, response)
	request[7] = 9
	other := frame(request, response)
	short := slices.Clone(whole[:len(whole)-1])
	short[3]--
	for _, c := range []struct {
		name   string
		answer []byte
		want   error
	}{
		{"an answer", whole, nil},
		{"the same once more", slices.Concat(whole, whole), nil},
		{"an answer to another request", other, wire.ErrUncertain},
		{"an answer that ends early", short, wire.ErrUncertain},
		{"an answer that is cut off", whole[:len(whole)-1], wire.ErrUncertain},
		{"a size that none has", []byte{0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 1}, wire.ErrUncertain},
		{"a size below 0", []byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1}, wire.ErrUncertain},
		{"a count without what it counts", []byte{0, 0, 0, 8, 0, 0, 0, 1, 0x7f, 0xff, 0xff, 0xff}, wire.ErrUncertain},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := newServer(t, 8)
				conn, err := wire.DialProduce(t.Context(), &server.dialer, "tcp", "broker:9092", 5*time.Second)
				if err != nil {
					t.Fatal(err)
				}
				served := make(chan error, 1)
				go func() { served <- conn.Serve(func() {}) }()
				answer := make(chan error, 1)
				part := wire.ProducePart{Topic: "a", Records: []byte("x"), Answer: answer}
				if err := conn.Send(time.Second, []wire.ProducePart{part}); err != nil {
					t.Fatal(err)
				}
				<-server.requests
				_, _ = server.conn.Write(c.answer) // As far as it is read.
				_ = server.conn.Close()
				if err := <-answer; !errors.Is(err, c.want) {
					t.Errorf("got %v, want %v", err, c.want)
				}
				if err := <-served; err == nil {
					t.Error("Serve ended without an error")
				}
				if err := conn.Send(time.Second, []wire.ProducePart{part}); err == nil || len(answer) > 0 {
					t.Errorf("Send afterwards: %v, %d answers", err, len(answer))
				}
			})
		})
	}
}

// TestProduceIdle waits for long between two requests.
func TestProduceIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dialer := broker(t, 8, func(request kmsg.Request) kmsg.Response {
			response := request.ResponseKind().(*kmsg.ProduceResponse)
			response.Topics = []kmsg.ProduceResponseTopic{{Topic: "a", Partitions: []kmsg.ProduceResponseTopicPartition{{}}}}
			response.ThrottleMillis = 1000
			return response
		})
		conn, err := wire.DialProduce(t.Context(), dialer, "tcp", "broker:9092", 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		answered := 0
		served := make(chan error)
		go func() { served <- conn.Serve(func() { answered++ }) }()
		for range 3 {
			answer := make(chan error, 1)
			if err := conn.Send(time.Second, []wire.ProducePart{{Topic: "a", Records: []byte("x"), Answer: answer}}); err != nil {
				t.Fatal(err)
			}
			if err := <-answer; err != nil {
				t.Error(err)
			}
			time.Sleep(time.Hour)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		if err := <-served; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Serve: %v", err)
		}
		if answered != 3 {
			t.Errorf("%d answers", answered)
		}
	})
}

func TestProduceThrottled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const throttle, timeout = 30 * time.Second, 5 * time.Second
		answers := 2
		dialer := broker(t, 8, func(request kmsg.Request) kmsg.Response {
			if answers--; answers < 0 {
				return nil
			}
			response := request.ResponseKind().(*kmsg.ProduceResponse)
			response.Topics = []kmsg.ProduceResponseTopic{{Topic: "a", Partitions: []kmsg.ProduceResponseTopicPartition{{}}}}
			response.ThrottleMillis = int32(throttle.Milliseconds())
			return response
		})
		conn, err := wire.DialProduce(t.Context(), dialer, "tcp", "broker:9092", timeout)
		if err != nil {
			t.Fatal(err)
		}
		served := make(chan error, 1)
		go func() { served <- conn.Serve(func() {}) }()
		send := func() error {
			answer := make(chan error, 1)
			if err := conn.Send(time.Second, []wire.ProducePart{{Topic: "a", Records: make([]byte, 100_000), Answer: answer}}); err != nil {
				t.Fatal(err)
			}
			return <-answer
		}
		for i := range 2 {
			if err := send(); err != nil {
				t.Fatalf("request %d: %v", i, err)
			}
		}
		time.Sleep(2 * throttle)
		began := time.Now()
		if err := send(); !errors.Is(err, wire.ErrUncertain) {
			t.Errorf("got %v, want no answer", err)
		}
		if took := time.Since(began); took > timeout {
			t.Errorf("without an answer for %v, long after the broker throttled", took)
		}
		if err := <-served; err == nil {
			t.Error("Serve ended without an error")
		}
	})
}

// lateConn reads on from what is long until it is told to end, as a Write may that is under way when the Conn is closed.
type lateConn struct {
	net.Conn
	end chan struct{}
}

func (c lateConn) Write(b []byte) (int, error) {
	if len(b) > 50_000 {
		<-c.end
	}
	return c.Conn.Write(b)
}

// TestProduceSending loses a request that is being sent: whoever hears of it may use the records' memory again.
func TestProduceSending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dialer := broker(t, 8, nil)
		dialled, end := dialer.DialFunc, make(chan struct{})
		dialer.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dialled(ctx, network, addr)
			return lateConn{conn, end}, err
		}
		conn, err := wire.DialProduce(t.Context(), dialer, "tcp", "broker:9092", 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		answer, served := make(chan error, 1), make(chan error)
		go func() { served <- conn.Serve(func() {}) }()
		sent := make(chan error)
		go func() {
			sent <- conn.Send(time.Second, []wire.ProducePart{{Topic: "a", Records: make([]byte, 100_000), Answer: answer}})
		}()
		time.Sleep(time.Minute)
		select {
		case err := <-answer:
			t.Errorf("got %v while the records are still read", err)
		default:
		}
		close(end)
		if err := <-sent; err != nil {
			t.Errorf("Send: %v", err)
		}
		if err := <-served; err == nil {
			t.Error("Serve ended without an error")
		}
		if err := <-answer; !errors.Is(err, wire.ErrUncertain) {
			t.Errorf("got %v", err)
		}
	})
}

func TestInitProducerID(t *testing.T) {
	for version := range int16(3) {
		synctest.Test(t, func(t *testing.T) {
			dialer := broker(t, version, func(request kmsg.Request) kmsg.Response {
				if r := request.(*kmsg.InitProducerIDRequest); r.TransactionalID != nil {
					t.Errorf("transactional id %q", *r.TransactionalID)
				}
				response := request.ResponseKind().(*kmsg.InitProducerIDResponse)
				response.ProducerID, response.ProducerEpoch = 7, 3
				return response
			})
			if id, epoch, err := wire.InitProducerID(t.Context(), dialer, "tcp", "broker:9092", time.Second); id != 7 || epoch != 3 || err != nil {
				t.Errorf("version %d: %d, %d, %v", version, id, epoch, err)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		dialer := broker(t, 1, func(request kmsg.Request) kmsg.Response {
			response := request.ResponseKind().(*kmsg.InitProducerIDResponse)
			response.ErrorCode = int16(kafka.ClusterAuthorizationFailed)
			return response
		})
		if _, _, err := wire.InitProducerID(t.Context(), dialer, "tcp", "broker:9092", time.Second); !errors.Is(err, kafka.ClusterAuthorizationFailed) {
			t.Errorf("denied: %v", err)
		}
		mute := broker(t, 1, func(kmsg.Request) kmsg.Response { return nil })
		began := time.Now()
		if _, _, err := wire.InitProducerID(t.Context(), mute, "tcp", "broker:9092", time.Second); err == nil || time.Since(began) > time.Second {
			t.Errorf("no answer: %v after %v", err, time.Since(began))
		}
	})
}
