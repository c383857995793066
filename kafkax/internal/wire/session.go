package wire

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
)

const (
	frameHeader = 8 // size and correlation id

	versionsBytes = 1 << 20 // of an answer to ApiVersions, at most

	// answerPart of an answer has to come in time, and then as much again. To ask for all of it would keep those that share a
	// slow link from ever getting anything, as they begin anew at the same time.
	answerPart = 4 << 10
)

// session is what requests and answers travel over, each in a frame of its own.
type session struct {
	conn     net.Conn
	timeout  time.Duration // for the sending of a request, and for each part of an answer behind the first
	clientID string

	nextID int32
	in     [frameHeader]byte

	mu     sync.Mutex
	broken error // why nothing more can be sent or received
}

// api is a kind of request, with the versions of it that this package speaks.
type api struct {
	key      int16
	name     string
	min, max int16
}

// connect dials s as Dial says, and agrees with the broker on a version of each api.
func (s *session) connect(ctx context.Context, d *kafka.Dialer, network, addr string, apis ...api) ([]int16, error) {
	if d == nil {
		return nil, errors.New("wire: dial without a kafka.Dialer")
	}
	s.clientID = cmp.Or(d.ClientID, kafka.DefaultClientID)
	if len(s.clientID) > math.MaxInt16 {
		return nil, fmt.Errorf("wire: Dialer.ClientID must be at most %d bytes, got %d", math.MaxInt16, len(s.clientID))
	}
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(d.Timeout, s.timeout))
	defer cancel()
	conn, err := dial(ctx, d, network, addr)
	if err != nil {
		return nil, fmt.Errorf("wire: dial %s: %w", addr, err)
	}
	s.conn = conn
	stop := context.AfterFunc(ctx, func() { _ = s.fail(context.Cause(ctx)) })
	versions, err := s.agree(apis)
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("wire: dial %s: %w", addr, s.fail(err))
	}
	return versions, nil
}

// agree asks for the versions that the broker speaks and takes the highest of each api that both know.
func (s *session) agree(apis []api) ([]int16, error) {
	id := s.nextID
	s.nextID++
	if err := s.write(finishFrame(appendHeader(nil, apiVersions, 0, id, s.clientID), 0)); err != nil {
		return nil, err
	}
	answer, err := s.read(id, versionsBytes, versionsBytes, s.timeout)
	if err != nil {
		return nil, err
	}
	in := cursor{b: answer}
	if code := in.int16(); code != 0 {
		return nil, kafka.Error(code)
	}
	versions := make([]int16, len(apis))
	for i := range versions {
		versions[i] = -1
	}
	for n := in.int32(); n > 0 && !in.short; n-- {
		key, low, high := in.int16(), in.int16(), in.int16()
		i := slices.IndexFunc(apis, func(a api) bool { return a.key == key })
		if i < 0 || in.short {
			continue
		}
		if a := apis[i]; low > a.max || high < a.min {
			return nil, fmt.Errorf("broker speaks %s versions %d to %d, this client %d to %d: %w",
				a.name, low, high, a.min, a.max, kafka.UnsupportedVersion)
		}
		versions[i] = min(high, apis[i].max)
	}
	if i := slices.Index(versions, -1); i >= 0 {
		return nil, fmt.Errorf("%w: no %s among the broker's API versions", errMalformed, apis[i].name)
	}
	return versions, nil
}

// Close closes the connection. A Send or Receive in progress returns at once with net.ErrClosed in its chain. The
// second Close and those after it return nil.
func (s *session) Close() error {
	s.mu.Lock()
	first := s.broken == nil
	if first {
		s.broken = fmt.Errorf("wire: %w", net.ErrClosed)
	}
	s.mu.Unlock()
	if !first {
		return nil
	}
	return s.conn.Close()
}

// fail closes the connection for the reason err and returns the first reason there was.
func (s *session) fail(err error) error {
	s.mu.Lock()
	first := s.broken == nil
	if first {
		s.broken = err
	}
	err = s.broken
	s.mu.Unlock()
	if first {
		_ = s.conn.Close() // The reason is known and better.
	}
	return err
}

func (s *session) err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.broken
}

func (s *session) write(b []byte) error {
	if err := s.conn.SetWriteDeadline(time.Now().Add(s.timeout)); err != nil {
		return err
	}
	_, err := s.conn.Write(b)
	return err
}

// read returns the body of the next frame, which must be the answer to request id. It has at most limit bytes, and as a
// rule no more than expected.
func (s *session) read(id int32, expected, limit int, timeout time.Duration) ([]byte, error) {
	if err := s.conn.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return nil, err
	}
	got, answer, err := s.next(expected, limit)
	if err == nil && got != id {
		err = otherAnswer(got, id)
	}
	return answer, err
}

// next reads a frame, its body into a buffer of its own.
func (s *session) next(expected, limit int) (id int32, body []byte, err error) {
	id, size, err := s.nextHeader(limit)
	if err != nil {
		return 0, nil, err
	}
	body, err = s.readBody(make([]byte, 0, min(size, expected)), size)
	return id, body, err
}

// nextHeader reads a frame's id, and the size of its body.
func (s *session) nextHeader(limit int) (id int32, size int, err error) {
	if _, err := io.ReadFull(s.conn, s.in[:]); err != nil {
		return 0, 0, err
	}
	size = int(int32(binary.BigEndian.Uint32(s.in[:4]))) - 4 // The correlation id has been read.
	if size < 0 || size > limit {
		return 0, 0, fmt.Errorf("%w: %d bytes, at most %d are allowed", errMalformed, size, limit)
	}
	return int32(binary.BigEndian.Uint32(s.in[4:])), size, nil
}

// readBody reads size bytes into body, which is empty, the first part of them by the deadline that is set. Where that has no
// room for all, more is made only as they arrive: a size alone proves nothing.
func (s *session) readBody(body []byte, size int) ([]byte, error) {
	for len(body) < size {
		if len(body) == cap(body) {
			body = slices.Grow(body, min(max(len(body), AnswerHead), size-len(body)))
		}
		room := body[len(body):min(cap(body), size)]
		n, err := io.ReadAtLeast(s.conn, room, min(len(room), answerPart))
		body = body[:len(body)+n]
		if err == nil && len(body) < size {
			err = s.conn.SetReadDeadline(time.Now().Add(s.timeout))
		}
		if err != nil {
			return nil, err
		}
	}
	return body, nil
}

func otherAnswer(got, want int32) error {
	return fmt.Errorf("%w: answer to request %d, expected %d", errMalformed, got, want)
}
