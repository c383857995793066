// Package real holds no code, only tests that run the quickstart's flow, and the parts of it, against a real Apache Kafka
// and a real ClickHouse while servers and pipelines are killed and stopped. `make servers-up test-real` runs them; without servers they skip.
package real
