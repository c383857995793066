package dlq_test

import (
	"github.com/holdfast-io/holdfast/breaker"
	"github.com/holdfast-io/holdfast/dlq"
	"github.com/holdfast-io/holdfast/kafkax"
)

// What a Redrive needs, without knowing of it.
var (
	_ dlq.Consumer = (*kafkax.Consumer)(nil)
	_ dlq.Target   = (*kafkax.Producer)(nil)
	_ dlq.Log      = (*kafkax.Admin)(nil)
	_ dlq.Circuit  = (*breaker.Breaker)(nil)
)
