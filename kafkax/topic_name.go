package kafkax

import (
	"fmt"
	"strings"

	"github.com/segmentio/kafka-go"

	"github.com/holdfast-io/holdfast"
)

const (
	maxTopicName   = 249
	topicNameBytes = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
)

// checkTopicName refuses what no broker takes for a topic, by the rules of Apache Kafka's own Topic.validate. Asked of a
// broker all the same, a name that is too long makes a request that it cannot even read, and hangs up at: an outage, to
// the circuit.
func checkTopicName(topic string) error {
	if len(topic) <= maxTopicName && topic != "" && topic != "." && topic != ".." && strings.Trim(topic, topicNameBytes) == "" {
		return nil
	}
	return holdfast.Permanent(fmt.Errorf(`%w: a name must be 1 to %d of a-z, A-Z, 0-9, ".", "_" and "-", and not "." or "..", got %.300q, which has %d`,
		kafka.InvalidTopic, maxTopicName, topic, len(topic)))
}
