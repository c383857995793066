// Package kafkax reads from and writes to Kafka, over segmentio/kafka-go, without losing a message.
package kafkax
