package flows

import (
	"context"
	"net/http"
	"slices"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
	"github.com/godwit-cloud/godwit/internal/workflow"
)

// serversTable abbreviates.
var serversTable = tables.Servers

// conclude is the last write of a run: change writes the server's state, and in the same transaction the action gets its result and the intent
// goes. It is idempotent: without the intent it has been done. change gets nil for a server that is gone.
func (f *Flows) conclude(ctx context.Context, r *run, o workflow.Outcome, change func(tx *store.Tx, s *cloud.Server) error) error {
	_, err := f.Records.UpdateVisible(ctx, func(tx *store.Tx) error {
		intent, err := store.Peek(tx, tables.Intents, r.Args.ID)
		if err != nil || intent == nil {
			return err
		}
		s, err := store.Get(tx, serversTable, r.Args.Server)
		switch {
		case cloud.Is(err, cloud.KindNotFound):
			err = change(tx, nil)
		case err == nil:
			if err = change(tx, &s); err == nil {
				s.Updated = now()
				err = store.Put(tx, serversTable, s.ID, s)
			}
		}
		if err != nil {
			return err
		}
		return closeIntent(tx, r, o)
	})
	return err
}

// closeIntent gives the action its result and removes the intent.
func closeIntent(tx *store.Tx, r *run, o workflow.Outcome) error {
	key := tables.ActionKey(r.Args.Server, r.Args.RequestID)
	action, err := store.Get(tx, tables.Actions, key)
	switch {
	case err == nil:
		action.Updated = now()
		if o.Phase != workflow.Done && !goesOn(tx, r) {
			action.Message = "Error"
		}
		if err := store.Put(tx, tables.Actions, key, action); err != nil {
			return err
		}
	case !cloud.Is(err, cloud.KindNotFound):
		return err
	}
	return store.Delete(tx, tables.Intents, r.Args.ID)
}

// goesOn reports whether the transaction has written another intent for the same request: the action has not ended.
func goesOn(tx *store.Tx, r *run) bool {
	intents, err := store.PeekList(tx, tables.Intents, "")
	if err != nil {
		return false // the commit will meet the same error
	}
	return slices.ContainsFunc(intents, func(i *cloud.Intent) bool {
		return i.RequestID == r.Args.RequestID && i.Server == r.Args.Server && i.ID != r.Args.ID
	})
}

// become moves the server to the state with no task, unless a delete has been asked meanwhile: its task stays.
func become(s *cloud.Server, next cloud.VMState) error {
	task := cloud.TaskNone
	if s.Task == cloud.TaskDeleting {
		task = cloud.TaskDeleting
	}
	return s.Become(next, task)
}

// faultOf returns what a server's owner sees of an error. Nova shows 500 with the exception's text.
func faultOf(err error) *cloud.Fault {
	f := &cloud.Fault{Code: http.StatusInternalServerError, Created: now()}
	if err == nil {
		f.Message = "unknown error"
		return f
	}
	f.Message = err.Error()
	switch {
	case cloud.Is(err, cloud.KindInternal):
		f.Message, f.Details = "The server could not be brought into the wanted state.", err.Error()
	case cloud.Is(err, cloud.KindNoValidHost): // why each host was refused is full of other people's business
		f.Message, f.Details = "No valid host was found. There are not enough hosts available.", err.Error()
	}
	return f
}
