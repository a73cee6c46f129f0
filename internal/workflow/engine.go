package workflow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

const (
	// concurrencyDefault bounds the runs in progress: most of them wait for hosts, so it is far above the number of processors.
	concurrencyDefault = 64
	// waitingMax bounds the runs accepted but not in progress. Each holds a few kilobytes; more than this means that work comes in faster than
	// hosts can do it, which whoever starts runs must learn.
	waitingMax = 4096
	// backoffMinDefault and backoffMaxDefault bound the pause before another attempt: below the first a host has had no time to change its
	// mind, above the second people think that nothing happens.
	backoffMinDefault = 100 * time.Millisecond
	backoffMaxDefault = 10 * time.Second
)

// Event describes one attempt of a step or of the finish hook.
type Event struct {
	Run     Record // the run as it was before the attempt
	Step    string // step name, "finish" for the finish hook
	Undo    bool
	Attempt int       // 1 for the first
	Begun   time.Time // when the attempt began
	Ended   time.Time // zero in StepBegun
	Err     error     // nil in StepBegun and after success
}

// Hooks let others watch runs. They are called by the run's own goroutine, one at a time per run, and must return soon. Any may be nil.
type Hooks struct {
	StepBegun func(Event)
	StepEnded func(Event)
	// RunEnded is called after the journal has closed the run. A Stuck one deserves an alarm.
	RunEnded func(Record)
	// Wrap surrounds every attempt: it calls next once, or, in tests, twice or not at all.
	Wrap func(ctx context.Context, e Event, next func(context.Context) error) error
}

// Options tune an engine; the zero value is fit for use.
type Options struct {
	Concurrency int           // runs in progress at once; zero means concurrencyDefault
	BackoffMin  time.Duration // first pause before another attempt; zero means 100 ms
	BackoffMax  time.Duration // longest such pause; zero means 10 s
	Rand        *rand.Rand    // spreads the pauses; nil means a random seed. The engine serialises its use.
	Owner       int64         // the fencing revision written into records; zero without leadership
	Logger      *slog.Logger  // nil means slog.Default
	Hooks       Hooks
}

func (o Options) withDefaults() Options {
	if o.Concurrency == 0 {
		o.Concurrency = concurrencyDefault
	}
	if o.BackoffMin == 0 {
		o.BackoffMin = backoffMinDefault
	}
	if o.BackoffMax == 0 {
		o.BackoffMax = backoffMaxDefault
	}
	if o.Rand == nil {
		o.Rand = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return o
}

// Engine runs flows. Make one per leadership: it owns the goroutines of its runs until Stop has returned.
type Engine struct {
	journal Journal
	flows   map[string]*flow
	options Options

	ctx  context.Context // ends with cause ErrStopping
	stop context.CancelCauseFunc
	wg   sync.WaitGroup // one per run in progress

	mu      sync.Mutex // guards what follows and options.Rand
	stopped bool
	runs    map[RunID]*active
	queues  map[string][]*active // by key, only for non-empty keys: the first may run, the others wait for it
	ready   []*active            // may run as soon as there is room, oldest first
	busy    int                  // runs in progress; at most options.Concurrency
}

// NewEngine makes an engine for the given flows. It does nothing until Start or Resume.
func NewEngine(journal Journal, definitions []AnyDefinition, o Options) *Engine {
	e := &Engine{journal: journal, flows: map[string]*flow{}, options: o.withDefaults(), runs: map[RunID]*active{}, queues: map[string][]*active{}}
	for _, d := range definitions {
		if e.flows[d.Name()] != nil {
			panic(fmt.Sprintf("workflow: flow %q defined twice", d.Name()))
		}
		e.flows[d.Name()] = d.erase()
	}
	e.ctx, e.stop = context.WithCancelCause(context.Background())
	return e
}

// Start journals a new run and queues it. Starting a run that exists with the same flow and arguments is a success and changes nothing, whether
// it still runs or has ended; with other arguments it is cloud.KindConflict. When Start has returned nil, the run will be carried out, by this
// engine or a later one.
func (e *Engine) Start(ctx context.Context, flowName string, id RunID, args any) error {
	f := e.flows[flowName]
	if f == nil || id == "" {
		return cloud.E(cloud.KindInvalid, "start run", string(id), fmt.Errorf("no flow %q or no run id", flowName))
	}
	raw, err := json.Marshal(args)
	if err != nil {
		return cloud.E(cloud.KindInvalid, "start run", string(id), err)
	}
	key, err := f.keyOf(raw)
	if err != nil {
		return cloud.E(cloud.KindInvalid, "start run", string(id), err)
	}
	if err := e.admit(id); err != nil {
		return err
	}
	wanted := Record{ID: id, Flow: flowName, Key: key, Args: raw, Phase: Doing, StepName: f.steps[0].name, Started: time.Now().UTC(), Version: 1,
		Owner: e.options.Owner}
	stored, err := e.journal.Create(ctx, wanted)
	if err != nil {
		return fmt.Errorf("start run %s: %w", id, err)
	}
	if !stored.Same(wanted) {
		return cloud.E(cloud.KindConflict, "start run", string(id), fmt.Errorf("exists as %s with other arguments", stored.Flow))
	}
	if stored.Phase.Ended() {
		return nil
	}
	e.enqueue(f, stored)
	return nil
}

// Start is Engine.Start with checked arguments.
func (d *Definition[A]) Start(ctx context.Context, e *Engine, id RunID, args A) error {
	return e.Start(ctx, d.name, id, args)
}

// admit refuses new runs when stopping or full.
func (e *Engine) admit(id RunID) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.stopped:
		return cloud.E(cloud.KindUnavailable, "start run", string(id), ErrStopping)
	case len(e.runs)-e.busy >= waitingMax:
		return cloud.E(cloud.KindUnavailable, "start run", string(id), fmt.Errorf("%d runs wait already", waitingMax))
	}
	return nil
}

// Resume queues every unfinished run of the journal: those an earlier engine left behind. It returns how many it took over. A run whose flow or
// step this program does not know is left alone and reported in the error.
func (e *Engine) Resume(ctx context.Context) (taken int, err error) {
	records, err := e.journal.Unfinished(ctx)
	if err != nil {
		return 0, fmt.Errorf("resume runs: %w", err)
	}
	// Of the runs with one key at most one has begun, and it goes first; the others keep their order.
	slices.SortFunc(records, func(a, b Record) int {
		if a.Version > 1 != (b.Version > 1) {
			if a.Version > 1 {
				return -1
			}
			return 1
		}
		if c := a.Started.Compare(b.Started); c != 0 {
			return c
		}
		return strings.Compare(string(a.ID), string(b.ID))
	})
	var errs []error
	for _, rec := range records {
		f := e.flows[rec.Flow]
		if f == nil {
			errs = append(errs, cloud.E(cloud.KindUnsupported, "resume run", string(rec.ID), fmt.Errorf("no flow %q", rec.Flow)))
			continue
		}
		if rec, err = f.locate(rec); err != nil {
			errs = append(errs, err)
			continue
		}
		e.enqueue(f, rec)
		taken++
	}
	return taken, errors.Join(errs...)
}

// locate finds the record's place in the definition by the step's name, which survives steps added or removed elsewhere.
func (f *flow) locate(rec Record) (Record, error) {
	switch {
	case rec.StepName == "" && rec.Phase == Doing:
		rec.Step = len(f.steps)
	case rec.StepName == "":
		rec.Step = 0
	default:
		i := f.place(rec.StepName)
		if i < 0 {
			return rec, cloud.E(cloud.KindUnsupported, "resume run", string(rec.ID), fmt.Errorf("flow %s has no step %q", f.name, rec.StepName))
		}
		rec.Step = i
		if rec.Phase == Undoing {
			rec.Step = i + 1
		}
	}
	return rec, nil
}

// Cancel asks a run to stop and unwind. It returns nil when the run will do so: the running step's context has ended with a cause of
// cloud.KindCancelled. cloud.KindConflict means that the run is past its point of no return or at its end, cloud.KindNotFound that it does not
// run here. The request is in the journal only when the run has begun to unwind; whoever wants to be sure asks again after a crash.
func (e *Engine) Cancel(id RunID, reason string) error {
	e.mu.Lock()
	a := e.runs[id]
	e.mu.Unlock()
	if a == nil {
		return cloud.E(cloud.KindNotFound, "cancel run", string(id), nil)
	}
	return a.requestCancel(cancelledError(reason))
}

// Retry takes up a stuck run where it stopped, with fresh bounds. It is for operators who have removed the reason.
func (e *Engine) Retry(ctx context.Context, id RunID) error {
	rec, err := e.journal.Load(ctx, id)
	if err != nil {
		return fmt.Errorf("retry run %s: %w", id, err)
	}
	f := e.flows[rec.Flow]
	if rec.Phase != Stuck || f == nil {
		return cloud.E(cloud.KindConflict, "retry run", string(id), fmt.Errorf("run is %s, not stuck", rec.Phase))
	}
	rec.Phase, rec.StuckIn, rec.Attempts, rec.Ended = rec.StuckIn, "", 0, time.Time{}
	if rec, err = f.locate(rec); err != nil {
		return err
	}
	if err := e.admit(id); err != nil {
		return err
	}
	rec.Version++
	rec.Owner = e.options.Owner
	if err := e.journal.Save(ctx, rec); err != nil {
		return fmt.Errorf("retry run %s: %w", id, err)
	}
	e.enqueue(f, rec)
	return nil
}

// Wait returns the record of the run once it has ended. A run that is neither in this engine nor ended is cloud.KindUnavailable; so is every
// run once the engine stops.
func (e *Engine) Wait(ctx context.Context, id RunID) (Record, error) {
	e.mu.Lock()
	a := e.runs[id]
	e.mu.Unlock()
	if a != nil {
		select {
		case <-a.over:
		case <-ctx.Done():
			return Record{}, cloud.E(cloud.KindUnavailable, "wait for run", string(id), ctx.Err())
		}
	}
	rec, err := e.journal.Load(ctx, id)
	if err == nil && !rec.Phase.Ended() {
		err = cloud.E(cloud.KindUnavailable, "wait for run", string(id), fmt.Errorf("run does not go on in this engine: %w", ErrStopping))
	}
	return rec, err
}

// Active returns the runs this engine has in progress or waiting, oldest first.
func (e *Engine) Active() []Record {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []Record
	for _, a := range e.runs {
		out = append(out, *a.shown.Load())
	}
	slices.SortFunc(out, func(a, b Record) int { return a.Started.Compare(b.Started) })
	return out
}

// Stop ends the engine without ending its runs: the contexts of running steps end with cause ErrStopping, what they have completed is
// journaled, nothing is undone. It returns when the last of them has returned, or with an error when ctx ends first.
func (e *Engine) Stop(ctx context.Context) error {
	e.mu.Lock()
	e.stopped = true
	e.mu.Unlock()
	e.stop(ErrStopping)
	idle := make(chan struct{})
	go func() {
		e.wg.Wait()
		close(idle)
	}()
	select {
	case <-idle:
		e.abandonWaiting()
		return nil
	case <-ctx.Done():
		return cloud.E(cloud.KindUnavailable, "stop workflow engine", "", ctx.Err())
	}
}
