package pipeline_test

import (
	"encoding/binary"
	"errors"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// tap is a member's connection, to which somebody listens: what is said to Kafka about offsets is checked when it is
// said, the member dies at the request that it is to die at, and while it is cut off nothing of what it says arrives.
type tap struct {
	net.Conn
	m     *member
	store bool // It leads to ClickHouse.

	closed  chan struct{}
	closing sync.Once
	out, in frames // The writer's, and the reader's.

	mu    sync.Mutex
	asked map[int32]kmsg.Request // By correlation id: those whose answers tell something.
	held  []byte                 // What was said while the member was cut off.
	holds bool
}

var errCrashed = errors.New("crashed")

func (t *tap) Write(p []byte) (int, error) {
	var d *doom
	if t.store {
		d = t.m.strikes("insert")
	} else {
		t.out.feed(p, func(frame []byte) {
			if hit := t.request(frame); hit != nil {
				d = hit
			}
		})
	}
	switch {
	case d != nil && d.served:
		n, err := t.send(p)
		t.m.die()
		return n, err
	case d != nil:
		t.m.die()
		return 0, errCrashed
	}
	return t.send(p)
}

// send passes p on, later if the member is cut off, and never if the connection is closed by then.
func (t *tap) send(p []byte) (int, error) {
	left := t.m.cutOff()
	t.mu.Lock()
	defer t.mu.Unlock()
	if left <= 0 && !t.holds {
		n, err := t.Conn.Write(p)
		t.collect(err)
		return n, err
	}
	t.held = append(t.held, p...)
	if !t.holds {
		t.holds = true
		go t.release(left)
	}
	return len(p), nil
}

func (t *tap) release(after time.Duration) {
	timer := time.NewTimer(after)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.closed:
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	_, err := t.Conn.Write(t.held) // Who waits for the answer will see that there is none.
	t.collect(err)
	t.held, t.holds = nil, false
}

// collect closes a connection to ClickHouse that has failed. clickhouse-go v2.50 forgets one without closing it when a
// handshake fails, and after EPIPE; a real one is then closed by the garbage collector.
func (t *tap) collect(err error) {
	if err != nil && t.store {
		_ = t.Close()
	}
}

func (t *tap) Read(p []byte) (int, error) {
	n, err := t.Conn.Read(p)
	if t.store {
		t.collect(err)
		return n, err
	}
	t.in.feed(p[:n], t.response)
	if err != nil {
		t.m.says.lost(t)
	}
	return n, err
}

func (t *tap) Close() error {
	t.closing.Do(func() {
		close(t.closed)
		t.m.says.lost(t)
		t.m.forget(t)
	})
	return t.Conn.Close()
}

// request looks at what is asked, and says whether the member is to die of it.
func (t *tap) request(frame []byte) *doom {
	r := kbin.Reader{Src: frame}
	key, version, id := r.Int16(), r.Int16(), r.Int32()
	switch kmsg.Key(key) {
	case kmsg.OffsetCommit, kmsg.OffsetFetch, kmsg.SyncGroup:
		r.NullableString() // The client's name.
		request := kmsg.RequestForKey(key)
		request.SetVersion(version)
		if request.IsFlexible() {
			kmsg.SkipTags(&r)
		}
		if err := request.ReadFrom(r.Src); err != nil {
			t.m.w.t.Errorf("%s: %v", kmsg.NameForKey(key), err)
		}
		t.mu.Lock()
		t.asked[id] = request
		t.mu.Unlock()
		t.m.says.ask(t, request)
	default:
	}
	return t.m.strikes(kmsg.NameForKey(key))
}

func (t *tap) response(frame []byte) {
	r := kbin.Reader{Src: frame}
	id := r.Int32()
	t.mu.Lock()
	request, ok := t.asked[id]
	delete(t.asked, id)
	t.mu.Unlock()
	if !ok {
		return
	}
	response := request.ResponseKind()
	response.SetVersion(request.GetVersion())
	if response.IsFlexible() {
		kmsg.SkipTags(&r)
	}
	if err := response.ReadFrom(r.Src); err != nil {
		t.m.w.t.Errorf("answer to %s: %v", kmsg.NameForKey(request.Key()), err)
	}
	t.m.says.answer(t, request, response)
}

// frames finds what stands in a stream: a size, and as many bytes.
type frames struct{ buf []byte }

func (f *frames) feed(p []byte, each func([]byte)) {
	f.buf = append(f.buf, p...)
	for len(f.buf) >= 4 {
		end := 4 + int(binary.BigEndian.Uint32(f.buf))
		if len(f.buf) < end {
			return
		}
		each(f.buf[4:end])
		f.buf = f.buf[end:]
	}
}

// testimony is what a member has said about offsets, and what it has been told. Rule 3 is checked with it.
type testimony struct {
	m *member

	mu     sync.Mutex
	groups map[string]*groupTestimony
}

type groupTestimony struct {
	owned  map[ownership]map[wirePlace]bool
	over   *tap // What the commit that is on its way is on its way over, nil if there is none.
	flying []wirePlace
	unsure map[wirePlace]bool // What was committed without an answer.
}

type ownership struct {
	generation int32
	member     string
}

// wirePlace is one partition.
type wirePlace struct {
	topic     string
	partition int32
}

func (s *testimony) of(group string) *groupTestimony {
	g, ok := s.groups[group]
	if !ok {
		g = &groupTestimony{owned: make(map[ownership]map[wirePlace]bool), unsure: make(map[wirePlace]bool)}
		s.groups[group] = g
	}
	return g
}

func (s *testimony) ask(over *tap, request kmsg.Request) {
	switch r := request.(type) {
	case *kmsg.OffsetFetchRequest:
		s.mu.Lock()
		defer s.mu.Unlock()
		clear(s.of(r.Group).unsure)
	case *kmsg.OffsetCommitRequest:
		s.commit(over, r)
		for _, topic := range r.Topics {
			for _, p := range topic.Partitions {
				s.m.w.settled(topic.Topic, int(p.Partition), p.Offset)
			}
		}
	}
}

func (s *testimony) commit(over *tap, r *kmsg.OffsetCommitRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.of(r.Group)
	if g.over != nil {
		s.m.w.t.Errorf("%v commits while another commit is on its way", s.m)
	}
	g.over, g.flying = over, nil
	mine := g.owned[ownership{r.Generation, r.MemberID}]
	for _, topic := range r.Topics {
		for _, p := range topic.Partitions {
			at := wirePlace{topic.Topic, p.Partition}
			g.flying = append(g.flying, at)
			if !mine[at] {
				s.m.w.t.Errorf("%v commits %v at %d in generation %d, which did not give it to it", s.m, at, p.Offset, r.Generation)
			}
			if g.unsure[at] {
				s.m.w.t.Errorf("%v commits %v at %d, and has not asked what became of the last commit", s.m, at, p.Offset)
			}
		}
	}
}

func (s *testimony) answer(over *tap, request kmsg.Request, response kmsg.Response) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch r := request.(type) {
	case *kmsg.OffsetCommitRequest:
		if g := s.of(r.Group); g.over == over {
			g.over = nil
		}
	case *kmsg.SyncGroupRequest:
		var given kmsg.ConsumerMemberAssignment
		if err := given.ReadFrom(response.(*kmsg.SyncGroupResponse).MemberAssignment); err != nil {
			return // An error, or nothing.
		}
		mine := make(map[wirePlace]bool)
		for _, topic := range given.Topics {
			for _, p := range topic.Partitions {
				mine[wirePlace{topic.Topic, p}] = true
			}
		}
		s.of(r.Group).owned[ownership{r.Generation, r.MemberID}] = mine
	}
}

// lost notes that nothing more comes over a connection.
func (s *testimony) lost(over *tap) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.groups {
		if g.over == over {
			for _, at := range slices.Clone(g.flying) {
				g.unsure[at] = true
			}
			g.over = nil
		}
	}
}
