package metrics

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/dlq"
	"github.com/holdfast-io/holdfast/pipeline"
	"github.com/holdfast-io/holdfast/retry"
)

// NoNamespace as Config.Namespace gives names without one, such as circuit_breaker_state.
const NoNamespace = "-"

const defaultNamespace = "holdfast"

// Config is what to show. The zero value shows nothing. What is put into its slices and maps after Register is not shown;
// what joins a Group is. Bytes of a name that are no UTF-8 are shown as U+FFFD.
type Config struct {
	// Namespace is the first part of every name. Defaults to "holdfast"; NoNamespace for none.
	Namespace string

	Circuits  []*breaker.Breaker
	Groups    []*breaker.Group          // With the circuits that they come to have.
	Retries   map[string]*retry.Counter // By the name they are to have.
	Pipelines []*pipeline.Pipeline
	Consumers map[string]Consumer     // By the name they are to have.
	Spools    map[string]*dlq.Spool   // By the name they are to have.
	Redrives  map[string]*dlq.Redrive // By the name they are to have.
}

// Consumer is what Config wants of one. A *kafkax.Consumer is one.
type Consumer interface {
	Stats() holdfast.ConsumerStats
}

// Validate names every field that cannot be. Circuits must differ by name, and so must pipelines.
func (c Config) Validate() error {
	var errs []error
	if c.Namespace != NoNamespace && c.Namespace != "" && !validName(c.Namespace) {
		errs = append(errs, fmt.Errorf("metrics: Config.Namespace must be letters, digits and underscores, not a digit first, got %q", c.Namespace))
	}
	names := make(map[string]bool)
	unique := func(field, name string) {
		if names[field+name] {
			errs = append(errs, fmt.Errorf("metrics: Config.%s must differ by name, got two named %q", field, name))
		}
		names[field+name] = true
	}
	for i, b := range c.Circuits {
		if b == nil {
			errs = append(errs, fmt.Errorf("metrics: Config.Circuits[%d] must be a breaker, got nil", i))
			continue
		}
		unique("Circuits", b.Name())
	}
	for i, g := range c.Groups {
		if g == nil {
			errs = append(errs, fmt.Errorf("metrics: Config.Groups[%d] must be a group, got nil", i))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Retries)) {
		if c.Retries[name] == nil {
			errs = append(errs, fmt.Errorf("metrics: Config.Retries[%q] must be a counter, got nil", name))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Consumers)) {
		if c.Consumers[name] == nil {
			errs = append(errs, fmt.Errorf("metrics: Config.Consumers[%q] must be a consumer, got nil", name))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Spools)) {
		if c.Spools[name] == nil {
			errs = append(errs, fmt.Errorf("metrics: Config.Spools[%q] must be a spool, got nil", name))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Redrives)) {
		if c.Redrives[name] == nil {
			errs = append(errs, fmt.Errorf("metrics: Config.Redrives[%q] must be a redrive, got nil", name))
		}
	}
	for i, p := range c.Pipelines {
		if p == nil {
			errs = append(errs, fmt.Errorf("metrics: Config.Pipelines[%d] must be a pipeline, got nil", i))
			continue
		}
		unique("Pipelines", p.Stats().Name)
	}
	return errors.Join(errs...)
}

func validName(s string) bool {
	for i, r := range s {
		letter := r == '_' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
		if !letter && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return true
}

func (c Config) namespace() string {
	if c.Namespace == NoNamespace {
		return ""
	}
	return cmp.Or(c.Namespace, defaultNamespace)
}

// Register shows cfg through reg. Nothing is registered when it returns an error, such as for two calls that would use
// the same names.
func Register(reg prometheus.Registerer, cfg Config) error {
	if reg == nil {
		return errors.New("metrics: Register needs a Registerer, got nil")
	}
	if err := cfg.Validate(); err != nil {
		return err
	}
	if err := reg.Register(newCollector(cfg)); err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	return nil
}
