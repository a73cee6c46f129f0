package workflow

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// RunID identifies a run. It comes from whoever starts the run, so that starting twice is starting once.
type RunID string

// Phase is where a run stands.
type Phase string

// The phases. A run moves Doing -> Done, Doing -> Undoing -> Failed, or from Doing or Undoing to Stuck; an operator's Retry leads back from Stuck.
const (
	Doing   Phase = "doing"   // going forward
	Undoing Phase = "undoing" // unwinding what was done
	Done    Phase = "done"    // ended: every step is done
	Failed  Phase = "failed"  // ended: everything that was done is undone
	Stuck   Phase = "stuck"   // ended: neither forward nor back worked within the bounds; a person must look
)

// Ended reports whether the engine is finished with a run in this phase.
func (p Phase) Ended() bool { return p == Done || p == Failed || p == Stuck }

// Failure is an error in the form the journal keeps.
type Failure struct {
	Step string   `json:"step,omitempty"` // where it happened; empty when the run was cancelled between steps
	Kind KindName `json:"kind"`
	Text string   `json:"text"`
}

// KindName is a cloud.Kind by name, which, unlike its number, may be stored.
type KindName string

// Kind returns the kind of that name; a name this program does not know is cloud.KindInternal.
func (n KindName) Kind() cloud.Kind {
	for _, k := range cloud.Kinds() {
		if k.String() == string(n) {
			return k
		}
	}
	return cloud.KindInternal
}

// Err returns the failure as an error of its kind, nil for nil.
func (f *Failure) Err() error {
	if f == nil {
		return nil
	}
	return cloud.E(f.Kind.Kind(), "", "", errors.New(f.Text))
}

func failureOf(step string, err error) *Failure {
	return &Failure{Step: step, Kind: KindName(cloud.KindOf(err).String()), Text: err.Error()}
}

// Timing is how long one step, done or undone, took: from the first attempt's begin to the last one's end.
type Timing struct {
	Step     string    `json:"step"`
	Undo     bool      `json:"undo,omitempty"`
	Begun    time.Time `json:"begun"`
	Ended    time.Time `json:"ended"`
	Attempts int       `json:"attempts"`
}

// Record is a run as the journal keeps it: all that a new engine needs to go on.
type Record struct {
	ID   RunID           `json:"id"`
	Flow string          `json:"flow"`
	Key  string          `json:"key,omitempty"` // runs with the same non-empty key run one after another
	Args json.RawMessage `json:"args"`
	// State is what the steps remember for later steps and undos.
	State map[string]json.RawMessage `json:"state,omitempty"`
	Phase Phase                      `json:"phase"`
	// Step counts the steps done while Doing, and the steps still to undo while Undoing. The step at the border may have run in part.
	Step int `json:"step"`
	// StepName names the step to do or undo next, empty at the end. It finds the place again when a newer program has more steps.
	StepName string `json:"step_name,omitempty"`
	// Attempts counts the failed attempts of the next step.
	Attempts int `json:"attempts,omitempty"`
	// Cause is why the run unwinds or has failed; nil on the way forward.
	Cause *Failure `json:"cause,omitempty"`
	// Last is the last attempt's error, kept for whoever watches a run that does not get on.
	Last *Failure `json:"last,omitempty"`
	// StuckIn is the phase in which a stuck run stopped.
	StuckIn Phase     `json:"stuck_in,omitempty"`
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended,omitzero"`
	Timings []Timing  `json:"timings,omitempty"`
	// Version counts the writes of this record, beginning with 1. A journal refuses to go back.
	Version int64 `json:"version"`
	// Owner is the fencing revision of the leader that wrote last, zero without leadership.
	Owner int64 `json:"owner,omitempty"`
}

// Clone returns a deep copy.
func (r Record) Clone() Record {
	r.Args = bytes.Clone(r.Args)
	r.State = maps.Clone(r.State) // the values are replaced, never changed
	r.Timings = slices.Clone(r.Timings)
	for _, f := range []**Failure{&r.Cause, &r.Last} {
		if *f != nil {
			c := **f
			*f = &c
		}
	}
	return r
}

// Same reports whether two records ask for the same run: the same flow with the same arguments.
func (r Record) Same(other Record) bool {
	return r.Flow == other.Flow && bytes.Equal(r.Args, other.Args)
}
