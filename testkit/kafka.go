package testkit

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"

	"github.com/twmb/franz-go/pkg/kfake"
)

// KafkaServer is a Kafka cluster inside the process. [Kafka] and [StartKafka] make it. All methods may be called by many
// goroutines at once.
type KafkaServer struct {
	cluster  *kfake.Cluster
	doors    []*door // One a broker, in order of broker id.
	faults   faults
	journal  journal
	secured  bool // The brokers demand SASL.
	sessions sync.WaitGroup

	// closing is held for reading by whoever asks the cluster something, because the emulator never answers a question
	// that comes after its end. The cluster answers at once, so nobody waits long for it.
	closing sync.RWMutex
	closed  bool
}

// Kafka starts a cluster for a test and closes it when the test ends. It ends the test when it cannot start one.
//
// In a testing/synctest bubble set cfg.Network, and call Kafka inside the bubble.
func Kafka(t TB, cfg KafkaConfig) *KafkaServer {
	t.Helper()
	k, err := StartKafka(cfg)
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(k.Close)
	return k
}

// StartKafka starts a cluster for a program; the caller must Close it.
func StartKafka(cfg KafkaConfig) (*KafkaServer, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	listen := cfg.Listen
	if len(listen) == 0 {
		listen = slices.Repeat([]string{"127.0.0.1:0"}, max(cfg.Brokers, 1))
	}
	k := &KafkaServer{secured: len(cfg.Users) > 0}
	k.faults.init()
	k.journal.init()
	opts := append(cfg.options(), kfake.NumBrokers(len(listen)), kfake.ListenFn(func(string, string) (net.Listener, error) {
		d, err := openDoor(k, cfg, listen[len(k.doors)])
		if err != nil {
			return nil, err
		}
		k.doors = append(k.doors, d)
		return d, nil
	}))
	k.closing.Lock() // A client that waits for an address of Listen may be in before NewCluster returns.
	defer k.closing.Unlock()
	cluster, err := kfake.NewCluster(opts...)
	if err != nil {
		return nil, fmt.Errorf("testkit: start Kafka: %w", err)
	}
	k.cluster = cluster
	return k, nil
}

// Addrs returns the brokers' addresses, "host:port", in order of broker id. They stay the same until Close.
func (k *KafkaServer) Addrs() []string {
	addrs := make([]string, len(k.doors))
	for i, d := range k.doors {
		addrs[i] = d.Addr().String()
	}
	return addrs
}

// Stop takes the cluster away: connections are cut, new ones refused. Requests that a broker had begun to serve are
// finished before Stop returns, unanswered; a request that hangs by a fault is forgotten. The log and the groups' offsets
// stay, and so do the faults; members of groups are missed once their session timeouts have passed. Stop on a stopped
// cluster does nothing.
func (k *KafkaServer) Stop() {
	for _, d := range k.doors {
		d.shut()
	}
}

// Start brings a stopped cluster back, at the same addresses. It fails when somebody has taken an address since. Start on
// a running cluster does nothing.
func (k *KafkaServer) Start() error {
	k.closing.RLock()
	defer k.closing.RUnlock()
	if k.closed {
		return errClosed()
	}
	for _, d := range k.doors {
		if err := d.open(context.Background()); err != nil {
			return fmt.Errorf("testkit: start Kafka again: %w", err)
		}
	}
	return nil
}

// Close ends the cluster and everything in it, and returns when its connections are closed. Closing again does nothing.
// What asks the cluster afterwards gets an error that is [net.ErrClosed], or nothing.
func (k *KafkaServer) Close() {
	k.closing.Lock()
	if !k.closed {
		k.closed = true
		k.cluster.Close()
	}
	k.closing.Unlock()
	k.sessions.Wait()
}

// ask runs fn while the cluster is sure to be there.
func (k *KafkaServer) ask(fn func(*kfake.Cluster) error) error {
	k.closing.RLock()
	defer k.closing.RUnlock()
	if k.closed {
		return errClosed()
	}
	return fn(k.cluster)
}

func errClosed() error { return fmt.Errorf("testkit: Kafka: %w", net.ErrClosed) }
