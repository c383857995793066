package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/holdfast-io/holdfast/kafkax"
	"github.com/holdfast-io/holdfast/metrics"
	"github.com/holdfast-io/holdfast/pipeline"
	"github.com/holdfast-io/holdfast/testkit"
)

// place is where the servers are.
type place struct {
	brokers    []string
	clickhouse string
	real       bool
}

// servers starts the servers that the options do not name.
func servers(opts options) (at place, stop func(), err error) {
	var stops []func()
	stop = func() {
		for _, s := range stops {
			s()
		}
	}
	if at.real = opts.brokers != "" || opts.clickhouse != ""; opts.brokers != "" {
		at.brokers = strings.Split(opts.brokers, ",")
	} else {
		broker, err := testkit.StartKafka(testkit.KafkaConfig{})
		if err != nil {
			return at, stop, err
		}
		stops = append(stops, broker.Close)
		at.brokers = broker.Addrs()
		say("started a Kafka stand-in at %s", strings.Join(at.brokers, ","))
	}
	if opts.clickhouse != "" {
		at.clickhouse = opts.clickhouse
	} else {
		ch, err := testkit.StartClickHouse(testkit.ClickHouseConfig{})
		if err != nil {
			stop()
			return at, stop, err
		}
		stops = append(stops, ch.Close)
		at.clickhouse = ch.Addr()
		say("started a ClickHouse stand-in at %s", at.clickhouse)
	}
	return at, stop, nil
}

// serve shows metrics and health over HTTP.
func serve(ctx context.Context, addr string, p *pipeline.Pipeline, cfg metrics.Config) (stop func(), err error) {
	reg := prometheus.NewRegistry()
	if err := metrics.Register(reg, cfg); err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	mux.Handle("/health/", p.HealthHandler())
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	say("metrics at http://%s/metrics, health at http://%[1]s/health/", listener.Addr())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			say("metrics: %v", err)
		}
	}()
	return func() {
		_ = server.Close()
		<-done
	}, nil
}

func closeProducer(p *kafkax.Producer) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := p.Close(ctx); err != nil {
		say("producer: %v", err)
	}
}
