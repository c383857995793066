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
	engine  *engine
	routes  []route
	started atomic.Bool
	running atomic.Bool
}

// route is a source, how its claims are served, and the lane that takes what the stages made.
type route struct {
	source Source
	serve  func(context.Context, holdfast.Claim) error
	lane   func(context.Context)
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
	p := &Pipeline{engine: e, routes: []route{newRoute(e, source, run, newLane(e, sink, cfg.DeadLetterAfter, "sink"), false)}}

	home, err := wayHome(kin, cfg, group)
	if err != nil {
		return nil, err
	}
	if home != nil {
		p.routes = append(p.routes, newRoute(e, home, run, newLane(e, sink, -1, "sink of letters on their way home"), true))
	}
	return p, nil
}

func newRoute[T any](e *engine, source Source, run call[holdfast.Message, T], l *lane[T], home bool) route {
	return route{
		source: source,
		serve: func(ctx context.Context, c holdfast.Claim) error {
			return serve(ctx, e, c, run, l, home)
		},
		lane: l.run,
	}
}

// wayHome is the source that brings this group's letters of an open circuit back, nil if there is none: letters stay by
// configuration, or one of the ends does not know how.
func wayHome(kin sibling, cfg Config, group string) (Source, error) {
	topic := deadLetterTopic(cfg)
	if kin == nil || topic == "" || cfg.LettersStay {
		return nil, nil
	}
	letters := claimsFunc(func(ctx context.Context, handle func(context.Context, holdfast.Claim) error) error {
		return kin.ConsumeAs(ctx, group+".redrive", []string{topic}, handle)
	})
	home, err := dlq.NewSource(letters, dlq.SourceConfig{Group: group, Reasons: []dlq.Reason{dlq.CircuitOpen}})
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
// Nothing that Run started outlives it.
func (p *Pipeline) Run(ctx context.Context) error {
	if !p.started.CompareAndSwap(false, true) {
		return ErrRunning
	}
	p.running.Store(true)
	defer p.running.Store(false)

	ctx, stop := context.WithCancel(ctx)
	defer stop()
	hard, end := context.WithCancelCause(context.WithoutCancel(ctx))
	defer end(nil)
	defer context.AfterFunc(ctx, func() {
		timer := time.AfterFunc(p.engine.cfg.DrainTimeout, func() { end(errDrainOver) })
		context.AfterFunc(hard, func() { timer.Stop() })
	})()

	var lanes, sources sync.WaitGroup
	errs := make([]error, len(p.routes))
	for i, r := range p.routes {
		lanes.Go(func() { r.lane(hard) })
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
	lanes.Wait()
	return errors.Join(errs...)
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
