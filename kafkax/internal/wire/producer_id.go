package wire

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/segmentio/kafka-go"
)

const (
	apiInitProducerID        = 22
	maxInitProducerIDVersion = 1 // 2 has the flexible encoding

	producerIDBytes = 64 // of the answer, at most
)

// InitProducerID asks the broker at addr for a producer id that nobody has had before, over a connection of its own. Any
// broker gives one. kafka-go would ask for a coordinator of transactions first, which needs rights of its own.
func InitProducerID(ctx context.Context, d *kafka.Dialer, network, addr string, timeout time.Duration) (id int64, epoch int16, err error) {
	s := session{timeout: timeout}
	versions, err := s.connect(ctx, d, network, addr, api{apiInitProducerID, "InitProducerID", 0, maxInitProducerIDVersion})
	if err != nil {
		return 0, 0, err
	}
	defer s.Close()
	stop := context.AfterFunc(ctx, func() { _ = s.fail(context.Cause(ctx)) })
	defer stop()
	id, epoch, err = s.initProducerID(versions[0])
	if err != nil {
		return 0, 0, fmt.Errorf("wire: init producer id: %w", err)
	}
	return id, epoch, nil
}

func (s *session) initProducerID(version int16) (id int64, epoch int16, err error) {
	request := s.nextID
	s.nextID++
	b := appendHeader(nil, apiInitProducerID, version, request, s.clientID)
	b = appendInt16(b, -1) // transactional id: null
	b = appendInt32(b, math.MaxInt32)
	if err := s.write(finishFrame(b, 0)); err != nil {
		return 0, 0, s.fail(err)
	}
	answer, err := s.read(request, producerIDBytes, producerIDBytes, s.timeout)
	if err != nil {
		return 0, 0, s.fail(err)
	}
	in := cursor{b: answer}
	in.int32() // throttle time
	code := in.int16()
	id, epoch = in.int64(), in.int16()
	if code != 0 {
		return 0, 0, kafka.Error(code)
	}
	if in.short || id < 0 {
		return 0, 0, fmt.Errorf("%w: no producer id", errMalformed)
	}
	return id, epoch, nil
}
