package wire_test

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"testing"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdfast-io/holdfast/kafkax/internal/wire"
)

// server is a broker at the other end of a pipe. It answers ApiVersions; everything else is up to the test.
type server struct {
	conn     net.Conn
	version  int16       // the highest of Fetch and Produce that it speaks
	requests chan []byte // without their sizes; closed when the connection ends
	dialer   kafka.Dialer
}

func newServer(t *testing.T, version int16) *server {
	t.Helper()
	client, conn := net.Pipe()
	s := &server{conn: conn, version: version, requests: make(chan []byte, wire.MaxOutstanding)}
	s.dialer.DialFunc = func(context.Context, string, string) (net.Conn, error) { return client, nil }
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.serve()
	}()
	t.Cleanup(func() {
		_ = conn.Close()
		<-done
	})
	return s
}

func (s *server) serve() {
	defer close(s.requests)
	for {
		var size [4]byte
		if _, err := io.ReadFull(s.conn, size[:]); err != nil {
			return
		}
		request := make([]byte, binary.BigEndian.Uint32(size[:]))
		if _, err := io.ReadFull(s.conn, request); err != nil {
			return
		}
		if key := int16(binary.BigEndian.Uint16(request)); key != kmsg.ApiVersions.Int16() {
			s.requests <- request
			continue
		}
		versions := kmsg.NewPtrApiVersionsResponse()
		versions.ApiKeys = []kmsg.ApiVersionsResponseApiKey{
			{ApiKey: kmsg.Fetch.Int16(), MaxVersion: s.version}, {ApiKey: kmsg.Produce.Int16(), MaxVersion: s.version},
		}
		if err := s.answer(request, versions); err != nil {
			return
		}
	}
}

// answer sends the response to request.
func (s *server) answer(request []byte, response kmsg.Response) error {
	_, err := s.conn.Write(frame(request, response))
	return err
}

// frame is the response to request as it is sent.
func frame(request []byte, response kmsg.Response) []byte {
	response.SetVersion(int16(binary.BigEndian.Uint16(request[2:])))
	b := response.AppendTo(append([]byte{0, 0, 0, 0}, request[4:8]...))
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return b
}

// emptyAnswer is the answer to a fetch of topic t that brings nothing.
func emptyAnswer(throttleMillis int32) *kmsg.FetchResponse {
	partition := kmsg.NewFetchResponseTopicPartition()
	topic := kmsg.NewFetchResponseTopic()
	topic.Topic, topic.Partitions = "t", []kmsg.FetchResponseTopicPartition{partition}
	response := kmsg.NewPtrFetchResponse()
	response.ThrottleMillis, response.Topics = throttleMillis, []kmsg.FetchResponseTopic{topic}
	return response
}
