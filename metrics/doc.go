// Package metrics shows circuits, retries, pipelines, consumers, spools and redrives to Prometheus. It reads their Stats
// when it is scraped and keeps nothing of its own; it is the only package of Holdfast that imports client_golang.
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
//	holdfast_consumer_generation{consumer,group}                 0 while not joined
//	holdfast_consumer_generations_total{consumer,group}
//	holdfast_consumer_commits_failed_total{consumer,group}       tried again
//	holdfast_consumer_out_of_range_total{consumer,group}
//	holdfast_consumer_passed_over_total{consumer,group}
//	holdfast_consumer_last_drain_seconds{consumer,group}
//	holdfast_consumer_drain_timeouts_total{consumer,group}
//	holdfast_consumer_partition_lag{consumer,group,topic,partition}
//	holdfast_consumer_partition_committed_offset{consumer,group,topic,partition}
//	holdfast_consumer_partition_position_offset{consumer,group,topic,partition}
//	holdfast_consumer_partition_prefetched_bytes{consumer,group,topic,partition}
//	holdfast_consumer_partition_fetch_failing{consumer,group,topic,partition}          1 while nothing can be fetched, else 0
//	holdfast_consumer_partition_fetches_failed_total{consumer,group,topic,partition}
//	holdfast_consumer_partition_commits_total{consumer,group,topic,partition}
//	holdfast_consumer_partition_commits_fenced_total{consumer,group,topic,partition}
//	holdfast_consumer_partition_late_completions_total{consumer,group,topic,partition}
//	holdfast_spool_messages{spool}                               on the local disk
//	holdfast_spool_refused_messages{spool}                       of them: nothing takes them as they are
//	holdfast_spool_bytes{spool}
//	holdfast_spool_max_bytes{spool}                              full when reached
//	holdfast_spool_oldest_age_seconds{spool}
//	holdfast_redrive_running{redrive}
//	holdfast_redrive_letters_total{redrive,result}               redriven, parked, failed, returned, skipped
//
// No key, offset or error text is ever a label.
package metrics
