package pipeline

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-io/holdfast"
	"github.com/holdfast-io/holdfast/dlq"
	"github.com/holdfast-io/holdfast/internal/mutant"
)

// ErrRunning says that Run was called on a pipeline that runs or has run.
var ErrRunning = errors.New("pipeline: Run may be called once")

// errDrainOver is why claims end when Run's time to drain is spent.
var errDrainOver = errors.New("pipeline: Config.DrainTimeout is spent")

// Pipeline moves messages from a source through stages into a sink and settles every one of them: stored, skipped on
// purpose, or dead-lettered and acknowledged there. Only then, and in order, is its offset committed.
//
// It is made by New. Its methods are safe for concurrent use; Run may be called once.
type Pipeline struct {
	engine *engine
	gate   *gate
	routes []route
	state  atomic.Int32
}

// The states of a Pipeline.
const (
	isNew int32 = iota
	isRunning
	isOver
)

// homeSink is the sink's name in health for letters on their way home.
const homeSink = "sink of letters on their way home"

// route is a source, how its claims are served, and the outlet that takes what the stages made.
type route struct {
	source Source
	serve  func(context.Context, holdfast.Claim) error
	outlet func(context.Context)
}

// New builds a pipeline. It does no I/O. The error names everything that is wrong with the arguments.
func New[T any](source Source, stages Stage[holdfast.Message, T], sink Sink[T], cfg Config) (*Pipeline, error) {
	errs := append([]error{cfg.Validate()}, stages.faults...)
	if source == nil {
		errs = append(errs, errors.New("pipeline: New needs a Source, got nil"))
	}
	if sink == nil {
		errs = append(errs, errors.New("pipeline: New needs a Sink, got nil"))
	} else {
		errs = append(errs, validateSink(sink))
	}
	if stages.bind == nil && len(stages.faults) == 0 {
		errs = append(errs, errors.New("pipeline: New needs a Stage made by Map or Then, got the zero Stage"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}

	kin, _ := source.(sibling)
	group := ""
	if kin != nil {
		group = kin.Group()
	}
	cfg = cfg.withDefaults(group)
	if group == "" {
		group = cfg.Name
	}
	e := newEngine(cfg, group)
	run := stages.bind(e)
	inside, _ := sink.(circuit)
	p := &Pipeline{engine: e, gate: newGate(inside)}
	addRoute(p, source, newOutlet(e, sink, p.gate, cfg.DeadLetterAfter, cfg.Batch.Writers, sinkStage), run, false)

	home, err := wayHome(kin, cfg, group)
	if err != nil {
		return nil, err
	}
	if home != nil {
		addRoute(p, home, newOutlet(e, sink, p.gate, -1, 1, homeSink), run, true)
	}
	return p, nil
}

func addRoute[T any](p *Pipeline, source Source, o *outlet[T], run call[holdfast.Message, T], home bool) {
	p.routes = append(p.routes, route{
		source: source,
		serve: func(ctx context.Context, c holdfast.Claim) error {
			return serve(ctx, p.engine, c, run, o, home)
		},
		outlet: o.run,
	})
}

// wayHome is the source that brings this group's letters of an open circuit back, nil if there is none: letters stay by
// configuration, or one of the ends does not know how.
func wayHome(kin sibling, cfg Config, group string) (Source, error) {
	topic := deadLetterTopic(cfg)
	if kin == nil || topic == "" || cfg.LettersStay {
		return nil, nil
	}
	letters := claimsFunc(func(ctx context.Context, handle func(context.Context, holdfast.Claim) error) error {
		return kin.ConsumeAs(ctx, dlq.HomeGroup(group), []string{topic}, handle)
	})
	home, err := dlq.NewSource(letters, dlq.SourceConfig{
		Filter: dlq.Filter{Groups: []string{group}, Reasons: []dlq.Reason{dlq.CircuitOpen}},
		Logger: cfg.Logger,
	})
	if err != nil {
		return nil, fmt.Errorf("pipeline: the letters' way home: %w", err)
	}
	return home, nil
}

type claimsFunc func(context.Context, func(context.Context, holdfast.Claim) error) error

func (f claimsFunc) Consume(ctx context.Context, handle func(context.Context, holdfast.Claim) error) error {
	return f(ctx, handle)
}

// Run moves messages until ctx ends, and then drains: fetching stops, what is in flight is finished or handed back, and
// what is settled is committed. It returns nil after a clean drain. When Config.DrainTimeout is spent first, it stops
// hard and the error says what was left (*LeftError); that is not lost: it is not committed, and processed again by
// whoever owns the partition next. It returns early, after the same drain, when a source cannot go on.
//
// Nothing that Run started outlives it. So a stage, a sink or a dead-letter queue that goes on although its context has ended
// keeps Run from returning, and Health says where.
func (p *Pipeline) Run(ctx context.Context) error {
	if !p.state.CompareAndSwap(isNew, isRunning) {
		return ErrRunning
	}
	defer p.state.Store(isOver)

	ctx, stop := context.WithCancel(ctx)
	defer stop()
	hard, end := context.WithCancelCause(context.WithoutCancel(ctx))
	defer end(nil)
	defer context.AfterFunc(ctx, func() {
		timer := time.AfterFunc(p.engine.cfg.DrainTimeout, func() { end(errDrainOver) })
		context.AfterFunc(hard, func() { timer.Stop() })
	})()

	var helpers, sources sync.WaitGroup
	helpers.Go(func() {
		p.gate.run(hard, func() {
			p.engine.troubles.clear(sinkStage, nil)
			p.engine.troubles.clear(homeSink, nil)
		})
	})
	helpers.Go(func() { p.checkDeadLetters(ctx) })
	if mutant.Is("10 a goroutine outlives Run") {
		go p.gate.run(context.WithoutCancel(ctx), func() {})
	}
	errs := make([]error, len(p.routes))
	for i, r := range p.routes {
		helpers.Go(func() { r.outlet(hard) })
		sources.Go(func() {
			defer stop() // One source that ends, ends all.
			errs[i] = r.source.Consume(ctx, func(claimed context.Context, c holdfast.Claim) error {
				claimed, cancel := withCause(claimed, hard)
				defer cancel()
				return r.serve(claimed, c)
			})
		})
	}
	sources.Wait()
	end(nil)
	helpers.Wait()
	return errors.Join(errs...)
}

// checkDeadLetters asks the dead-letter queue, if it offers that, whether letters can be written, and says so in health
// until they can: better now than with the first letter.
func (p *Pipeline) checkDeadLetters(ctx context.Context) {
	queue, ok := p.engine.cfg.DeadLetters.(checker)
	if !ok {
		return
	}
	const place = "check of the dead-letter queue"
	defer p.engine.troubles.clear(place, nil)
	var sources []string
	if named, ok := p.routes[0].source.(interface{ Topics() []string }); ok {
		sources = named.Topics()
	}
	for tries := 1; ctx.Err() == nil; tries++ {
		err := guarded(func() error { return queue.Check(ctx, sources...) })
		if err == nil {
			return
		}
		if ctx.Err() == nil {
			p.engine.troubles.set(place, nil, "failed", err)
			sleep(ctx, backoff(tries, err), nil, nil)
		}
	}
}

// checker is a dead-letter queue that can say beforehand whether letters can be written, as *dlq.Topic can.
type checker interface {
	Check(ctx context.Context, sources ...string) error
}

// withCause derives from ctx a context that also ends when other does, with other's cause.
func withCause(ctx, other context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(other, func() { cancel(context.Cause(other)) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}
