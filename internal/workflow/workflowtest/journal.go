// Package workflowtest proves that a flow keeps the promises the engine relies on. Run generates, for any definition, the tests that every
// flow must pass: each step done twice, a failure at each step, each undo done twice, a crash between effect and journal at each step and undo.
// Journal is the journal in memory that these and other tests use; it can lose its engine at any write.
package workflowtest

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/workflow"
)

// ErrCrashed is what the journal answers once its engine is dead.
var ErrCrashed = errors.New("the engine has crashed")

// Journal is a workflow.Journal in memory. The zero value is ready for use.
type Journal struct {
	// CrashAt is asked before each Save, with the record as stored and as to be stored. True kills the engine: this write and all later ones
	// fail as stale and store nothing, until Revive. Nil never kills.
	CrashAt func(stored, next workflow.Record) bool
	// FailAt is asked before each Save that the engine survives; its error is returned and nothing is stored. Nil never fails.
	FailAt func(next workflow.Record) error

	mu      sync.Mutex
	records map[workflow.RunID]workflow.Record
	crashed bool
	dead    chan struct{} // closed by a crash
}

var _ workflow.Journal = (*Journal)(nil)

// Create implements workflow.Journal.
func (j *Journal) Create(_ context.Context, r workflow.Record) (workflow.Record, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.crashed {
		return workflow.Record{}, cloud.E(cloud.KindStale, "create", string(r.ID), ErrCrashed)
	}
	if stored, ok := j.records[r.ID]; ok {
		return stored.Clone(), nil
	}
	if j.records == nil {
		j.records = map[workflow.RunID]workflow.Record{}
	}
	j.records[r.ID] = r.Clone()
	return r, nil
}

// Save implements workflow.Journal.
func (j *Journal) Save(_ context.Context, r workflow.Record) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	stored := j.records[r.ID]
	if !j.crashed && j.CrashAt != nil && j.CrashAt(stored.Clone(), r.Clone()) {
		j.crashed = true
		close(j.deadLocked())
	}
	switch {
	case j.crashed:
		return cloud.E(cloud.KindStale, "save", string(r.ID), ErrCrashed)
	case stored.Version == r.Version:
		return nil
	case stored.Version != r.Version-1:
		return cloud.E(cloud.KindStale, "save", string(r.ID), fmt.Errorf("version %d over %d", r.Version, stored.Version))
	}
	if j.FailAt != nil {
		if err := j.FailAt(r.Clone()); err != nil {
			return err
		}
	}
	j.records[r.ID] = r.Clone()
	return nil
}

// Load implements workflow.Journal.
func (j *Journal) Load(_ context.Context, id workflow.RunID) (workflow.Record, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	r, ok := j.records[id]
	if !ok {
		return r, cloud.E(cloud.KindNotFound, "load", string(id), nil)
	}
	return r.Clone(), nil
}

// Unfinished implements workflow.Journal.
func (j *Journal) Unfinished(context.Context) ([]workflow.Record, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	var out []workflow.Record
	for _, r := range j.records {
		if !r.Phase.Ended() {
			out = append(out, r.Clone())
		}
	}
	return out, nil
}

// Crashed is closed when the engine has been killed.
func (j *Journal) Crashed() <-chan struct{} {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.deadLocked()
}

func (j *Journal) deadLocked() chan struct{} {
	if j.dead == nil {
		j.dead = make(chan struct{})
	}
	return j.dead
}

// Revive lets a new engine write, with crashAt to kill it in turn; nil lets it live. Stop the old engine first.
func (j *Journal) Revive(crashAt func(stored, next workflow.Record) bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.crashed, j.dead, j.CrashAt = false, nil, crashAt
}
