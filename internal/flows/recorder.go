package flows

import (
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
	"github.com/godwit-cloud/godwit/internal/workflow"
)

// A Recorder writes what runs do into instance actions and migrations, for people. It writes behind: the engine's hooks only note the latest, and
// one goroutine, Run, writes it, so that no step waits for its own report. Several steps that ended meanwhile are one write. If the leader dies,
// at most the last steps' events are missing.
type Recorder struct {
	records Records
	log     *slog.Logger

	mu     sync.Mutex // guards notes
	notes  map[cloud.IntentID]*note
	wake   chan struct{} // capacity one: "there are notes" needs no second copy
	flight sync.Mutex    // held while writing, so that Flush and Run do not write the same note
}

// note is what is to be written for one run.
type note struct {
	intent cloud.Intent
	events []cloud.ActionEvent // by begin; an event without end is replaced when it ends
	phases []cloud.Phase
}

// finishStep is what the engine calls the finish hook: bookkeeping, of no interest to people.
const finishStep = "finish"

// eventsMax bounds the events of one action: a run that is retried for hours must not grow its record without end. The latest are kept.
const eventsMax = 100

// NewRecorder makes a recorder.
func NewRecorder(records Records, log *slog.Logger) *Recorder {
	return &Recorder{records: records, log: log, notes: map[cloud.IntentID]*note{}, wake: make(chan struct{}, 1)}
}

// Hooks returns the hooks to give to the engine.
func (r *Recorder) Hooks() workflow.Hooks {
	return workflow.Hooks{StepBegun: r.noteEvent, StepEnded: r.noteEvent}
}

func (r *Recorder) noteEvent(e workflow.Event) {
	var intent cloud.Intent
	if err := json.Unmarshal(e.Run.Args, &intent); err != nil || intent.ID == "" || e.Step == finishStep {
		return
	}
	ev := eventOf(e)
	ev.Host = r.hostOf(intent, e.Step)
	r.mu.Lock()
	n := r.notes[intent.ID]
	if n == nil {
		n = &note{intent: intent}
		r.notes[intent.ID] = n
	}
	n.events = merge(n.events, ev)
	if !e.Ended.IsZero() && intent.Migration != "" {
		n.phases = append(n.phases, phaseOf(e))
	}
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// hostOf is the host a step works on, as far as it is known when the step begins or ends: a move's target for the steps named so and its
// source for the others, else the host the server is on.
func (r *Recorder) hostOf(intent cloud.Intent, step string) cloud.HostName {
	v := r.records.View()
	if m, ok := store.Lookup(v, tables.Migrations, intent.Migration); ok {
		if strings.HasSuffix(step, "-target") {
			return m.Target
		}
		return m.Source
	}
	if s, ok := store.Lookup(v, serversTable, intent.Server); ok {
		return s.Host
	}
	return ""
}

// eventName is "flow_step" in Nova's manner; an undo says so.
func eventName(e workflow.Event) string {
	name := e.Run.Flow + "_" + strings.ReplaceAll(e.Step, "-", "_")
	if e.Undo {
		name += "_undo"
	}
	return name
}

func eventOf(e workflow.Event) cloud.ActionEvent {
	out := cloud.ActionEvent{Name: eventName(e), Started: e.Begun, Finished: e.Ended}
	if e.Ended.IsZero() {
		return out
	}
	out.Result = "Success"
	if e.Err != nil {
		out.Result, out.Details = "Error", e.Err.Error()
	}
	return out
}

func phaseOf(e workflow.Event) cloud.Phase {
	p := cloud.Phase{Name: e.Step, Began: e.Begun, Took: e.Ended.Sub(e.Begun)}
	if e.Undo {
		p.Name += " (undo)"
	}
	if e.Err != nil {
		p.Error = e.Err.Error()
	}
	return p
}

// merge puts ev in place of the same event as it was when it began, or appends it.
func merge(events []cloud.ActionEvent, ev cloud.ActionEvent) []cloud.ActionEvent {
	for i := range events {
		if events[i].Name == ev.Name && events[i].Started.Equal(ev.Started) {
			if !ev.Finished.IsZero() {
				if ev.Host == "" {
					ev.Host = events[i].Host // the step removed the record that names it
				}
				events[i] = ev
			}
			return events
		}
	}
	events = append(events, ev)
	return events[max(0, len(events)-eventsMax):]
}

// Run writes notes until ctx ends.
func (r *Recorder) Run(ctx context.Context) error {
	for {
		select {
		case <-r.wake:
			r.Flush(ctx)
		case <-ctx.Done():
			return nil
		}
	}
}

// flushMax bounds one write; what cannot be written then is dropped: events are for people, and the next ones will come through.
const flushMax = 5 * time.Second

// Flush writes what has been noted so far.
func (r *Recorder) Flush(ctx context.Context) {
	r.flight.Lock()
	defer r.flight.Unlock()
	r.mu.Lock()
	notes := r.notes
	r.notes = map[cloud.IntentID]*note{}
	r.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, flushMax)
	defer cancel()
	for id, n := range notes {
		_, err := r.records.UpdateVisible(ctx, func(tx *store.Tx) error { return n.write(tx) })
		if err != nil && ctx.Err() == nil {
			r.log.Warn("events of a run are not recorded", "run", id, "error", err)
		}
	}
}

func (n *note) write(tx *store.Tx) error {
	key := tables.ActionKey(n.intent.Server, n.intent.RequestID)
	action, err := store.Get(tx, tables.Actions, key)
	switch {
	case err == nil:
		for _, e := range n.events {
			action.Events = merge(action.Events, e)
			action.Updated = later(action.Updated, e.Started, e.Finished)
		}
		if err := store.Put(tx, tables.Actions, key, action); err != nil {
			return err
		}
	case !cloud.Is(err, cloud.KindNotFound):
		return err
	}
	if n.intent.Migration == "" || len(n.phases) == 0 {
		return nil
	}
	m, err := store.Get(tx, tables.Migrations, n.intent.Migration)
	if err != nil {
		return ignoreMissing(err)
	}
	m.Phases = append(m.Phases, n.phases...)
	m.Phases = m.Phases[max(0, len(m.Phases)-eventsMax):]
	return store.Put(tx, tables.Migrations, m.ID, m)
}

func later(times ...time.Time) time.Time {
	var out time.Time
	for _, t := range times {
		if t.After(out) {
			out = t
		}
	}
	return out
}
