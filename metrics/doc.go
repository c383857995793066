// Package metrics shows circuits, retries and pipelines to Prometheus. It reads their Stats when it is scraped and
// keeps nothing of its own; it is the only package of Holdfast that imports client_golang.
//
// With the default namespace the names are:
//
//	holdfast_circuit_breaker_state{name}                         0 closed, 1 open, 2 half-open
//	holdfast_circuit_breaker_successes_total{name}
//	holdfast_circuit_breaker_failures_total{name}
//	holdfast_circuit_breaker_timeouts_total{name}                of the failures
//	holdfast_circuit_breaker_rejections_total{name}
//	holdfast_retry_attempts_total{name,result}                   first, retry
//	holdfast_retry_calls_total{name,result}                      succeeded, gave_up, rejected, canceled
//	holdfast_pipeline_partition_lag{pipeline,topic,partition}
//	holdfast_pipeline_partition_settled_offset{pipeline,topic,partition}
//	holdfast_pipeline_partition_in_flight{pipeline,topic,partition}
//	holdfast_pipeline_partition_oldest_age_seconds{pipeline,topic,partition}
//	holdfast_pipeline_stored_total{pipeline}
//	holdfast_pipeline_skipped_total{pipeline}
//	holdfast_pipeline_redriven_total{pipeline}
//	holdfast_pipeline_late_completions_total{pipeline}
//	holdfast_pipeline_letters_total{pipeline,reason}
//	holdfast_pipeline_troubles{pipeline}                         places where messages wait; 0 is healthy
//
// No key, offset or error text is ever a label.
package metrics
