package testkit

import (
	"fmt"
	"slices"
	"sync"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	// maxMetadata is Kafka's default offset.metadata.max.bytes, which the emulator does not know.
	maxMetadata = 4096

	// offsetMetadataTooLarge is the protocol's OFFSET_METADATA_TOO_LARGE.
	offsetMetadataTooLarge = 12
)

// Commit is one partition of an offset commit, and how the group's coordinator answered it. Commits within a transaction
// are not among them.
type Commit struct {
	Group      string
	Member     string
	Generation int // -1 for a commit from outside the group's membership.
	Topic      string
	Partition  int
	Offset     int64
	Metadata   string
	Code       int16 // The protocol's error code; 0 means that the group's offset is now Offset.
}

// Commits returns every offset commit that the cluster has answered since its start, in the order in which they took
// effect. A commit whose answer was lost, or whose client had gone, is among them: they are what the group's coordinator
// did, not what the client knows.
func (k *KafkaServer) Commits() []Commit {
	k.journal.mu.Lock()
	defer k.journal.mu.Unlock()
	return slices.Clone(k.journal.commits)
}

// journal keeps the offset commits.
type journal struct {
	turn chan struct{} // Held from before the work until it is noted, so that notes are in the order of the work.

	mu      sync.Mutex
	commits []Commit
}

func (j *journal) init() { j.turn = make(chan struct{}, 1) }

// note writes down the answer in frame to r, and puts the refused parts back into it.
func (j *journal) note(k *KafkaServer, r *kmsg.OffsetCommitRequest, refused []refusal, frame []byte) ([]byte, error) {
	response, head, err := parseCommitResponse(r, frame)
	if err != nil {
		return nil, err
	}
	for _, part := range refused {
		part.putBack(r, response)
	}
	j.add(k, r, response)
	if len(refused) == 0 {
		return frame, nil
	}
	return withBody(head, response.AppendTo), nil
}

func (j *journal) add(k *KafkaServer, r *kmsg.OffsetCommitRequest, response *kmsg.OffsetCommitResponse) {
	codes := make(map[string]map[int32]int16, len(response.Topics))
	for _, t := range response.Topics {
		name := k.topicName(t.Topic, t.TopicID)
		codes[name] = make(map[int32]int16, len(t.Partitions))
		for _, p := range t.Partitions {
			codes[name][p.Partition] = p.ErrorCode
		}
	}
	var commits []Commit
	for _, t := range r.Topics {
		name := k.topicName(t.Topic, t.TopicID)
		for _, p := range t.Partitions {
			commits = append(commits, Commit{
				Group: r.Group, Member: r.MemberID, Generation: int(r.Generation),
				Topic: name, Partition: int(p.Partition), Offset: p.Offset, Metadata: value(p.Metadata),
				Code: codes[name][p.Partition],
			})
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.commits = append(j.commits, commits...)
}

// topicName resolves a topic that newer requests name by id only.
func (k *KafkaServer) topicName(name string, id [16]byte) string {
	if name != "" || id == [16]byte{} {
		return name
	}
	_ = k.ask(func(c *kfake.Cluster) error {
		if info := c.TopicIDInfo(id); info != nil {
			name = info.Topic
		}
		return nil
	})
	return name
}

// refusal is a part of an offset commit that is refused before the emulator sees it.
type refusal struct {
	topic     int // Its index in the request.
	partition kmsg.OffsetCommitRequestTopicPartition
}

// refuseMetadata takes out of r what carries more metadata than Kafka accepts.
func refuseMetadata(r *kmsg.OffsetCommitRequest) []refusal {
	var refused []refusal
	for i := range r.Topics {
		t := &r.Topics[i]
		t.Partitions = slices.DeleteFunc(t.Partitions, func(p kmsg.OffsetCommitRequestTopicPartition) bool {
			tooLarge := len(value(p.Metadata)) > maxMetadata
			if tooLarge {
				refused = append(refused, refusal{topic: i, partition: p})
			}
			return tooLarge
		})
	}
	return refused
}

// putBack makes r and its answer whole again.
func (f refusal) putBack(r *kmsg.OffsetCommitRequest, response *kmsg.OffsetCommitResponse) {
	asked := &r.Topics[f.topic]
	asked.Partitions = append(asked.Partitions, f.partition)
	at := slices.IndexFunc(response.Topics, func(t kmsg.OffsetCommitResponseTopic) bool {
		return t.Topic == asked.Topic && t.TopicID == asked.TopicID
	})
	if at < 0 {
		answered := kmsg.NewOffsetCommitResponseTopic()
		answered.Topic, answered.TopicID = asked.Topic, asked.TopicID
		response.Topics = append(response.Topics, answered)
		at = len(response.Topics) - 1
	}
	p := kmsg.NewOffsetCommitResponseTopicPartition()
	p.Partition, p.ErrorCode = f.partition.Partition, offsetMetadataTooLarge
	response.Topics[at].Partitions = append(response.Topics[at].Partitions, p)
}

// parseCommitResponse decodes a whole frame; head is what stands before the body.
func parseCommitResponse(r *kmsg.OffsetCommitRequest, frame []byte) (*kmsg.OffsetCommitResponse, []byte, error) {
	response := kmsg.NewPtrOffsetCommitResponse()
	response.SetVersion(r.GetVersion())
	body := kbin.Reader{Src: frame[min(8, len(frame)):]} // After size and correlation id.
	if response.IsFlexible() {
		kmsg.SkipTags(&body)
	}
	if err := response.ReadFrom(body.Src); err != nil {
		return nil, nil, fmt.Errorf("testkit: OffsetCommit response: %w", err)
	}
	return response, frame[:len(frame)-len(body.Src)], nil
}

func value(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
