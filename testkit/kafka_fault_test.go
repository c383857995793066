package testkit_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdfast-io/holdfast/testkit"
)

func oneTopic() testkit.KafkaConfig {
	return testkit.KafkaConfig{Topics: map[string]int{"t": 2, "u": 1}}
}

// Which requests a fault strikes does not depend on what it does to them.
func TestFaultSelects(t *testing.T) {
	everywhere(t, oneTopic(), func(t *testing.T, b *broker) {
		for name, f := range map[string]testkit.Fault{
			"code": {Code: int16(kafka.NotEnoughReplicas)},
			"cut":  {Cut: true},
		} {
			f.API, f.Topic, f.Partitions, f.Nth, f.Times = testkit.APIProduce, "t", []int{1}, 2, 2
			defer b.Inject(f)()
			ends := b.Ends("t")
			for i, try := range []struct {
				topic     string
				partition int
				ok        bool
			}{
				{"t", 1, true}, // The first of the selected.
				{"t", 0, true}, // Another partition.
				{"u", 0, true}, // Another topic.
				{"t", 1, false},
				{"t", 0, true},
				{"t", 1, false},
				{"t", 1, true},
			} {
				err := b.produce(t, try.topic, try.partition, "x")
				if (err == nil) != try.ok || f.Code != 0 && err != nil && !errors.Is(err, kafka.NotEnoughReplicas) {
					t.Errorf("%s: try %d to %s/%d: error %v, want success %t", name, i, try.topic, try.partition, err, try.ok)
				}
			}
			if got := b.Ends("t"); got[0] != ends[0]+2 || got[1] != ends[1]+2 {
				t.Errorf("%s: the log grew from %v to %v, want 2 more in each", name, ends, got)
			}
		}
	})
}

// A request about many partitions is one request.
func TestFaultCountsRequests(t *testing.T) {
	everywhere(t, oneTopic(), func(t *testing.T, b *broker) {
		commit := func() error {
			response, err := b.client.OffsetCommit(t.Context(), &kafka.OffsetCommitRequest{
				GroupID: "g", GenerationID: -1, Topics: map[string][]kafka.OffsetCommit{"t": {{Partition: 0}, {Partition: 1}}},
			})
			return cmpOr(err, func() error { return errors.Join(response.Topics["t"][0].Error, response.Topics["t"][1].Error) })
		}
		for name, f := range map[string]testkit.Fault{"code": {Code: int16(kafka.NotCoordinatorForGroup)}, "cut": {Cut: true}} {
			f.API, f.Nth = testkit.APIOffsetCommit, 3
			defer b.Inject(f)()
			for i, ok := range []bool{true, true, false, true} {
				if err := commit(); (err == nil) != ok {
					t.Errorf("%s: request %d: error %v, want success %t", name, i+1, err, ok)
				}
			}
		}
	})
}

// Where in the answer a code belongs differs from request to request.
func TestFaultCodeByAPI(t *testing.T) {
	everywhere(t, oneTopic(), func(t *testing.T, b *broker) {
		ctx := t.Context()
		if err := b.commit(t, "g", "t", 0, 1, ""); err != nil { // A group that is not there is refused before any fault.
			t.Fatal(err)
		}
		coordinatorOf := func(group string) error {
			r, err := b.client.FindCoordinator(ctx, &kafka.FindCoordinatorRequest{Key: group, KeyType: kafka.CoordinatorKeyTypeConsumer})
			return cmpOr(err, func() error { return r.Error })
		}
		calls := map[testkit.API]func() error{
			testkit.APIFetch: func() error {
				r, err := b.client.Fetch(ctx, &kafka.FetchRequest{Topic: "t", MaxWait: time.Millisecond})
				return cmpOr(err, func() error { return r.Error })
			},
			testkit.APIOffsetCommit: func() error { return b.commit(t, "g", "t", 0, 1, "") },
			testkit.APIOffsetFetch: func() error {
				r, err := b.client.OffsetFetch(ctx, &kafka.OffsetFetchRequest{GroupID: "g", Topics: map[string][]int{"t": {0}}})
				return cmpOr(err, func() error { return cmpOr(r.Error, func() error { return r.Topics["t"][0].Error }) })
			},
			testkit.APIListOffsets: func() error {
				r, err := b.client.ListOffsets(ctx, &kafka.ListOffsetsRequest{Topics: map[string][]kafka.OffsetRequest{"t": {kafka.FirstOffsetOf(0)}}})
				return cmpOr(err, func() error { return r.Topics["t"][0].Error })
			},
			testkit.APIMetadata: func() error {
				// A connection of its own, as the client's metadata comes from a cache.
				_, err := b.conn(t).ReadPartitions("t")
				return err
			},
			testkit.APIFindCoordinator: func() error { return coordinatorOf("g") },
			testkit.APIHeartbeat: func() error {
				r := &kmsg.HeartbeatRequest{Version: 3, Group: "g", MemberID: "m"}
				return kafkaError(ask(t, b, r).(*kmsg.HeartbeatResponse).ErrorCode)
			},
			testkit.APIJoinGroup: func() error {
				r, err := b.client.JoinGroup(ctx, &kafka.JoinGroupRequest{
					GroupID: "g", SessionTimeout: 10 * time.Second, RebalanceTimeout: time.Second, ProtocolType: "consumer",
					Protocols: []kafka.GroupProtocol{{Name: "range", Metadata: kafka.GroupProtocolSubscription{Topics: []string{"t"}}}},
				})
				return cmpOr(err, func() error { return r.Error })
			},
			testkit.APISyncGroup: func() error {
				r := &kmsg.SyncGroupRequest{Version: 3, Group: "g", MemberID: "m"}
				return kafkaError(ask(t, b, r).(*kmsg.SyncGroupResponse).ErrorCode)
			},
			testkit.APILeaveGroup: func() error {
				r := &kmsg.LeaveGroupRequest{Version: 2, Group: "g", MemberID: "m"}
				return kafkaError(ask(t, b, r).(*kmsg.LeaveGroupResponse).ErrorCode)
			},
			testkit.APIInitProducerID: func() error {
				r, err := b.client.InitProducerID(ctx, &kafka.InitProducerIDRequest{ProducerID: -1, ProducerEpoch: -1})
				return cmpOr(err, func() error { return r.Error })
			},
			testkit.APICreateTopics: func() error {
				r, err := b.client.CreateTopics(ctx, &kafka.CreateTopicsRequest{Topics: []kafka.TopicConfig{{Topic: "new", NumPartitions: 1, ReplicationFactor: 1}}})
				return cmpOr(err, func() error { return r.Errors["new"] })
			},
		}
		for api, call := range calls {
			remove := b.Inject(testkit.Fault{API: api, Times: -1, Code: int16(kafka.ClusterAuthorizationFailed)})
			if err := call(); !errors.Is(err, kafka.ClusterAuthorizationFailed) {
				t.Errorf("%s: error %v, want ClusterAuthorizationFailed", api, err)
			}
			remove()
			remove()
			if err := call(); errors.Is(err, kafka.ClusterAuthorizationFailed) {
				t.Errorf("%s: the fault is still there after its removal", api)
			}
		}
	})
}

// ask sends a request that kafka-go v0.4.51 does not speak well: it takes the error code of Heartbeat and LeaveGroup for
// the throttle time, and does not read SyncGroup's null protocol type.
func ask(t *testing.T, b *broker, r kmsg.Request) kmsg.Response {
	t.Helper()
	conn, err := b.dial(t.Context(), "tcp", b.Addrs()[0])
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := conn.Write(kmsg.NewRequestFormatter().AppendRequest(nil, r, 1)); err != nil {
		t.Fatal(err)
	}
	frame := make([]byte, 4)
	if _, err := io.ReadFull(conn, frame); err != nil {
		t.Fatal(err)
	}
	frame = make([]byte, binary.BigEndian.Uint32(frame))
	if _, err := io.ReadFull(conn, frame); err != nil {
		t.Fatal(err)
	}
	response := r.ResponseKind()
	if err := response.ReadFrom(frame[4:]); err != nil {
		t.Fatal(err)
	}
	return response
}

func kafkaError(code int16) error {
	if code == 0 {
		return nil
	}
	return kafka.Error(code)
}

func cmpOr(err error, then func() error) error {
	if err != nil {
		return err
	}
	return then()
}

func TestFaultCodeAfterTheWork(t *testing.T) {
	everywhere(t, oneTopic(), func(t *testing.T, b *broker) {
		b.Inject(testkit.Fault{API: testkit.APIProduce, Code: int16(kafka.RequestTimedOut)})
		if err := b.produce(t, "t", 0, "x"); !errors.Is(err, kafka.RequestTimedOut) {
			t.Errorf("error %v, want RequestTimedOut", err)
		}
		wantValues(t, b, "t", "0/0=x")
	})
}

func TestFaultLoseAck(t *testing.T) {
	everywhere(t, oneTopic(), func(t *testing.T, b *broker) {
		b.Inject(testkit.Fault{API: testkit.APIProduce, LoseAck: true})
		b.Inject(testkit.Fault{API: testkit.APIOffsetCommit, LoseAck: true})
		if err := b.produce(t, "t", 0, "x"); err == nil {
			t.Error("the answer was not lost")
		}
		wantValues(t, b, "t", "0/0=x")
		if err := b.produce(t, "t", 0, "y"); err != nil {
			t.Errorf("the fault struck twice: %v", err)
		}
		if err := b.commit(t, "g", "t", 0, 7, ""); err == nil {
			t.Error("the answer was not lost")
		}
		if got := b.Committed("g", "t"); got[0] != 7 {
			t.Errorf("committed %v, want 7", got)
		}
		if got := b.Commits(); len(got) != 1 || got[0].Offset != 7 {
			t.Errorf("commits %v, want one of offset 7", got)
		}
	})
}

func TestFaultCut(t *testing.T) {
	everywhere(t, oneTopic(), func(t *testing.T, b *broker) {
		b.Inject(testkit.Fault{API: testkit.APIProduce, Cut: true, Nth: 2, Times: 2})
		var failed []bool
		for range 4 {
			failed = append(failed, b.produce(t, "t", 0, "x") != nil)
		}
		if want := []bool{false, true, true, false}; !slices.Equal(failed, want) {
			t.Errorf("failed %v, want %v", failed, want)
		}
		wantValues(t, b, "t", "0/0=x", "0/1=x")
	})
}

func TestFaultHang(t *testing.T) {
	everywhere(t, oneTopic(), func(t *testing.T, b *broker) {
		remove := b.Inject(testkit.Fault{API: testkit.APIProduce, Hang: true})
		b.client.Timeout = 200 * time.Millisecond
		if err := b.produce(t, "t", 0, "late"); !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("error %v, want a timeout", err)
		}
		wantValues(t, b, "t")
		if err := b.produce(t, "t", 0, "next"); err != nil {
			t.Error(err)
		}
		remove()
		until(t, "the late request is served", func() bool { return b.Ends("t")[0] == 2 })
		wantValues(t, b, "t", "0/0=next", "0/1=late")
	})
}

func TestFaultHangEndsAtStop(t *testing.T) {
	everywhere(t, oneTopic(), func(t *testing.T, b *broker) {
		remove := b.Inject(testkit.Fault{API: testkit.APIProduce, Hang: true})
		produced := make(chan error, 1)
		go func() { produced <- b.produce(t, "t", 0, "forgotten") }()
		until(t, "the request hangs", func() bool { return b.Requests(testkit.APIProduce) == 1 })
		b.Stop()
		if err := <-produced; err == nil {
			t.Error("a request that hung at Stop was answered")
		}
		remove()
		if err := b.Start(); err != nil {
			t.Fatal(err)
		}
		until(t, "the client is back", func() bool { return b.produce(t, "t", 0, "x") == nil })
		wantValues(t, b, "t", "0/0=x")
	})
}

func TestFaultByGroup(t *testing.T) {
	everywhere(t, oneTopic(), func(t *testing.T, b *broker) {
		for name, f := range map[string]testkit.Fault{
			"code": {API: testkit.APIOffsetCommit, Group: "bad", Code: int16(kafka.GroupCoordinatorNotAvailable), Times: -1},
			"cut":  {API: testkit.APIOffsetCommit, Group: "bad", Topic: "t", Partitions: []int{0}, Cut: true, Times: -1},
		} {
			remove := b.Inject(f)
			if err := b.commit(t, "good", "t", 0, 1, ""); err != nil {
				t.Errorf("%s: another group: %v", name, err)
			}
			if err := b.commit(t, "bad", "t", 0, 1, ""); err == nil {
				t.Errorf("%s: the group committed", name)
			}
			remove()
		}
		if got := b.Committed("bad", "t"); len(got) != 0 {
			t.Errorf("committed %v, want nothing", got)
		}
	})
}

// A producer that wants no acknowledgement gets none, and is not kept waiting.
func TestFaultWithoutAcks(t *testing.T) {
	everywhere(t, oneTopic(), func(t *testing.T, b *broker) {
		b.Inject(testkit.Fault{API: testkit.APIProduce, LoseAck: true})
		w := &kafka.Writer{Addr: b.client.Addr, Transport: b.client.Transport, Topic: "u", RequiredAcks: kafka.RequireNone, BatchTimeout: time.Millisecond}
		for range 3 {
			if err := w.WriteMessages(t.Context(), kafka.Message{Value: []byte("x")}); err != nil {
				t.Error(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		until(t, "the messages are in the log", func() bool { return b.Ends("u")[0] == 3 })
	})
}

// The test's own reads and writes meet no fault.
func TestFaultSparesTheTest(t *testing.T) {
	everywhere(t, testkit.KafkaConfig{Topics: map[string]int{"t": 1}}, func(t *testing.T, b *broker) {
		b.Inject(testkit.Fault{Code: int16(kafka.RequestTimedOut), Times: -1})
		b.Inject(testkit.Fault{Cut: true, Times: -1})
		b.Stop()
		if err := b.Produce(t.Context(), message("t", 0, "x")); err != nil {
			t.Error(err)
		}
		if err := b.AddPartitions("t", 1); err != nil {
			t.Error(err)
		}
		wantValues(t, b, "t", "0/0=x")
	})
}

func TestFaultTheOldestStrikes(t *testing.T) {
	everywhere(t, oneTopic(), func(t *testing.T, b *broker) {
		b.Inject(testkit.Fault{API: testkit.APIProduce, Cut: true})
		b.Inject(testkit.Fault{API: testkit.APIProduce, LoseAck: true, Nth: 2})
		for i, want := range []int64{0, 1, 2} { // Cut, then served without an answer, then served.
			if err := b.produce(t, "t", 0, "x"); (err == nil) != (i == 2) {
				t.Errorf("request %d: error %v", i, err)
			}
			if got := b.Ends("t")[0]; got != want {
				t.Errorf("after request %d the log ends at %d, want %d", i, got, want)
			}
		}
	})
}

func TestRequests(t *testing.T) {
	everywhere(t, oneTopic(), func(t *testing.T, b *broker) {
		b.Inject(testkit.Fault{API: testkit.APIProduce, Cut: true})
		for range 3 {
			_ = b.produce(t, "t", 0, "x") // The first one is cut, and counts.
		}
		if got := b.Requests(testkit.APIProduce); got != 3 {
			t.Errorf("%d Produce requests, want 3", got)
		}
		if got := b.Requests(testkit.APIHeartbeat); got != 0 {
			t.Errorf("%d Heartbeat requests, want none", got)
		}
		if got := b.Requests("Nonsense"); got != 0 {
			t.Errorf("%d Nonsense requests, want none", got)
		}
		if got := b.Requests(""); got <= 3 {
			t.Errorf("%d requests, want more than the 3 Produce", got)
		}
	})
}

func TestFaultValidate(t *testing.T) {
	for want, f := range map[string]testkit.Fault{
		`Fault.API must be the name of a Kafka request, got "Prduce"`:       {API: "Prduce", Cut: true},
		`Fault.Partitions must come with a Topic, got [1]`:                  {Partitions: []int{1}, Cut: true},
		`Fault.Nth must not be negative, got -1`:                            {Nth: -1, Cut: true},
		`Fault.Times must be -1 or more, got -2`:                            {Times: -2, Cut: true},
		`must be set one at a time, got 0 of them`:                          {},
		`must be set one at a time, got 2 of them`:                          {Cut: true, Code: 7},
		`Fault.Code must be an error code of the Kafka protocol, got 30000`: {Code: 30000},
		`Fault.API must be the name of a Kafka request, got "Unknown"`:      {API: "Unknown", Cut: true},
	} {
		if err := f.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: error %v, want %q", f, err, want)
		}
	}
	for _, f := range []testkit.Fault{{Cut: true}, {Code: -1}, {API: testkit.APIEndTxn, Hang: true, Times: -1}} {
		if err := f.Validate(); err != nil {
			t.Errorf("%+v: %v", f, err)
		}
	}
	defer func() {
		if recover() == nil {
			t.Error("Inject took a fault that is none")
		}
	}()
	testkit.Kafka(t, testkit.KafkaConfig{}).Inject(testkit.Fault{})
}
