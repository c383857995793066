package pipeline_test

import (
	"context"

	"github.com/holdfast-io/holdfast/clickhousex"
	"github.com/holdfast-io/holdfast/dlq"
	"github.com/holdfast-io/holdfast/kafkax"
	"github.com/holdfast-io/holdfast/pipeline"
)

// What the packages give each other without knowing each other.
var (
	_ pipeline.Source      = (*kafkax.Consumer)(nil)
	_ pipeline.Source      = (*dlq.Source)(nil)
	_ pipeline.DeadLetters = (*dlq.Topic)(nil)
	_ interface {
		Check(context.Context, ...string) error
	} = (*dlq.Topic)(nil)
	_ pipeline.Sink[int] = (*clickhousex.Inserter[int])(nil)
	_ pipeline.Sink[int] = (*kafkax.TopicSink[int])(nil)
	_ kafkax.Spool       = (*dlq.Spool)(nil)
	_ dlq.Producer       = (*kafkax.Producer)(nil)
	_ dlq.Claims         = (*kafkax.Consumer)(nil)
)
