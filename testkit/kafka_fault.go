package testkit

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// API is a kind of Kafka request, by its name in the protocol.
type API string

// The requests that clients send most. Others are known by their names, too.
const (
	APIProduce            API = "Produce"
	APIFetch              API = "Fetch"
	APIListOffsets        API = "ListOffsets"
	APIMetadata           API = "Metadata"
	APIOffsetCommit       API = "OffsetCommit"
	APIOffsetFetch        API = "OffsetFetch"
	APIFindCoordinator    API = "FindCoordinator"
	APIJoinGroup          API = "JoinGroup"
	APISyncGroup          API = "SyncGroup"
	APIHeartbeat          API = "Heartbeat"
	APILeaveGroup         API = "LeaveGroup"
	APIApiVersions        API = "ApiVersions"
	APICreateTopics       API = "CreateTopics"
	APIDescribeConfigs    API = "DescribeConfigs"
	APIInitProducerID     API = "InitProducerID"
	APIAddPartitionsToTxn API = "AddPartitionsToTxn"
	APIAddOffsetsToTxn    API = "AddOffsetsToTxn"
	APITxnOffsetCommit    API = "TxnOffsetCommit"
	APIEndTxn             API = "EndTxn"
)

// key is the request's number in the protocol.
func (a API) key() (int16, bool) {
	for key := range int16(kmsg.MaxKey + 1) {
		if kmsg.RequestForKey(key) != nil && kmsg.NameForKey(key) == string(a) {
			return key, true
		}
	}
	return 0, false
}

// Fault is something that goes wrong with a request. Which request: API, Topic, Partitions and Group select, and Nth and
// Times count among the selected. What goes wrong: exactly one of Code, LoseAck, Cut and Hang.
//
// A fault with a Topic or a Group never strikes a request that names none. A request strikes no more than one fault, the
// oldest that is due; all others count it, though.
type Fault struct {
	API        API    // Zero: any request.
	Topic      string // Zero: any topic, or none.
	Partitions []int  // Of Topic. Nil: any.
	Group      string // Zero: any group, or none.

	Nth   int // The first request to strike, counted from Inject; 0 and 1 are the next one.
	Times int // How many requests in a row to strike. 0: one. -1: all, until removed.

	// Code is the error code of the protocol to answer with, for the selected topics, partitions or group; the rest of
	// the request is served. What it answers for is not done, but for the codes that tell so little in Kafka too: after
	// REQUEST_TIMED_OUT (7), and after NOT_ENOUGH_REPLICAS_AFTER_APPEND (20) to a Produce, it is done.
	Code int16

	// LoseAck serves the request, and cuts the connection instead of answering.
	LoseAck bool

	// Cut cuts the connection instead of serving the request.
	Cut bool

	// Hang keeps the request without an answer. When the fault is removed the request is served, late, whether its client
	// still waits or not.
	Hang bool
}

// Validate joins everything that is wrong with f.
func (f Fault) Validate() error {
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("testkit: Fault."+format, args...))
	}
	if _, known := f.API.key(); f.API != "" && !known {
		fault("API must be the name of a Kafka request, got %q", f.API)
	}
	if len(f.Partitions) > 0 && f.Topic == "" {
		fault("Partitions must come with a Topic, got %v", f.Partitions)
	}
	if f.Nth < 0 {
		fault("Nth must not be negative, got %d", f.Nth)
	}
	if f.Times < -1 {
		fault("Times must be -1 or more, got %d", f.Times)
	}
	effects := 0
	for _, set := range []bool{f.Code != 0, f.LoseAck, f.Cut, f.Hang} {
		if set {
			effects++
		}
	}
	if effects != 1 {
		fault("Code, LoseAck, Cut, Hang must be set one at a time, got %d of them", effects)
	}
	if f.Code != 0 && protocolError(f.Code) == nil {
		fault("Code must be an error code of the Kafka protocol, got %d", f.Code)
	}
	return errors.Join(faults...)
}

func protocolError(code int16) *kerr.Error {
	if known, ok := errors.AsType[*kerr.Error](kerr.ErrorForCode(code)); ok && known.Code == code {
		return known
	}
	return nil
}

// Inject makes f happen from now on, and returns a function that ends it, which may be called more than once. It panics
// when f is not valid, as that is a mistake in the test.
func (k *KafkaServer) Inject(f Fault) (remove func()) {
	if err := f.Validate(); err != nil {
		panic(err)
	}
	if f.Code != 0 {
		return k.answer(f)
	}
	return k.faults.add(f)
}

// answer leaves f to the emulator, which knows where in each response an error code belongs.
func (k *KafkaServer) answer(f Fault) (remove func()) {
	remove = func() {}
	_ = k.ask(func(c *kfake.Cluster) error {
		code := kfake.Fault{
			Topic: f.Topic, Group: f.Group, Err: protocolError(f.Code), Count: f.Times,
			When: skip(max(f.Nth, 1) - 1),
		}
		if key, ok := f.API.key(); ok {
			code.Keys = []kmsg.Key{kmsg.Key(key)}
		}
		for _, p := range f.Partitions {
			code.Partitions = append(code.Partitions, int32(p))
		}
		remove = c.Fault(code).Remove
		return nil
	})
	return remove
}

// skip makes a condition that passes over the first n requests, and over those of the test itself. It may be asked about
// the same request many times: for each of its partitions, and again when a fetch has waited.
func skip(n int) func(kmsg.Request) bool {
	passed := make(map[kmsg.Request]struct{}, n)
	return func(r kmsg.Request) bool {
		if fromBackdoor(r) {
			return false
		}
		if _, ok := passed[r]; ok {
			return false
		}
		if len(passed) == n {
			return true
		}
		passed[r] = struct{}{}
		return false
	}
}

// faults are those that strike connections.
type faults struct {
	mu       sync.Mutex
	requests map[int16]int
	armed    []*armed
}

// armed is a fault that may strike.
type armed struct {
	Fault
	wait    int           // Requests to let pass.
	left    int           // Requests to strike, -1 for all.
	removed chan struct{} // Closed at the end of the fault.
}

func (fs *faults) init() { fs.requests = make(map[int16]int) }

func (fs *faults) add(f Fault) (remove func()) {
	a := &armed{Fault: f, wait: max(f.Nth, 1) - 1, left: cmp.Or(f.Times, 1), removed: make(chan struct{})}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.armed = append(fs.armed, a)
	return sync.OnceFunc(func() {
		fs.mu.Lock()
		defer fs.mu.Unlock()
		fs.armed = slices.DeleteFunc(fs.armed, func(b *armed) bool { return a == b })
		close(a.removed)
	})
}

// strike counts a request, and returns the fault that strikes it, if one does.
func (fs *faults) strike(key int16, targets []target) *armed {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.requests[key]++
	var hit *armed
	for _, a := range fs.armed {
		switch {
		case !a.selects(key, targets):
		case a.wait > 0:
			a.wait--
		case hit == nil && a.left != 0:
			a.left = max(a.left-1, -1)
			hit = a
		}
	}
	return hit
}

// Requests returns how many requests of a kind clients have sent since the cluster's start, however they were answered.
// The zero API counts all.
func (k *KafkaServer) Requests(api API) int {
	k.faults.mu.Lock()
	defer k.faults.mu.Unlock()
	if key, ok := api.key(); ok {
		return k.faults.requests[key]
	}
	if api != "" {
		return 0
	}
	all := 0
	for n := range maps.Values(k.faults.requests) {
		all += n
	}
	return all
}
