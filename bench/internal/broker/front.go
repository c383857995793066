package broker

import (
	"encoding/binary"
	"io"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

type listener struct {
	net.Listener
	broker *Broker
}

// Accept gives kfake its next connection.
func (l *listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	return &front{Conn: conn, logs: l.broker.logs}, err
}

// front is a client's connection as kfake sees it: without the fetches of full topics.
type front struct {
	net.Conn
	logs   map[string][][]batch // of full topics
	unread []byte               // of a request that is kfake's,
	left   int                  // and how much of it is still on the connection
}

func (f *front) Read(p []byte) (int, error) {
	for len(f.unread) == 0 && f.left == 0 {
		if err := f.next(); err != nil {
			return 0, err
		}
	}
	if len(f.unread) > 0 {
		n := copy(p, f.unread)
		f.unread = f.unread[n:]
		return n, nil
	}
	n, err := f.Conn.Read(p[:min(len(p), f.left)])
	f.left -= n
	return n, err
}

// next begins to read a request, and answers it if it is a fetch of full topics.
func (f *front) next() error {
	start := make([]byte, 6) // Its size, and what it asks for.
	if _, err := io.ReadFull(f.Conn, start); err != nil {
		return err
	}
	size := int(binary.BigEndian.Uint32(start))
	if int16(binary.BigEndian.Uint16(start[4:])) != kmsg.Fetch.Int16() {
		f.unread, f.left = start, size-2
		return nil
	}
	frame := make([]byte, 4+size)
	copy(frame, start)
	if _, err := io.ReadFull(f.Conn, frame[6:]); err != nil {
		return err
	}
	var request kmsg.FetchRequest
	request.SetVersion(int16(binary.BigEndian.Uint16(frame[6:])))
	idSize := max(int(int16(binary.BigEndian.Uint16(frame[12:]))), 0) // The client's id may be null.
	if err := request.ReadFrom(frame[14+idSize:]); err != nil {
		return err
	}
	for _, t := range request.Topics {
		if f.logs[t.Topic] == nil {
			f.unread = frame
			return nil
		}
	}
	return f.answer(request, frame[8:12])
}

// answer sends from each partition the batches up to its limit, the first of all in any case, and after MaxWait if there is
// none.
func (f *front) answer(request kmsg.FetchRequest, correlation []byte) error {
	var head []byte // Since the last of the parts.
	var parts net.Buffers
	left := int(request.MaxBytes)
	head = append(head, 0, 0, 0, 0) // Its size, when it is known.
	head = append(head, correlation...)
	head = binary.BigEndian.AppendUint32(head, 0) // Not throttled.
	if request.Version >= 7 {
		head = append(head, 0, 0, 0, 0, 0, 0) // No error, and no session.
	}
	head = binary.BigEndian.AppendUint32(head, uint32(len(request.Topics)))
	for _, t := range request.Topics {
		head = binary.BigEndian.AppendUint16(head, uint16(len(t.Topic)))
		head = append(head, t.Topic...)
		head = binary.BigEndian.AppendUint32(head, uint32(len(t.Partitions)))
		for _, p := range t.Partitions {
			log := f.logs[t.Topic][p.Partition]
			var end uint64
			if len(log) > 0 {
				end = uint64(log[len(log)-1].next)
			}
			head = binary.BigEndian.AppendUint32(head, uint32(p.Partition))
			head = append(head, 0, 0)
			head = binary.BigEndian.AppendUint64(head, end)
			head = binary.BigEndian.AppendUint64(head, end)
			if request.Version >= 5 {
				head = binary.BigEndian.AppendUint64(head, 0) // The log's start.
			}
			head = binary.BigEndian.AppendUint32(head, 0) // No aborted transactions.
			if request.Version >= 11 {
				head = binary.BigEndian.AppendUint32(head, ^uint32(0)) // No other replica.
			}
			batches, size := pick(log, p.FetchOffset, min(left, int(p.PartitionMaxBytes)), left == int(request.MaxBytes))
			left -= size
			head = binary.BigEndian.AppendUint32(head, uint32(size))
			if size > 0 {
				parts = append(append(parts, head), batches...)
				head = nil
			}
		}
	}
	if parts == nil {
		time.Sleep(time.Duration(request.MaxWaitMillis) * time.Millisecond)
	}
	parts = append(parts, head)
	size := 0
	for _, part := range parts {
		size += len(part)
	}
	binary.BigEndian.PutUint32(parts[0], uint32(size-4))
	_, err := parts.WriteTo(f.Conn)
	return err
}

// pick takes the batches from offset on, up to limit bytes, and if it must, the first one in any case.
func pick(log []batch, offset int64, limit int, must bool) (batches [][]byte, size int) {
	for _, b := range log {
		switch {
		case b.next <= offset:
			continue
		case size+len(b.bytes) > limit && (size > 0 || !must):
			return batches, size
		}
		batches = append(batches, b.bytes)
		size += len(b.bytes)
	}
	return batches, size
}
