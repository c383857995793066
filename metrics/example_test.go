package metrics_test

import (
	"fmt"
	"log"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/metrics"
	"github.com/holdfast-io/holdfast/retry"
)

func ExampleRegister() {
	payments, err := breaker.New(breaker.DefaultConfig("payments"))
	if err != nil {
		log.Fatal(err)
	}
	var attempts retry.Counter // policy.OnAttempt = attempts.Observe

	reg := prometheus.NewRegistry()
	if err := metrics.Register(reg, metrics.Config{
		Circuits: []*breaker.Breaker{payments},
		Retries:  map[string]*retry.Counter{"payments": &attempts},
	}); err != nil {
		log.Fatal(err)
	}
	// promhttp.HandlerFor(reg, promhttp.HandlerOpts{}) serves it.
	payments.ForceOpen()
	families, err := reg.Gather()
	if err != nil {
		log.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "holdfast_circuit_breaker_state" {
			fmt.Println(f.GetName(), f.GetMetric()[0].GetLabel()[0].GetValue(), f.GetMetric()[0].GetGauge().GetValue())
		}
	}
	// Output:
	// holdfast_circuit_breaker_state payments 1
}
