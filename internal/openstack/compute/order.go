package compute

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// An order is work to be done on a server: the intent that control picks up and the action users watch. Its ids are made before the
// transaction, so that a transaction that runs again writes the same records.
type order struct {
	intent cloud.Intent
	action cloud.Action
}

// newOrder makes an order on the caller's behalf. name is the action's.
func (c *call) newOrder(kind cloud.IntentKind, name string) order {
	now := c.now()
	return order{
		intent: cloud.Intent{ID: cloud.IntentID(newID()), Kind: kind, RequestID: c.r.ID, Project: c.r.Caller.Project, User: c.r.Caller.User, Created: now},
		action: c.newAction(name, now),
	}
}

// newAction makes the record of a request that changes a server.
func (c *call) newAction(name string, now time.Time) cloud.Action {
	return cloud.Action{RequestID: c.r.ID, Name: name, Project: c.r.Caller.Project, User: c.r.Caller.User, Started: now, Updated: now}
}

// place writes the server, the intent and the action.
func (o order) place(tx *store.Tx, s *cloud.Server) error {
	s.Updated = o.intent.Created
	o.intent.Server = s.ID
	if err := store.Put(tx, tables.Servers, s.ID, *s); err != nil {
		return err
	}
	if err := store.Create(tx, tables.Intents, o.intent.ID, o.intent); err != nil {
		return err
	}
	return recordAction(tx, s.ID, o.action)
}

// recordAction writes an action of a server.
func recordAction(tx *store.Tx, id cloud.ServerID, a cloud.Action) error {
	a.Server = id
	return store.Put(tx, tables.Actions, tables.ActionKey(id, a.RequestID), a)
}

// allow is Server.Allow for this caller: an administrator's hands are not bound by a lock, and both kinds of reboot are "reboot" in messages.
func (c *call) allow(s *cloud.Server, op cloud.Operation) error {
	judged := *s
	if c.admin() {
		judged.Locked = false
	}
	err := judged.Allow(op)
	if err != nil && op == cloud.OpRebootHard {
		return cloud.E(cloud.KindOf(err), "", "", errors.New(strings.Replace(err.Error(), string(cloud.OpRebootHard), string(cloud.OpReboot), 1)))
	}
	return err
}

// checkLock refuses changes to a locked server by anybody but an administrator.
func (c *call) checkLock(s *cloud.Server) error {
	if s.Locked && !c.admin() {
		return conflict("Instance %s is locked", s.ID)
	}
	return nil
}

// settled refuses an operation that has no cloud.Operation unless the server is in one of the states and, with idle set, has no task.
func settled(s *cloud.Server, what string, idle bool, states ...cloud.VMState) error {
	if !slices.Contains(states, s.VMState) {
		return conflict("Cannot '%s' instance %s while it is in vm_state %s", what, s.ID, s.VMState)
	}
	if idle && s.Task != cloud.TaskNone {
		return conflict("Cannot '%s' instance %s while it is in task_state %s", what, s.ID, s.Task)
	}
	return nil
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
