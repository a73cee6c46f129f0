package workflow

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// stateBytesMax bounds a run's state: it is rewritten with every step. Steps remember ids and generations, not contents.
const stateBytesMax = 64 << 10

// Run is one run as its steps see it. It is valid during the call it is passed to.
type Run[A any] struct {
	*run
	// Args are the arguments the run was started with: a fresh copy for each call.
	Args A
}

// run is the part of Run that does not depend on the arguments' type. One goroutine uses it.
type run struct {
	// ID identifies the run.
	ID RunID
	// Attempt is 1 for the first try of this step since it became current, 2 for the second...; it goes on counting after a crash.
	Attempt int
	// Logger carries the run, the flow and the step.
	Logger *slog.Logger

	rec  *Record
	save func(context.Context) error
}

// Key returns the key under which the run is serialised, empty when there is none.
func (r *run) Key() string { return r.rec.Key }

// Owner returns the fencing revision of the leadership under which this engine writes, zero when there is none.
func (r *run) Owner() int64 { return r.rec.Owner }

// Cause returns why the run unwinds, nil on the way forward.
func (r *run) Cause() error { return r.rec.Cause.Err() }

// Set remembers a small value for later steps and undos. It is journaled together with the end of this step: after a crash within the step it
// is forgotten, and the step, which runs again, sets it again.
func (r *run) Set(name string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return Abort(cloud.E(cloud.KindInternal, "remember "+name, string(r.ID), err))
	}
	size := len(name) + len(data)
	for k, d := range r.rec.State {
		if k != name {
			size += len(k) + len(d)
		}
	}
	if size > stateBytesMax {
		return Abort(cloud.E(cloud.KindInternal, "remember "+name, string(r.ID), fmt.Errorf("state of %d bytes, at most %d", size, stateBytesMax)))
	}
	if r.rec.State == nil {
		r.rec.State = map[string]json.RawMessage{}
	}
	r.rec.State[name] = data
	return nil
}

// Save is Set that returns when the value is in the journal. For what must be known before an effect, such as the name of the thing about to be
// made.
func (r *run) Save(ctx context.Context, name string, v any) error {
	if err := r.Set(name, v); err != nil {
		return err
	}
	return r.save(ctx)
}

// Get reads a remembered value into v; false when nothing is remembered under that name.
func (r *run) Get(name string, v any) (bool, error) {
	data, ok := r.rec.State[name]
	if !ok {
		return false, nil
	}
	if err := json.Unmarshal(data, v); err != nil {
		return false, Abort(cloud.E(cloud.KindInternal, "recall "+name, string(r.ID), err))
	}
	return true, nil
}
