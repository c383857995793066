package kafkax

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/holdfast-io/holdfast/testkit"
)

// TestInquiryIsGivenUp has the one who asks for a topic's layout give up while others wait for the answer: one of them
// asks anew, and all others hear it.
func TestInquiryIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := new(testkit.Network)
		server, err := testkit.StartKafka(testkit.KafkaConfig{Network: network, Topics: map[string]int{"orders": 3}})
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		n := newNetwork(Cluster{Brokers: server.Addrs(), Dial: network.Dial}.withDefaults(), requestTimeout)
		defer n.close()
		if _, err := n.layout(t.Context(), "orders"); err != nil { // So that the transport knows the cluster.
			t.Fatal(err)
		}
		mend := server.Inject(testkit.Fault{API: testkit.APIMetadata, Hang: true, Times: 2})
		defer mend()
		first, giveUp := context.WithCancel(t.Context())
		given := make(chan error, 1)
		go func() {
			_, err := n.layoutOf(first, "orders")
			given <- err
		}()
		synctest.Wait()
		before := server.Requests(testkit.APIMetadata)
		answers := make(chan error, 10)
		for range cap(answers) {
			go func() {
				layout, err := n.layoutOf(t.Context(), "orders")
				if err == nil && len(layout.Topics[0].Partitions) != 3 {
					err = errNoAnswer
				}
				answers <- err
			}()
		}
		synctest.Wait()
		giveUp()
		if err := <-given; !errors.Is(err, context.Canceled) {
			t.Errorf("who gave up got %v", err)
		}
		synctest.Wait() // All ask by now, of the one that asks the broker.
		mend()
		for range cap(answers) {
			if err := <-answers; err != nil {
				t.Error(err)
			}
		}
		if n := server.Requests(testkit.APIMetadata) - before; n != 1 {
			t.Errorf("%d requests for those who waited, want 1", n)
		}
	})
}
