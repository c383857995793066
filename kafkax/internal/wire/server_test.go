package wire_test

import (
	"encoding/binary"
	"io"
	"net"
	"testing"
)

// server is a broker that answers one connection's ApiVersions and nothing more; the test answers the rest on conn.
type server struct {
	addr     string
	requests chan []byte // every later request, without its size
	conn     net.Conn    // set before requests has the first
}

func newServer(t *testing.T) *server {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{addr: listener.Addr().String(), requests: make(chan []byte, 1)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		var err error
		if s.conn, err = listener.Accept(); err != nil {
			return
		}
		request := readRequest(s.conn)
		if request == nil {
			return
		}
		answer := []byte{0, 0, 0, 16}
		answer = append(answer, request[4:8]...)                     // correlation id
		answer = append(answer, 0, 0, 0, 0, 0, 1, 0, 1, 0, 4, 0, 11) // no error, one API: Fetch 4 to 11
		if _, err := s.conn.Write(answer); err != nil {
			return
		}
		if request := readRequest(s.conn); request != nil {
			s.requests <- request
		}
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		<-done
		if s.conn != nil {
			_ = s.conn.Close()
		}
	})
	return s
}

func readRequest(r io.Reader) []byte {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil
	}
	b := make([]byte, binary.BigEndian.Uint32(size[:]))
	if _, err := io.ReadFull(r, b); err != nil {
		return nil
	}
	return b
}
