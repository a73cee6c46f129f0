package workflow

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// attemptsDefault is how often a step is tried before its retryable error unwinds the run: with the default back-off that is some ten seconds,
// enough for an agent to reconnect, short enough for a waiting person.
const attemptsDefault = 6

// Func is one direction of a step.
type Func[A any] func(ctx context.Context, r *Run[A]) error

// StepOf is one row of a flow's table; made by Step.
type StepOf[A any] struct {
	name    string
	do      Func[A]
	undo    Func[A]
	options stepOptions
}

type stepOptions struct {
	noUndo    string
	noReturn  bool
	attempts  int
	timeLimit time.Duration
}

// A StepOption changes how the engine treats a step.
type StepOption func(*stepOptions)

// NoUndo states that a step has nothing to undo, and why; the step's undo must be nil.
func NoUndo(reason string) StepOption {
	if reason == "" {
		panic("workflow: NoUndo needs a reason")
	}
	return func(o *stepOptions) { o.noUndo = reason }
}

// PointOfNoReturn marks the step from whose begin on the run only goes forward: it can no longer be cancelled, and later failures are retried
// instead of unwound. Only the marked step itself may still turn the run, by returning Abort, which says that the point was not passed.
func PointOfNoReturn() StepOption { return func(o *stepOptions) { o.noReturn = true } }

// RetryMax bounds the attempts of a step, the first one included. It does not apply behind a point of no return nor to the undo, where the
// alternative to another attempt is a stuck run.
func RetryMax(attempts int) StepOption {
	if attempts < 1 {
		panic("workflow: RetryMax below 1")
	}
	return func(o *stepOptions) { o.attempts = attempts }
}

// TimeLimit bounds each attempt of the step, do and undo alike. An attempt that runs out counts as failed and may be repeated.
func TimeLimit(d time.Duration) StepOption { return func(o *stepOptions) { o.timeLimit = d } }

// Step makes a step. Both functions must be idempotent: after a crash they run again. undo must also cope with a do that ran in part or not at
// all. It is nil if and only if NoUndo is among the options.
func Step[A any](name string, do, undo Func[A], options ...StepOption) StepOf[A] {
	s := StepOf[A]{name: name, do: do, undo: undo, options: stepOptions{attempts: attemptsDefault}}
	for _, o := range options {
		o(&s.options)
	}
	switch {
	case name == "" || do == nil:
		panic("workflow: a step needs a name and a do")
	case (undo == nil) != (s.options.noUndo != ""):
		panic(fmt.Sprintf("workflow: step %s needs either an undo or a reason to have none", name))
	}
	return s
}

// A Definition is an immutable table of steps, built once and shared by all its runs.
type Definition[A any] struct {
	name   string
	steps  []StepOf[A]
	key    func(A) string
	finish func(context.Context, *Run[A], Outcome) error
}

// Define makes a definition. The name is in the journal: renaming a flow orphans its unfinished runs.
func Define[A any](name string, steps ...StepOf[A]) *Definition[A] {
	seen := map[string]bool{}
	for _, s := range steps {
		if seen[s.name] {
			panic(fmt.Sprintf("workflow: flow %s has two steps %s", name, s.name))
		}
		seen[s.name] = true
	}
	if name == "" || len(steps) == 0 {
		panic("workflow: a flow needs a name and steps")
	}
	return &Definition[A]{name: name, steps: steps, key: func(A) string { return "" }}
}

// Keyed returns the definition with a key taken from the arguments: runs of any flow with the same key run one after another. An empty key
// waits for nobody.
func (d *Definition[A]) Keyed(key func(A) string) *Definition[A] {
	c := *d
	c.key = key
	return &c
}

// Outcome is how a run ended.
type Outcome struct {
	Phase Phase  // Done, Failed or Stuck
	Err   error  // nil when Done; else the cause, with its kind
	Step  string // the step where the cause arose; may be empty
}

// Finish returns the definition with a hook that is run once the outcome is known and before the journal closes the run: the place to write
// final states. It must be idempotent; a failure is retried, and at the end leaves the run stuck.
func (d *Definition[A]) Finish(hook func(ctx context.Context, r *Run[A], o Outcome) error) *Definition[A] {
	c := *d
	c.finish = hook
	return &c
}

// Name returns the flow's name.
func (d *Definition[A]) Name() string { return d.name }

// StepInfo describes a step of a definition.
type StepInfo struct {
	Name            string
	NoUndo          string // why there is nothing to undo; empty when there is an undo
	PointOfNoReturn bool
	Attempts        int
}

// Steps describes the steps in order.
func (d *Definition[A]) Steps() []StepInfo {
	var out []StepInfo
	for _, s := range d.steps {
		out = append(out, StepInfo{s.name, s.options.noUndo, s.options.noReturn, s.options.attempts})
	}
	return out
}

// AnyDefinition is a Definition of any argument type.
type AnyDefinition interface {
	Name() string
	Steps() []StepInfo
	erase() *flow
}

// flow is a Definition without its type parameter.
type flow struct {
	name   string
	steps  []erasedStep
	finish func(context.Context, *run, Outcome) error
	// keyOf decodes arguments, which checks them, and returns their key.
	keyOf func(json.RawMessage) (string, error)
}

type erasedStep struct {
	name     string
	do, undo func(context.Context, *run) error // undo is nil for NoUndo
	stepOptions
}

func (d *Definition[A]) erase() *flow {
	f := &flow{name: d.name, finish: func(context.Context, *run, Outcome) error { return nil }}
	for _, s := range d.steps {
		e := erasedStep{name: s.name, do: typed(s.do), stepOptions: s.options}
		if s.undo != nil {
			e.undo = typed(s.undo)
		}
		f.steps = append(f.steps, e)
	}
	if d.finish != nil {
		f.finish = func(ctx context.Context, r *run, o Outcome) error {
			return typed(func(ctx context.Context, r *Run[A]) error { return d.finish(ctx, r, o) })(ctx, r)
		}
	}
	f.keyOf = func(raw json.RawMessage) (string, error) {
		args, err := decodeArgs[A](raw)
		if err != nil {
			return "", err
		}
		return d.key(args), nil
	}
	return f
}

// typed adapts a Func to the engine: it gives each call its own decoded arguments, which the call may do with as it likes.
func typed[A any](fn Func[A]) func(context.Context, *run) error {
	return func(ctx context.Context, r *run) error {
		args, err := decodeArgs[A](r.rec.Args)
		if err != nil {
			return Abort(err)
		}
		return fn(ctx, &Run[A]{run: r, Args: args})
	}
}

func decodeArgs[A any](raw json.RawMessage) (args A, err error) {
	if err := json.Unmarshal(raw, &args); err != nil {
		return args, cloud.E(cloud.KindInvalid, "decode arguments", "", err)
	}
	return args, nil
}

// place returns the index of the named step, -1 when the definition has none.
func (f *flow) place(name string) int {
	for i, s := range f.steps {
		if s.name == name {
			return i
		}
	}
	return -1
}

// passed reports whether a run that has done n steps, or is in step n-1, is behind a point of no return.
func (f *flow) passed(n int) bool {
	for _, s := range f.steps[:n] {
		if s.noReturn {
			return true
		}
	}
	return false
}
