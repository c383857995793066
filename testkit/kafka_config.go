package testkit

import (
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kversion"
)

// KafkaConfig says what cluster to start. The zero value is one broker on a free loopback port, without topics, open to
// everybody.
type KafkaConfig struct {
	// Brokers is how many brokers the cluster has. Default: as many as Listen names, or 1.
	Brokers int

	// Listen is the address of each broker, "host:port". Default: a free port on 127.0.0.1 for each.
	Listen []string

	// Network is the network to listen on. Default, nil: the machine's own, with real sockets.
	Network *Network

	// Topics are created at the start: name to number of partitions.
	Topics map[string]int

	// AutoCreateTopics lets a metadata request create the topics it names, with AutoCreatePartitions partitions
	// (default 1), as Kafka's auto.create.topics.enable does. Off by default: a misspelt topic is an error.
	AutoCreateTopics     bool
	AutoCreatePartitions int

	// MinSessionTimeout is the shortest session timeout that a group member may ask for. Default: 6 s, as in Kafka.
	MinSessionTimeout time.Duration

	// MaxVersions are the newest versions of requests that the brokers know, as if they were of an older release. What is
	// not named here is as new as the emulator.
	MaxVersions map[API]int

	// Configs are broker settings by their Kafka names, for example "message.max.bytes".
	Configs map[string]string

	// TLS makes all brokers speak TLS with this configuration. Default, nil: plaintext.
	TLS *tls.Config

	// Users, if any, makes all brokers demand SASL authentication as one of them.
	Users []KafkaUser
}

// KafkaUser is somebody who may log in. A user may do everything.
type KafkaUser struct {
	Mechanism string // "PLAIN", "SCRAM-SHA-256" or "SCRAM-SHA-512".
	Name      string
	Password  string
}

// Validate joins everything that is wrong with c.
func (c KafkaConfig) Validate() error {
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("testkit: KafkaConfig."+format, args...))
	}
	if c.Brokers < 0 {
		fault("Brokers must not be negative, got %d", c.Brokers)
	}
	if c.Brokers > 0 && len(c.Listen) > 0 && c.Brokers != len(c.Listen) {
		fault("Brokers must be the number of addresses in Listen, got %d for %d", c.Brokers, len(c.Listen))
	}
	for _, topic := range slices.Sorted(maps.Keys(c.Topics)) {
		if topic == "" {
			fault("Topics must not have an empty name")
		}
		if c.Topics[topic] < 1 {
			fault("Topics[%q] must be at least 1 partition, got %d", topic, c.Topics[topic])
		}
	}
	if c.AutoCreatePartitions < 0 {
		fault("AutoCreatePartitions must not be negative, got %d", c.AutoCreatePartitions)
	}
	if c.AutoCreatePartitions > 0 && !c.AutoCreateTopics {
		fault("AutoCreatePartitions must be 0 without AutoCreateTopics, got %d", c.AutoCreatePartitions)
	}
	if c.MinSessionTimeout < 0 {
		fault("MinSessionTimeout must not be negative, got %s", c.MinSessionTimeout)
	}
	for _, api := range slices.Sorted(maps.Keys(c.MaxVersions)) {
		if _, known := api.key(); !known {
			fault("MaxVersions must have names of Kafka requests, got %q", api)
		}
		if c.MaxVersions[api] < 0 {
			fault("MaxVersions[%q] must not be negative, got %d", api, c.MaxVersions[api])
		}
	}
	for i, u := range c.Users {
		if !slices.Contains([]string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"}, u.Mechanism) {
			fault("Users[%d].Mechanism must be PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512, got %q", i, u.Mechanism)
		}
		if u.Name == "" || u.Name == backdoorUser {
			fault("Users[%d].Name must be neither empty nor %q, got %q", i, backdoorUser, u.Name)
		}
	}
	return errors.Join(faults...)
}

// options says c in the emulator's words.
func (c KafkaConfig) options() []kfake.Opt {
	opts := []kfake.Opt{kfake.ClusterID("testkit"), kfake.DefaultNumPartitions(max(c.AutoCreatePartitions, 1))}
	for topic, partitions := range c.Topics {
		opts = append(opts, kfake.SeedTopics(int32(partitions), topic))
	}
	if c.AutoCreateTopics {
		opts = append(opts, kfake.AllowAutoTopicCreation())
	}
	if c.MinSessionTimeout > 0 {
		opts = append(opts, kfake.GroupMinSessionTimeout(c.MinSessionTimeout))
	}
	if len(c.MaxVersions) > 0 {
		versions := kversion.Stable()
		for api, most := range c.MaxVersions {
			key, _ := api.key()
			versions.SetMaxKeyVersion(key, int16(most))
		}
		opts = append(opts, kfake.MaxVersions(versions))
	}
	if len(c.Configs) > 0 {
		opts = append(opts, kfake.BrokerConfigs(c.Configs))
	}
	if len(c.Users) > 0 {
		opts = append(opts, kfake.EnableSASL(), kfake.Superuser("PLAIN", backdoorUser, backdoorUser))
	}
	for _, u := range c.Users {
		opts = append(opts, kfake.Superuser(u.Mechanism, u.Name, u.Password))
	}
	return opts
}
