package kafkax

import (
	"bytes"
	"reflect"
	"testing"

	offsetfetchapi "github.com/segmentio/kafka-go/protocol/offsetfetch"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestOffsetFetchEncoding compares the request and the answer with what franz-go makes of them, and cuts the answer at
// every byte.
func TestOffsetFetchEncoding(t *testing.T) {
	ours := &offsetFetch{clientID: "client", Request: offsetfetchapi.Request{GroupID: "group", Topics: []offsetfetchapi.RequestTopic{
		{Name: "orders", PartitionIndexes: []int32{0, 7, 300}}, {Name: "letters", PartitionIndexes: []int32{1}},
	}}}
	theirs := kmsg.NewOffsetFetchRequest()
	theirs.Version = stableVersion
	theirs.Group, theirs.RequireStable = "group", true
	for _, topic := range ours.Topics {
		theirs.Topics = append(theirs.Topics, kmsg.OffsetFetchRequestTopic{Topic: topic.Name, Partitions: topic.PartitionIndexes})
	}
	if want := kmsg.NewRequestFormatter(kmsg.FormatterClientID("client")).AppendRequest(nil, &theirs, 0); !bytes.Equal(ours.frame(), want) {
		t.Errorf("request:\n%q, want\n%q", ours.frame(), want)
	}

	metadata := "metadata"
	answer := kmsg.NewOffsetFetchResponse()
	answer.Version, answer.ErrorCode = stableVersion, 15
	answer.UnknownTags.Set(9, []byte("later"))
	topic := kmsg.OffsetFetchResponseTopic{Topic: "orders", Partitions: []kmsg.OffsetFetchResponseTopicPartition{
		{Partition: 0, Offset: 1 << 40, Metadata: &metadata}, {Partition: 7, Offset: -1, ErrorCode: 88},
	}}
	topic.UnknownTags.Set(3, []byte("later, too"))
	answer.Topics = []kmsg.OffsetFetchResponseTopic{topic}
	body := answer.AppendTo([]byte{0, 0, 0, 0, 0}) // After correlation id and tagged fields.
	got, err := readOffsets(bytes.NewBuffer(bytes.Clone(body)))
	want := &offsetfetchapi.Response{ErrorCode: 15, Topics: []offsetfetchapi.ResponseTopic{{
		Name: "orders", Partitions: []offsetfetchapi.ResponsePartition{
			{PartitionIndex: 0, CommittedOffset: 1 << 40, Metadata: metadata}, {PartitionIndex: 7, CommittedOffset: -1, ErrorCode: 88},
		},
	}}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("answer: %+v, %v, want %+v", got, err, want)
	}
	tail := len(answer.UnknownTags.AppendEach(nil)) + 1 // It is not looked at.
	for n := range len(body) - tail {
		if got, err := readOffsets(bytes.NewBuffer(bytes.Clone(body[:n]))); err == nil {
			t.Errorf("%d of %d bytes: %+v", n, len(body), got)
		}
	}
}
