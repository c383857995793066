package main

import (
	"context"
	"fmt"
	"math/rand/v2"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/holdfast-io/holdfast/bench/internal/broker"
)

// serve is the broker's process.
func serve(ctx context.Context, messages int) error {
	all := make(map[string]int)
	for _, topic := range topics {
		all[topic] = partitions
	}
	b, err := broker.Start(all)
	if err != nil {
		return err
	}
	defer b.Close()
	for _, topic := range topics {
		codec := kgo.NoCompression()
		if topic == "lz4" {
			codec = kgo.Lz4Compression()
		}
		if err := b.Fill(ctx, topic, codec, messages, record); err != nil {
			return err
		}
	}
	b.Serve()
	return nil
}

// record is the i-th message: the same in each run.
func record(i int) *kgo.Record {
	letters := rand.New(rand.NewPCG(1, uint64(i)))
	value := fmt.Appendf(nil, `{"id":%d,"customer":"c%d","text":"`, i, i%997)
	for len(value) < valueSize-2 {
		value = append(value, byte('a'+letters.IntN(26)))
	}
	value = append(value, `"}`...)
	return &kgo.Record{Partition: int32(i % partitions), Key: fmt.Appendf(nil, "k%d", i%10_000), Value: value}
}
