package store

import (
	"context"
	"fmt"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/workflow"
)

// Indexes of the Runs table.
const (
	// RunsByPhase finds runs by workflow.Phase.
	RunsByPhase = "phase"
	// RunsByKey finds the runs of one key, such as a server's id.
	RunsByKey = "key"
	// RunsByEnd sorts ended runs by the time they ended.
	RunsByEnd = "end"
)

// sortableTime is a time format whose text order is the order of the times, for index values in UTC.
const sortableTime = "2006-01-02T15:04:05.000000000Z"

// SortableTime formats a time for use as an index value: text order is time order.
func SortableTime(t time.Time) string { return t.UTC().Format(sortableTime) }

// Runs holds the records of workflow runs. Only RunJournal writes it; anybody may read and watch it.
var Runs = NewTable("runs",
	Index(RunsByPhase, func(r *workflow.Record) []string { return []string{string(r.Phase)} }),
	Index(RunsByKey, func(r *workflow.Record) []string {
		if r.Key == "" {
			return nil
		}
		return []string{r.Key}
	}),
	Index(RunsByEnd, func(r *workflow.Record) []string {
		if r.Ended.IsZero() {
			return nil
		}
		return []string{SortableTime(r.Ended)}
	}))

// RunJournal is the workflow.Journal of one leader: every write requires the leadership, so that the engine of a deposed leader can record
// nothing more, however late its writes arrive.
type RunJournal struct {
	store  *Store
	leader *Leadership
}

var _ workflow.Journal = (*RunJournal)(nil)

// NewRunJournal makes a journal on a store that serves Runs. A nil leader means that the caller knows there is only one engine: tests and
// tools.
func NewRunJournal(s *Store, leader *Leadership) *RunJournal {
	return &RunJournal{store: s, leader: leader}
}

// Owner is the fencing revision to put into workflow.Options.Owner.
func (j *RunJournal) Owner() int64 {
	if j.leader == nil {
		return 0
	}
	return j.leader.Revision()
}

func (j *RunJournal) update(ctx context.Context, fn func(tx *Tx) error) error {
	_, err := j.store.Update(ctx, func(tx *Tx) error {
		if j.leader != nil {
			tx.Require(j.leader)
		}
		return fn(tx)
	})
	return err
}

// Create implements workflow.Journal.
func (j *RunJournal) Create(ctx context.Context, r workflow.Record) (stored workflow.Record, err error) {
	err = j.update(ctx, func(tx *Tx) error {
		stored, err = Get(tx, Runs, r.ID)
		if !cloud.Is(err, cloud.KindNotFound) {
			return err
		}
		stored = r
		return Put(tx, Runs, r.ID, r)
	})
	return stored, err
}

// Save implements workflow.Journal.
func (j *RunJournal) Save(ctx context.Context, r workflow.Record) error {
	return j.update(ctx, func(tx *Tx) error {
		stored, err := Peek(tx, Runs, r.ID)
		switch {
		case err != nil:
			return err
		case stored == nil:
			return cloud.E(cloud.KindStale, "save run", string(r.ID), fmt.Errorf("record is gone"))
		case stored.Version == r.Version && stored.Owner == r.Owner:
			return nil // an earlier attempt whose answer was lost
		case stored.Version != r.Version-1:
			return cloud.E(cloud.KindStale, "save run", string(r.ID), fmt.Errorf("version %d over %d", r.Version, stored.Version))
		}
		return Put(tx, Runs, r.ID, r)
	})
}

// Load implements workflow.Journal. It reads etcd, not the replica: the caller has just been told that the run ended.
func (j *RunJournal) Load(ctx context.Context, id workflow.RunID) (workflow.Record, error) {
	return Fetch(ctx, j.store, Runs, id)
}

// Unfinished implements workflow.Journal. A new leader's replica may lag behind its predecessor's last writes, so it first catches up; after
// the election the predecessor can write no more.
func (j *RunJournal) Unfinished(ctx context.Context) ([]workflow.Record, error) {
	if err := j.store.Sync(ctx); err != nil {
		return nil, err
	}
	var out []workflow.Record
	v := j.store.View()
	for _, phase := range []workflow.Phase{workflow.Doing, workflow.Undoing} {
		for _, r := range By(v, Runs, RunsByPhase, phase) {
			out = append(out, r.Clone())
		}
	}
	return out, nil
}

// pruneBatch bounds one transaction of Prune: each run is one compare and one delete.
const pruneBatch = operationsMax / 2

// Prune removes the records of runs that ended, done or failed, before the given time, oldest first, and returns how many. Stuck runs stay until
// somebody has dealt with them.
func (j *RunJournal) Prune(ctx context.Context, before time.Time) (pruned int, err error) {
	for {
		batch := j.prunable(before)
		if len(batch) == 0 {
			return pruned, nil
		}
		err := j.update(ctx, func(tx *Tx) error {
			for _, id := range batch {
				if err := Delete(tx, Runs, id); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return pruned, err
		}
		pruned += len(batch)
		if err := j.store.Sync(ctx); err != nil {
			return pruned, err
		}
	}
}

func (j *RunJournal) prunable(before time.Time) (batch []workflow.RunID) {
	limit := SortableTime(before)
	for at, r := range Ascend(j.store, Runs, RunsByEnd, Cursor{}) {
		if at.Value >= limit || len(batch) == pruneBatch {
			break
		}
		if r.Phase != workflow.Stuck {
			batch = append(batch, r.ID)
		}
	}
	return batch
}
