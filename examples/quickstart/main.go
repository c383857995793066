// Quickstart moves orders from Kafka into ClickHouse, takes ClickHouse away in the middle, brings it back, and then
// checks that every order is stored or in the dead-letter queue.
//
//	go run ./examples/quickstart
//
// starts stand-ins for both servers in its own process. With -brokers and -clickhouse it runs the same against real ones.
// The exit status is 0 only when no order is lost.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/clickhousex"
	"github.com/holdfast-io/holdfast/dlq"
	"github.com/holdfast-io/holdfast/kafkax"
	"github.com/holdfast-io/holdfast/metrics"
	"github.com/holdfast-io/holdfast/pipeline"
	"github.com/holdfast-io/holdfast/retry"
)

func main() {
	var opts options
	flag.IntVar(&opts.messages, "messages", 20_000, "orders to produce, one in a thousand of them poison")
	flag.StringVar(&opts.brokers, "brokers", "", "Kafka brokers, separated by commas; empty starts one in this process")
	flag.StringVar(&opts.clickhouse, "clickhouse", "", "ClickHouse server, host:port of the native protocol; empty starts one in this process")
	flag.StringVar(&opts.metrics, "metrics", "", "address to serve /metrics and /health on, such as localhost:9100")
	flag.DurationVar(&opts.outage, "outage", 3*time.Second, "how long ClickHouse is away")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{ReplaceAttr: shorten})))
	result, err := run(ctx, opts)
	if err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
	fmt.Println(result)
	if result.lost > 0 {
		os.Exit(1)
	}
}

type options struct {
	messages                     int
	brokers, clickhouse, metrics string
	outage                       time.Duration
}

func run(ctx context.Context, opts options) (result, error) {
	if opts.messages < 1000 || opts.outage < 0 {
		return result{}, fmt.Errorf("-messages must be at least 1000 and -outage not negative, got %d and %v", opts.messages, opts.outage)
	}
	at, stop, err := servers(opts)
	if err != nil {
		return result{}, err
	}
	defer stop()
	shop := newShop(at, opts.messages)
	if err := shop.open(ctx); err != nil {
		return result{}, err
	}
	defer shop.close()

	// This is the program that the README shows.
	wall := &wall{}
	circuit := clickhousex.BreakerConfig("clickhouse")
	circuit.MaxFailures, circuit.SuccessThreshold, circuit.Timeout = 3, 1, time.Second
	circuit.OnStateChange = func(name string, from, to breaker.State) { say("circuit %s: %v -> %v", name, from, to) }
	guard, err := breaker.New(circuit)
	if err != nil {
		return result{}, err
	}
	ch, err := clickhousex.Open(&clickhouse.Options{
		Addr: []string{at.clickhouse}, DialContext: wall.dial, DialTimeout: time.Second,
	}, clickhousex.Config{Breaker: guard})
	if err != nil {
		return result{}, err
	}
	defer ch.Close()
	cluster := kafkax.Cluster{Brokers: at.brokers}
	consumer, err := kafkax.NewConsumer(cluster, kafkax.ConsumerConfig{Group: shop.group, Topics: []string{shop.topic}})
	if err != nil {
		return result{}, err
	}
	producer, err := kafkax.NewProducer(cluster, kafkax.ProducerConfig{})
	if err != nil {
		return result{}, err
	}
	defer closeProducer(producer)
	dead, err := dlq.NewTopic(producer, dlq.TopicConfig{Topic: shop.deadLetters})
	if err != nil {
		return result{}, err
	}
	var inserts, prices retry.Counter
	store, err := clickhousex.NewInserter[row](ch, shop.table, clickhousex.InserterConfig{Retry: retry.Policy{OnAttempt: inserts.Observe}})
	if err != nil {
		return result{}, err
	}
	decode := pipeline.Map("decode", pipeline.JSON[order], pipeline.StageConfig{})
	price := pipeline.Map("price", addPrice, pipeline.StageConfig{
		Timeout: time.Second, Retry: retry.Policy{OnAttempt: prices.Observe},
	})
	p, err := pipeline.New(consumer, pipeline.Then(decode, price), store, pipeline.Config{
		DeadLetters: dead,
		Batch:       pipeline.BatchConfig{Count: 1_000, Delay: 200 * time.Millisecond},
	})
	if err != nil {
		return result{}, err
	}

	if opts.metrics != "" {
		closeMetrics, err := serve(ctx, opts.metrics, p, metrics.Config{
			Circuits:  []*breaker.Breaker{guard},
			Retries:   map[string]*retry.Counter{"insert": &inserts, "price": &prices},
			Pipelines: []*pipeline.Pipeline{p},
			Consumers: map[string]metrics.Consumer{"orders": consumer},
		})
		if err != nil {
			return result{}, err
		}
		defer closeMetrics()
	}
	if err := play(ctx, p, shop, producer, wall, opts.outage); err != nil {
		return result{}, err
	}
	return shop.check(ctx, cluster, p.Stats().Redriven)
}

// play runs the pipeline while orders come in and ClickHouse goes away and comes back.
func play(ctx context.Context, p *pipeline.Pipeline, shop *shop, producer *kafkax.Producer, wall *wall, outage time.Duration) error {
	running, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- p.Run(running) }()
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		watch(running, p)
	}()

	err := func() error {
		say("%d orders come in, %d of them poison", shop.messages, shop.poison())
		third := shop.messages / 3
		if err := shop.produce(ctx, producer, 0, third, 0); err != nil {
			return err
		}
		if err := shop.wait(ctx, ended, func(stored int) bool { return stored > third/2 }); err != nil {
			return err
		}
		say("ClickHouse goes away; the next acknowledgement is lost on the way")
		wall.raise()
		if err := shop.produce(ctx, producer, third, shop.messages, outage); err != nil {
			return err
		}
		say("ClickHouse is back")
		wall.lower()
		return shop.wait(ctx, ended, func(stored int) bool { return stored == shop.messages-shop.poison() })
	}()
	stop()
	<-watched
	if err != nil {
		return errors.Join(err, <-ended)
	}
	say("drained")
	return <-ended
}

// watch prints a line of progress twice a second.
func watch(ctx context.Context, p *pipeline.Pipeline) {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			progress(p)
		}
	}
}

func progress(p *pipeline.Pipeline) {
	s := p.Stats()
	var lag, home int64
	for _, part := range s.Partitions {
		if part.Home {
			home += max(part.Lag, 0)
		} else {
			lag += max(part.Lag, 0)
		}
	}
	var letters uint64
	for _, n := range s.Letters {
		letters += n
	}
	var waits []string
	for _, t := range p.Health().Troubles {
		waits = append(waits, t.Place)
	}
	line := fmt.Sprintf("stored %5d  waiting %5d  letters %4d  on their way home %4d  came home %4d", s.Stored, lag, letters, home, s.Redriven)
	if len(waits) > 0 {
		line += "  degraded: " + strings.Join(waits, ", ")
	}
	say("%s", line)
}

// started is when the program began, for what it prints.
var started = time.Now()

func say(format string, args ...any) {
	fmt.Printf("%5.1fs  %s\n", time.Since(started).Seconds(), fmt.Sprintf(format, args...))
}

// shorten drops from a log line what a demonstration does not need.
func shorten(_ []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}
