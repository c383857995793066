package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/holdfast-io/holdfast/dlq"
	"github.com/holdfast-io/holdfast/kafkax"
)

const (
	// sessionTimeout is for how long, after a redrive was killed, the next one waits for its partitions. It is the least
	// that Kafka allows by default.
	sessionTimeout    = 6 * time.Second
	heartbeatInterval = 2 * time.Second
	commitInterval    = 100 * time.Millisecond // What is redriven in it is redriven again after a kill, unless there is a ledger.
	closeTimeout      = 10 * time.Second
)

// session is what a command has of Kafka. Nothing connects before it is used.
type session struct {
	cluster  kafkax.Cluster
	admin    *kafkax.Admin
	producer *kafkax.Producer
	consumer *kafkax.Consumer
	log      *slog.Logger
}

func (t *tool) open() (*session, error) {
	cluster, err := t.settings.cluster()
	if err != nil {
		return nil, err
	}
	if err := cluster.Validate(); err != nil {
		return nil, &exitError{exitUsage, err}
	}
	s := &session{cluster: cluster, log: slog.New(slog.NewTextHandler(t.err, &slog.HandlerOptions{Level: slog.LevelWarn}))}
	var errs [3]error
	s.admin, errs[0] = kafkax.NewAdmin(cluster, kafkax.AdminConfig{})
	s.producer, errs[1] = kafkax.NewProducer(cluster, kafkax.ProducerConfig{})
	s.consumer, errs[2] = kafkax.NewConsumer(cluster, kafkax.ConsumerConfig{
		Group: "holdfast-tool", Topics: []string{"none"}, // Redrive says as whom, and what.
		SessionTimeout: sessionTimeout, HeartbeatInterval: heartbeatInterval, CommitInterval: commitInterval, Logger: s.log,
		OutOfRange: kafkax.OutOfRangeEarliest, // What was purged is passed over.
	})
	return s, errors.Join(errs[:]...)
}

func (s *session) close() error {
	s.admin.Close()
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	return s.producer.Close(ctx)
}

// exists tells whether there is such a topic, and how many partitions it has.
func (s *session) exists(ctx context.Context, topic string) (partitions int, exists bool, err error) {
	partitions, _, err = s.admin.DescribeTopic(ctx, topic)
	if errors.Is(err, kafka.UnknownTopicOrPartition) {
		return 0, false, nil
	}
	return partitions, err == nil, err
}

// need makes a topic that is not there yet.
func (s *session) need(ctx context.Context, topic string, partitions int, config map[string]string) error {
	_, exists, err := s.exists(ctx, topic)
	if err == nil && !exists {
		err = s.admin.CreateTopic(ctx, topic, partitions, config)
	}
	if errors.Is(err, kafka.TopicAlreadyExists) {
		return nil
	}
	return err
}

// ledger is nil when there is no such topic. One that loses its records would let letters be sent twice.
func (s *session) ledger(ctx context.Context, topic string) (*dlq.Ledger, error) {
	_, config, err := s.admin.DescribeTopic(ctx, topic)
	if errors.Is(err, kafka.UnknownTopicOrPartition) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if policy := config["cleanup.policy"]; policy != "" && policy != "compact" {
		return nil, fmt.Errorf("topic %s cannot be a ledger: its cleanup.policy must be compact, got %s", topic, policy)
	}
	return dlq.NewLedger(s.producer, s.admin, dlq.LedgerConfig{Topic: topic})
}

// existing tells how many partitions a topic has, which must be there.
func (s *session) existing(ctx context.Context, topic string) (partitions int, err error) {
	partitions, exists, err := s.exists(ctx, topic)
	if err == nil && !exists {
		err = fmt.Errorf("topic %s does not exist", topic)
	}
	return partitions, err
}

// deadLetters makes the Redrive through which all commands see a dead-letter topic. A ledger that is not there, and not
// made, knows nothing.
func (s *session) deadLetters(ctx context.Context, cfg dlq.RedriveConfig, ledger string) (*dlq.Redrive, error) {
	_, err := s.existing(ctx, cfg.Topic)
	if err == nil && ledger != "" {
		cfg.Letters.Ledger, err = s.ledger(ctx, ledger)
	}
	if err != nil {
		return nil, err
	}
	cfg.Letters.Logger = s.log
	r, err := dlq.NewRedrive(s.consumer, s.producer, s.admin, cfg)
	if err != nil {
		return nil, &exitError{exitUsage, err}
	}
	return r, nil
}

// depth is how many records there are in a topic, from some offsets on.
func (s *session) depth(ctx context.Context, topic string, from map[int]int64) (int64, error) {
	first, next, err := s.admin.Bounds(ctx, topic)
	total := int64(0)
	for p := range next {
		total += max(0, next[p]-max(first[p], from[p]))
	}
	return total, err
}
