package flows

import (
	"errors"
	"strings"
	"testing"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
	"github.com/godwit-cloud/godwit/internal/workflow/workflowtest"
)

// The one disk of a server in a shared directory is on both sides of every clean-up. These have each step fail, and the engine die at each, and look for it after
// (Nova bug 2080436 is the loss of it after a migration that went well).

// sharedMove is a live migration between hosts that share a directory, just asked for.
func sharedMove(t *testing.T) *world {
	t.Helper()
	w := moving(t)
	w.share()
	w.write(func(tx *store.Tx) error {
		m, err := store.Get(tx, tables.Migrations, cloud.MigrationID("m1"))
		m.Asked = cloud.MigrateAuto
		return errors.Join(err, store.Put(tx, tables.Migrations, m.ID, m))
	})
	return w
}

// keptDisk checks that what the server wrote before is on its disk.
func (w *world) keptDisk() error {
	if on := w.onDisk(hostA); !strings.Contains(on, "[a]") || on != w.onDisk(hostB) {
		return errors.New("the shared disk holds " + on)
	}
	return nil
}

func TestMigrateNeverLosesASharedDisk(t *testing.T) {
	workflowtest.Run(t, func(t *testing.T) workflowtest.Case[cloud.Intent] {
		w := sharedMove(t)
		return workflowtest.Case[cloud.Intent]{Definition: w.flows.Migrate(), Args: w.intent,
			Done: func() error {
				c := &check{}
				c.must(w.migration().Kind == cloud.MigrateShared, "the migration was %s", w.migration().Kind)
				return errors.Join(moved(w), c.err(), w.keptDisk())
			},
			Clean: func() error { return errors.Join(stayed(w, w.migration().Status), w.keptDisk()) }}
	})
}

func TestEvacuateNeverLosesASharedDisk(t *testing.T) {
	workflowtest.Run(t, func(t *testing.T) workflowtest.Case[cloud.Intent] {
		w := withStorage(running(t, cloud.IntentEvacuate, func(s *cloud.Server) { s.Task = cloud.TaskRebuilding }))
		w.share()
		w.ask(func(*diskWorld) {})
		return workflowtest.Case[cloud.Intent]{Definition: w.flows.Evacuate(), Args: w.intent,
			Done: func() error {
				c, s := w.settled(), w.now()
				c.must(s.VMState == cloud.VMActive && s.Host == hostB, "server is %s on %q", s.VMState, s.Host)
				return errors.Join(c.err(), w.keptDisk())
			},
			Clean: func() error {
				c, s := w.settled(), w.now()
				c.must(s.VMState == cloud.VMActive && s.Host == hostA, "server is %s on %q", s.VMState, s.Host)
				return errors.Join(c.err(), w.keptDisk())
			}}
	})
}
