package kafkax_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/kafkax"
	"github.com/holdfast-io/holdfast/retry"
)

func TestConfigFaults(t *testing.T) {
	good := kafkax.Cluster{Brokers: []string{"localhost:9092"}}
	consumer := func(c kafkax.Cluster, cfg kafkax.ConsumerConfig) error {
		_, err := kafkax.NewConsumer(c, cfg)
		return err
	}
	producer := func(c kafkax.Cluster, cfg kafkax.ProducerConfig) error {
		_, err := kafkax.NewProducer(c, cfg)
		return err
	}
	orders := kafkax.ConsumerConfig{Group: "g", Topics: []string{"orders"}}
	with := func(change func(*kafkax.ConsumerConfig)) kafkax.ConsumerConfig {
		cfg := orders
		change(&cfg)
		return cfg
	}
	for name, test := range map[string]struct {
		err  error
		want []string // Empty: no error.
	}{
		"good consumer": {consumer(good, orders), nil},
		"good producer": {producer(good, kafkax.ProducerConfig{}), nil},
		"all empty":     {consumer(kafkax.Cluster{}, kafkax.ConsumerConfig{}), []string{"Brokers", "Group", "Topics"}},
		"bad brokers": {
			producer(kafkax.Cluster{Brokers: []string{"localhost", ":9092", "h:0", "h:x", "h:70000"}, DialTimeout: -1}, kafkax.ProducerConfig{}),
			[]string{`Brokers[0] must be "host:port", got "localhost"`, "Brokers[1]", "Brokers[2]", "Brokers[3]", "Brokers[4]", "DialTimeout"},
		},
		"client id that no request can hold": {
			consumer(kafkax.Cluster{Brokers: good.Brokers, ClientID: strings.Repeat("x", 32768)}, orders), []string{"ClientID", "32767", "32768"},
		},
		"drain longer than a rebalance": {
			consumer(good, with(func(c *kafkax.ConsumerConfig) { c.DrainTimeout = 25 * time.Second })),
			[]string{"DrainTimeout", "RebalanceTimeout (30s)", "24s", "25s"},
		},
		"drain as long as may be": {consumer(good, with(func(c *kafkax.ConsumerConfig) { c.DrainTimeout = 24 * time.Second })), nil},
		"rebalance shorter than the default drain": {
			consumer(good, with(func(c *kafkax.ConsumerConfig) { c.RebalanceTimeout = 10 * time.Second })), []string{"DrainTimeout"},
		},
		"heart as slow as may be": {
			consumer(good, with(func(c *kafkax.ConsumerConfig) { c.SessionTimeout, c.HeartbeatInterval = 9*time.Second, 3*time.Second })), nil,
		},
		"heart too slow": {
			consumer(good, with(func(c *kafkax.ConsumerConfig) { c.SessionTimeout = 8 * time.Second })),
			[]string{"HeartbeatInterval", "SessionTimeout (8s)", "3s"},
		},
		"bad consumer": {
			consumer(good, kafkax.ConsumerConfig{
				Group: "g", Topics: []string{"a", "", "a"}, Start: 7, OutOfRange: 3, StartTime: time.Unix(1, 0), SessionTimeout: -1, HeartbeatInterval: time.Hour,
				CommitInterval: -2, MaxWait: -1, FetchBytes: 1 << 30, BatchBytes: 1 << 29, PrefetchBytes: -1, FetchMessages: -1,
			}),
			[]string{"Topics[1]", "Topics[2]", "Start", "StartTime", "OutOfRange", "SessionTimeout", "HeartbeatInterval", "CommitInterval", "MaxWait", ".FetchBytes", ".BatchBytes", ".PrefetchBytes", ".FetchMessages"},
		},
		"start at no time": {
			consumer(good, with(func(c *kafkax.ConsumerConfig) { c.Start = kafkax.StartAtTime })), []string{"StartTime must be after 1970"},
		},
		"bad producer": {
			producer(good, kafkax.ProducerConfig{Timeout: -1, BatchBytes: -1, MaxRequests: -1, Compression: 99, Retry: retry.Policy{Attempts: -5}}),
			[]string{"Timeout", "BatchBytes", "MaxRequests", "Compression", "Retry"},
		},
		"a timeout that no request can hold": {producer(good, kafkax.ProducerConfig{Timeout: 25 * 24 * time.Hour}), []string{"Timeout", "24 days", "600h"}},
		"a dial without end":                 {producer(kafkax.Cluster{Brokers: good.Brokers, DialTimeout: math.MaxInt64}, kafkax.ProducerConfig{}), []string{"DialTimeout", "24 days"}},
	} {
		t.Run(name, func(t *testing.T) {
			if test.want == nil && test.err != nil {
				t.Errorf("got %v", test.err)
			}
			for _, word := range test.want {
				if test.err == nil || !strings.Contains(test.err.Error(), word) {
					t.Errorf("the error does not name %q: %v", word, test.err)
				}
			}
		})
	}
}

func TestConsumeFaults(t *testing.T) {
	c, err := kafkax.NewConsumer(kafkax.Cluster{Brokers: []string{"localhost:9092"}}, kafkax.ConsumerConfig{Group: "g", Topics: []string{"orders"}})
	if err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"no handler": c.Consume(t.Context(), nil),
		"no group":   c.ConsumeAs(t.Context(), "", []string{"orders"}, new(ledger).handle),
		"no topics":  c.ConsumeAs(t.Context(), "g", nil, new(ledger).handle),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
