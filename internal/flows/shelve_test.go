package flows

import (
	"testing"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
	"github.com/godwit-cloud/godwit/internal/workflow/workflowtest"
)

// imaging is a world whose server runs and whose owner has asked for something that makes an image of it.
func imaging(t *testing.T, kind cloud.IntentKind, task cloud.TaskState) *world {
	t.Helper()
	w := running(t, kind, func(s *cloud.Server) { s.Task = task })
	w.flows.Images = &fakeImages{w: &volumeWorld{world: w}, data: map[cloud.ImageID]string{}}
	w.intent.Image = "made"
	w.write(func(tx *store.Tx) error {
		if err := store.Put(tx, tables.Images, "made", cloud.Image{ID: "made", Status: cloud.ImageQueued, DiskFormat: "raw"}); err != nil {
			return err
		}
		return store.Put(tx, tables.Intents, w.intent.ID, w.intent)
	})
	return w
}

func (w *world) image() cloud.Image {
	i, _ := store.Lookup(w.store, tables.Images, cloud.ImageID("made"))
	return *i
}

func TestCaptureKeepsTheEnginesPromises(t *testing.T) {
	workflowtest.Run(t, func(t *testing.T) workflowtest.Case[cloud.Intent] {
		w := imaging(t, cloud.IntentCapture, cloud.TaskImageSnapshotPending)
		return workflowtest.Case[cloud.Intent]{Definition: w.flows.Capture(), Args: w.intent,
			Done: func() error {
				c := w.settled()
				c.livesOn(w, hostA)
				c.must(w.image().Status == cloud.ImageActive, "image is %s", w.image().Status)
				return c.err()
			},
			Clean: func() error {
				c := w.settled()
				c.livesOn(w, hostA)
				c.must(w.image().Status == cloud.ImageKilled || w.image().Status == cloud.ImageActive, "image is %s", w.image().Status)
				return c.err()
			}}
	})
}

func TestShelveKeepsTheEnginesPromises(t *testing.T) {
	workflowtest.Run(t, func(t *testing.T) workflowtest.Case[cloud.Intent] {
		w := imaging(t, cloud.IntentShelve, cloud.TaskShelving)
		return workflowtest.Case[cloud.Intent]{Definition: w.flows.Shelve(), Args: w.intent,
			Done: func() error {
				c, s := w.settled(), w.now()
				c.must(s.VMState == cloud.VMOffloaded && s.Task == cloud.TaskNone && s.Host == "" && s.Shelved != nil && s.Shelved.Image == "made", "server is %s/%q on %q", s.VMState, s.Task, s.Host)
				c.must(len(w.fleet.Leftovers(serverID)) == 0 && len(w.claims()) == 0 && len(w.placed()) == 0, "hosts keep %v, claims on %v", w.fleet.Leftovers(serverID), w.claims())
				c.must(w.port().BindingHost == "" && w.image().Status == cloud.ImageActive, "port on %q, image %s", w.port().BindingHost, w.image().Status)
				return c.err()
			},
			Clean: func() error {
				c := w.settled()
				c.livesOn(w, hostA)
				c.must(w.image().Status == cloud.ImageDeleted, "image is %s", w.image().Status)
				return c.err()
			}}
	})
}

func TestUnshelveKeepsTheEnginesPromises(t *testing.T) {
	workflowtest.Run(t, func(t *testing.T) workflowtest.Case[cloud.Intent] {
		w := newWorld(t, cloud.IntentUnshelve)
		w.server.VMState, w.server.Task, w.server.Generation, w.server.Shelved = cloud.VMOffloaded, cloud.TaskUnshelving, 3, &cloud.Shelved{Image: "made"}
		w.saveServer()
		w.write(func(tx *store.Tx) error {
			return store.Put(tx, tables.Images, "made", cloud.Image{ID: "made", Status: cloud.ImageActive})
		})
		return workflowtest.Case[cloud.Intent]{Definition: w.flows.Unshelve(), Args: w.intent,
			Done: func() error {
				c := w.settled()
				c.livesOn(w, w.now().Host)
				c.must(w.now().Shelved == nil && w.image().Status == cloud.ImageDeleted, "it is shelved as %+v, image is %s", w.now().Shelved, w.image().Status)
				return c.err()
			},
			Clean: func() error {
				c, s := w.settled(), w.now()
				c.must(s.VMState == cloud.VMOffloaded && s.Task == cloud.TaskNone && s.Host == "" && s.Fault != nil && s.Shelved != nil && w.image().Status == cloud.ImageActive, "server is %s/%q on %q", s.VMState, s.Task, s.Host)
				c.must(len(w.fleet.Leftovers(serverID)) == 0 && len(w.claims()) == 0, "hosts keep %v, claims on %v", w.fleet.Leftovers(serverID), w.claims())
				return c.err()
			}}
	})
}

func TestRebuildKeepsTheEnginesPromises(t *testing.T) {
	for _, stopped := range []bool{false, true} {
		workflowtest.Run(t, func(t *testing.T) workflowtest.Case[cloud.Intent] {
			w := running(t, cloud.IntentRebuild, func(s *cloud.Server) { s.Task = cloud.TaskRebuilding })
			w.intent.Reimage = &cloud.Reimage{Image: "other", Format: "raw", Bytes: 1, VirtualBytes: 1, Hash: "h", Stopped: stopped}
			w.write(func(tx *store.Tx) error { return store.Put(tx, tables.Intents, w.intent.ID, w.intent) })
			return workflowtest.Case[cloud.Intent]{Definition: w.flows.Rebuild(), Args: w.intent,
				Done: func() error {
					c, s := w.settled(), w.now()
					if stopped {
						c.must(s.VMState == cloud.VMStopped && len(w.fleet.Running(serverID)) == 0, "server is %s, runs on %v", s.VMState, w.fleet.Running(serverID))
					} else {
						c.livesOn(w, hostA)
					}
					c.must(s.Image == "other", "image is %s", s.Image)
					return c.err()
				},
				Clean: func() error {
					c := w.settled()
					c.livesOn(w, hostA)
					c.must(w.now().Image == "img", "image is %s", w.now().Image)
					return c.err()
				}}
		})
	}
}

func TestAShelvedServerTakesItsImageAlongWhenItIsDeleted(t *testing.T) {
	for protected, want := range map[bool]cloud.ImageStatus{false: cloud.ImageDeleted, true: cloud.ImageActive} {
		w := newWorld(t, cloud.IntentDelete)
		w.server.VMState, w.server.Task, w.server.Generation, w.server.Shelved = cloud.VMOffloaded, cloud.TaskDeleting, 3, &cloud.Shelved{Image: "made"}
		w.saveServer()
		w.write(func(tx *store.Tx) error {
			return store.Put(tx, tables.Images, "made", cloud.Image{ID: "made", Status: cloud.ImageActive, Protected: protected})
		})
		w.run(w.flows.Delete())
		if got := w.image().Status; got != want {
			t.Errorf("protected %v: image is %s, want %s", protected, got, want)
		}
	}
}
