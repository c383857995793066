package testkit

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"reflect"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	// backdoorUser is who the test itself logs in as where the brokers demand it. The password is the same: a client
	// that knows it is welcome.
	backdoorUser = "testkit"

	// backdoorTag marks the test's own requests, so that no fault strikes them. The protocol lets anybody add tags.
	backdoorTag = 1 << 20
)

// backdoor is a connection to a broker that is open whatever happens at the front door.
type backdoor struct {
	conn        net.Conn
	correlation int32
}

// call sends one request to a broker through its back door, and returns the answer.
func (k *KafkaServer) call(ctx context.Context, broker int, request kmsg.Request) (kmsg.Response, error) {
	b, err := k.enter(ctx, broker)
	if err != nil {
		return nil, err
	}
	defer b.close()
	return b.call(ctx, request)
}

// enter opens a back door.
func (k *KafkaServer) enter(ctx context.Context, broker int) (*backdoor, error) {
	d := k.doors[broker]
	at := memoryAddr{network: "tcp", address: d.Addr().String()}
	near, far := memoryPipe(memoryAddr{network: "tcp", address: backdoorUser}, at)
	select {
	case d.inside <- far:
	case <-d.closed:
		return nil, errClosed()
	case <-ctx.Done():
		return nil, fmt.Errorf("testkit: Kafka: %w", context.Cause(ctx))
	}
	b := &backdoor{conn: near}
	if k.secured {
		if err := b.login(ctx); err != nil {
			b.close()
			return nil, err
		}
	}
	return b, nil
}

func (b *backdoor) close() { _ = b.conn.Close() }

func (b *backdoor) login(ctx context.Context) error {
	hello := kmsg.NewPtrSASLHandshakeRequest()
	hello.Version, hello.Mechanism = 1, "PLAIN"
	if _, err := b.call(ctx, hello); err != nil {
		return err
	}
	proof := kmsg.NewPtrSASLAuthenticateRequest()
	proof.Version, proof.SASLAuthBytes = 2, []byte("\x00"+backdoorUser+"\x00"+backdoorUser)
	response, err := b.call(ctx, proof)
	if err != nil {
		return err
	}
	return refusedWith(response.(*kmsg.SASLAuthenticateResponse).ErrorCode)
}

// call ends with ctx; the connection is of no use then.
func (b *backdoor) call(ctx context.Context, request kmsg.Request) (kmsg.Response, error) {
	defer context.AfterFunc(ctx, b.close)()
	response, err := b.exchange(request)
	switch {
	case err == nil:
		return response, nil
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case errors.Is(err, io.EOF):
		err = net.ErrClosed
	}
	return nil, fmt.Errorf("testkit: Kafka: %s: %w", kmsg.NameForKey(request.Key()), err)
}

func (b *backdoor) exchange(request kmsg.Request) (kmsg.Response, error) {
	if tags := tagsOf(request); tags != nil && request.IsFlexible() {
		tags.Set(backdoorTag, nil)
	}
	b.correlation++
	frame := kmsg.NewRequestFormatter(kmsg.FormatterClientID(backdoorUser)).AppendRequest(nil, request, b.correlation)
	if _, err := b.conn.Write(frame); err != nil {
		return nil, err
	}
	var size [4]byte
	if _, err := io.ReadFull(b.conn, size[:]); err != nil {
		return nil, err
	}
	answer := make([]byte, binary.BigEndian.Uint32(size[:]))
	if _, err := io.ReadFull(b.conn, answer); err != nil {
		return nil, err
	}
	body := kbin.Reader{Src: answer[4:]} // After the correlation id.
	response := request.ResponseKind()
	if response.IsFlexible() {
		kmsg.SkipTags(&body)
	}
	return response, response.ReadFrom(body.Src)
}

// fromBackdoor says whether r is one of the test's own requests.
func fromBackdoor(r kmsg.Request) bool {
	marked := false
	if tags := tagsOf(r); tags != nil {
		tags.Each(func(tag uint32, _ []byte) { marked = marked || tag == backdoorTag })
	}
	return marked
}

// tagsOf finds the tags of r, which every request that may have some keeps in a field of this name.
func tagsOf(r kmsg.Request) *kmsg.Tags {
	field := reflect.ValueOf(r).Elem().FieldByName("UnknownTags")
	if !field.IsValid() {
		return nil
	}
	tags, _ := reflect.TypeAssert[*kmsg.Tags](field.Addr())
	return tags
}

// refusedWith is the error that a protocol code stands for, nil for 0.
func refusedWith(code int16) error {
	if err := kerr.ErrorForCode(code); err != nil {
		return fmt.Errorf("testkit: Kafka: %w", err)
	}
	return nil
}
