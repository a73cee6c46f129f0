package workflow

import "context"

// Journal keeps the records of runs. An engine assumes that it is the only writer; a journal bound to a leadership makes it so.
//
// Errors: cloud.KindStale means that this engine may write no longer (deposed, or the record is newer than it knows); the engine then leaves
// the run alone. Any other error is taken as passing, and the call is repeated.
type Journal interface {
	// Create stores a new record, or returns the one already stored under its ID.
	Create(ctx context.Context, r Record) (stored Record, err error)
	// Save replaces the record, whose stored version must be r.Version-1. Storing the same version again is a success: the first answer may
	// have been lost.
	Save(ctx context.Context, r Record) error
	// Load returns the record; cloud.KindNotFound when there is none.
	Load(ctx context.Context, id RunID) (Record, error)
	// Unfinished returns every record whose phase has not ended.
	Unfinished(ctx context.Context) ([]Record, error)
}
