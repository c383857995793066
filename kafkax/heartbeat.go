package kafkax

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	heartbeatapi "github.com/segmentio/kafka-go/protocol/heartbeat"
)

// heartbeat is a Heartbeat request, version 0. kafka.Client.Heartbeat of v0.4.51 sends a newer one to just any broker
// instead of the group's coordinator, and takes the answer's throttle time for its error code: it cannot fail.
type heartbeat struct {
	heartbeatapi.Request
	clientID string
}

// Group has the transport find the coordinator.
func (h *heartbeat) Group() string { return h.GroupID }

// Required and RawExchange have the transport leave the exchange to us, and so the version.
func (h *heartbeat) Required(map[protocol.ApiKey]int16) bool { return true }

func (h *heartbeat) RawExchange(rw io.ReadWriter) (protocol.Message, error) {
	return protocol.RoundTrip(rw, 0, 0, h.clientID, &h.Request)
}

// sendHeartbeat tells the coordinator that member lives, and returns its answer, for which it waits at most patience.
func (n *network) sendHeartbeat(ctx context.Context, patience time.Duration, group string, generation int32, member string) error {
	ctx, cancel := context.WithTimeout(ctx, min(patience, n.client.Timeout))
	defer cancel()
	answer, err := n.pool.RoundTrip(ctx, n.client.Addr, &heartbeat{
		Request:  heartbeatapi.Request{GroupID: group, GenerationID: generation, MemberID: member},
		clientID: n.cluster.ClientID,
	})
	if err != nil {
		return fmt.Errorf("kafkax: heartbeat: %w", err)
	}
	if code := answer.(*heartbeatapi.Response).ErrorCode; code != 0 {
		return fmt.Errorf("kafkax: heartbeat: %w", kafka.Error(code))
	}
	return nil
}
