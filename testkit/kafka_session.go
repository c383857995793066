package testkit

import (
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// maxFrame is the largest request that a broker reads: the default of Kafka's socket.request.max.bytes.
const maxFrame = 100 << 20

// session is a client's connection as a broker sees it. It passes whole requests on, one at a time, and each only when
// the one before it is answered, as Kafka does. Thus there is a moment before and a moment after the work at which a
// fault can strike, and a request whose client has gone is still finished and noted.
//
// The emulator reads in one goroutine and writes in another, each response in one Write.
type session struct {
	net.Conn // To the client; TLS is undone.
	raw      net.Conn
	door     *door

	unread []byte        // What the emulator has not yet read of a request. Only the reader uses it.
	idle   chan struct{} // Holds a token while no request is being served.

	severed  chan struct{} // Closed when the client is cut off: no further request is served, one that hangs neither.
	severing sync.Once
	gone     chan struct{} // Closed when the emulator is done with the session.
	leaving  sync.Once

	mu      sync.Mutex
	current *exchange // nil while no request is being served.
}

// exchange is a request in a broker's hands.
type exchange struct {
	request kmsg.Request
	loseAck bool
	refused []refusal     // Parts of an offset commit that the emulator is not shown.
	turn    bool          // It holds the turn of offset commits.
	done    chan struct{} // Closed when it is answered, or never will be.
}

func newSession(d *door, raw net.Conn) *session {
	s := &session{
		Conn: raw, raw: raw, door: d,
		idle: make(chan struct{}, 1), severed: make(chan struct{}), gone: make(chan struct{}),
	}
	if d.tls != nil {
		s.Conn = tls.Server(raw, d.tls)
	}
	s.idle <- struct{}{}
	return s
}

// Read gives the emulator the bytes of the next request that it shall serve.
func (s *session) Read(p []byte) (int, error) {
	if len(s.unread) == 0 {
		select {
		case <-s.idle:
		case <-s.gone:
			return 0, net.ErrClosed
		}
		frame, err := s.next()
		if err != nil {
			s.sever()
			return 0, err
		}
		s.unread = frame
	}
	n := copy(p, s.unread)
	s.unread = s.unread[n:]
	return n, nil
}

// next reads a request, lets the faults strike that strike before the work, and begins an exchange.
func (s *session) next() ([]byte, error) {
	frame, err := s.receive()
	if err != nil {
		return nil, err
	}
	head, request, err := parseRequest(frame)
	if err != nil {
		return nil, err
	}
	ex := &exchange{request: request, done: make(chan struct{})}
	k := s.door.server

	switch hit := k.faults.strike(request.Key(), k.targets(request)); {
	case hit == nil:
	case hit.Cut:
		return nil, fmt.Errorf("testkit: connection cut by a fault at %s", hit.API)
	case hit.Hang:
		select {
		case <-hit.removed:
		case <-s.gone:
			return nil, net.ErrClosed
		}
	case hit.LoseAck:
		ex.loseAck = true
	}

	if r, ok := request.(*kmsg.OffsetCommitRequest); ok {
		select {
		case k.journal.turn <- struct{}{}:
			ex.turn = true
		case <-s.gone:
			return nil, net.ErrClosed
		}
		if ex.refused = refuseMetadata(r); len(ex.refused) > 0 {
			frame = withBody(head, r.AppendTo)
		}
	}
	if !s.begin(ex) {
		return nil, net.ErrClosed
	}
	if r, ok := request.(*kmsg.ProduceRequest); ok && r.Acks == 0 {
		s.finish() // It will not be answered, so the next request must not wait for that.
	}
	return frame, nil
}

// receive reads a whole frame, size included.
func (s *session) receive() ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(s.Conn, size[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > maxFrame {
		return nil, fmt.Errorf("testkit: request of %d bytes, the most is %d", n, maxFrame)
	}
	frame := make([]byte, 4+n)
	copy(frame, size[:])
	_, err := io.ReadFull(s.Conn, frame[4:])
	return frame, err
}

// begin makes ex the current exchange, unless the session is cut off.
func (s *session) begin(ex *exchange) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.severed:
	case <-s.gone:
	default:
		s.current = ex
		return true
	}
	s.release(ex)
	return false
}

// finish ends the current exchange, if there is one.
func (s *session) finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil {
		return
	}
	s.release(s.current)
	s.current = nil
	s.idle <- struct{}{}
}

func (s *session) release(ex *exchange) {
	if ex.turn {
		<-s.door.server.journal.turn
	}
	close(ex.done)
}

// Write takes the emulator's answer to the current exchange and sends it on, unless a fault loses it.
func (s *session) Write(frame []byte) (int, error) {
	s.mu.Lock()
	ex := s.current
	s.mu.Unlock()
	if ex == nil {
		return 0, net.ErrClosed
	}
	defer s.finish()

	answer := frame
	if r, ok := ex.request.(*kmsg.OffsetCommitRequest); ok {
		var err error
		if answer, err = s.door.server.journal.note(s.door.server, r, ex.refused, frame); err != nil {
			s.sever()
			return 0, err
		}
	}
	if ex.loseAck {
		s.sever()
		return 0, fmt.Errorf("testkit: answer to %s lost by a fault", kmsg.NameForKey(ex.request.Key()))
	}
	if _, err := s.Conn.Write(answer); err != nil {
		return 0, err
	}
	return len(frame), nil
}

// sever cuts the client off, at once. What a broker does for it goes on.
func (s *session) sever() {
	s.severing.Do(func() {
		s.mu.Lock()
		close(s.severed)
		s.mu.Unlock()
		_ = s.raw.Close()
	})
}

// settle waits until the broker has done what it does for the client. It does not wait for what has no effect, or waits
// for other clients itself.
func (s *session) settle() {
	s.mu.Lock()
	ex := s.current
	s.mu.Unlock()
	if ex == nil {
		return
	}
	switch kmsg.Key(ex.request.Key()) {
	case kmsg.Fetch, kmsg.JoinGroup, kmsg.SyncGroup, kmsg.ShareFetch:
	default:
		<-ex.done
	}
}

// Close is called by the emulator.
func (s *session) Close() error {
	s.leaving.Do(func() {
		s.sever()
		close(s.gone)
		s.finish()
		s.door.forget(s)
	})
	return nil
}

// parseRequest decodes a whole frame; head is what stands before the body.
func parseRequest(frame []byte) (head []byte, request kmsg.Request, err error) {
	r := kbin.Reader{Src: frame[4:]} // After the size.
	key, version := r.Int16(), r.Int16()
	r.Int32() // The correlation id.
	request = kmsg.RequestForKey(key)
	if request == nil || !r.Ok() {
		return nil, nil, fmt.Errorf("testkit: not a Kafka request (key %d)", key)
	}
	request.SetVersion(version)
	r.NullableString() // The client id.
	if request.IsFlexible() {
		kmsg.SkipTags(&r)
	}
	head = frame[:len(frame)-len(r.Src)]
	if err := request.ReadFrom(r.Src); err != nil {
		return nil, nil, fmt.Errorf("testkit: %s request, version %d: %w", kmsg.NameForKey(key), version, err)
	}
	return head, request, nil
}

// withBody makes a frame of head and what appendTo appends.
func withBody(head []byte, appendTo func([]byte) []byte) []byte {
	frame := appendTo(slices.Clone(head))
	binary.BigEndian.PutUint32(frame, uint32(len(frame)-4))
	return frame
}
