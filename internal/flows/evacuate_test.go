package flows

import (
	"context"
	"strings"
	"testing"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
	"github.com/godwit-cloud/godwit/internal/workflow"
	"github.com/godwit-cloud/godwit/internal/workflow/workflowtest"
)

// stranded is a world whose server was on host a, booted from a volume, when the host lost its power.
func stranded(t *testing.T, change func(w *diskWorld)) *diskWorld {
	t.Helper()
	w := withStorage(running(t, cloud.IntentEvacuate, func(s *cloud.Server) { s.Task = cloud.TaskRebuilding }))
	w.give(rootVolume, "/dev/vda", 0)
	w.give(dataVolume, "/dev/vdb", -1)
	w.use()
	w.ask(change)
	return w
}

// ask writes what the edge does, and turns host a off.
func (w *diskWorld) ask(change func(w *diskWorld)) {
	w.t.Helper()
	w.intent.Migration = "m1"
	w.flows.Fence = &bmc{}
	change(w)
	m := cloud.Migration{ID: "m1", Number: 1, Server: serverID, Project: "p", Type: cloud.TypeEvacuation, Asked: cloud.MigrateAuto, Source: hostA,
		Status: cloud.MigrationQueued, Intent: w.intent.ID}
	w.write(func(tx *store.Tx) error {
		if err := store.Put(tx, tables.Servers, serverID, w.server); err != nil {
			return err
		}
		if err := store.Put(tx, tables.Migrations, m.ID, m); err != nil {
			return err
		}
		return store.Put(tx, tables.Intents, w.intent.ID, w.intent)
	})
	w.fleet.Host(hostA).PowerOff()
	w.write(func(tx *store.Tx) error { return store.Delete(tx, tables.HostSessions, hostA) })
}

// evacuated checks that the server is on host b as if it had never been elsewhere, but for what the dead host keeps.
func (w *diskWorld) evacuated() *check {
	c, s := w.settled(), w.now()
	c.must(s.VMState == cloud.VMActive && s.Task == cloud.TaskNone && s.Host == hostB, "server is %s/%q on %q", s.VMState, s.Task, s.Host)
	c.must(w.fleet.Host(hostB).State(serverID).GetDomain() == hostpb.DomainState_DOMAIN_STATE_RUNNING, "host b: %v", w.fleet.Host(hostB).State(serverID))
	c.must(len(w.claims()) == 1 && w.claims()[0] == hostB, "claims on %v", w.claims())
	c.must(w.port().BindingHost == hostB && w.port().Status == portActive, "port is %s on %q", w.port().Status, w.port().BindingHost)
	m := w.migration()
	c.must(m.Status == cloud.MigrationCompleted && m.Target == hostB && m.Fence != "" && m.Lost != "", "migration %+v", m)
	return c
}

func TestEvacuateKeepsTheEnginesPromises(t *testing.T) {
	workflowtest.Run(t, func(t *testing.T) workflowtest.Case[cloud.Intent] {
		w := stranded(t, func(*diskWorld) {})
		return workflowtest.Case[cloud.Intent]{Definition: w.flows.Evacuate(), Args: w.intent,
			Done: func() error {
				c := w.evacuated()
				c.has(w, rootVolume, hostB)
				c.has(w, dataVolume, hostB)
				return c.err()
			},
			Clean: func() error {
				c, s := w.settled(), w.now()
				c.must(s.VMState == cloud.VMActive && s.Task == cloud.TaskNone && s.Host == hostA, "server is %s/%q on %q", s.VMState, s.Task, s.Host)
				c.must(w.fleet.Host(hostB).State(serverID).GetDomain() == hostpb.DomainState_DOMAIN_STATE_ABSENT, "host b: %v", w.fleet.Host(hostB).State(serverID))
				c.must(len(w.claims()) == 1 && w.claims()[0] == hostA, "claims on %v", w.claims())
				m := w.migration()
				c.must(m.Status == cloud.MigrationError || m.Status == cloud.MigrationFailed, "migration is %s", m.Status)
				for _, id := range []cloud.VolumeID{rootVolume, dataVolume} {
					v := w.volumeNow(id)
					c.must(v.Status == cloud.VolumeInUse && len(v.AttachmentIDs) == 1, "volume %s is %s with %v", id, v.Status, v.AttachmentIDs)
					left := strings.Join(w.fleet.VolumeLeftovers(id), "; ")
					c.must(!strings.Contains(left, "on b"), "the service keeps %s", left)
				}
				return c.err()
			}}
	})
}

func TestAStoppedServerStaysStoppedWhenItIsEvacuated(t *testing.T) {
	for name, change := range map[string]func(w *diskWorld){
		"it was stopped": func(w *diskWorld) { w.server.VMState = cloud.VMStopped },
		"2.95":           func(w *diskWorld) { w.intent.Stopped = true },
	} {
		t.Run(name, func(t *testing.T) {
			w := stranded(t, change)
			w.run(w.flows.Evacuate())
			s := w.now()
			if s.VMState != cloud.VMStopped || s.Host != hostB || len(w.fleet.Running(serverID)) != 0 || s.Power != cloud.PowerShutdown {
				t.Errorf("server is %s on %s, power %d, runs on %v", s.VMState, s.Host, s.Power, w.fleet.Running(serverID))
			}
			if c := w.settled(); c.err() != nil {
				t.Error(c.err())
			}
		})
	}
}

func TestALocalRootDiskIsMadeAnewOnlyWhenAsked(t *testing.T) {
	for _, rebuild := range []bool{false, true} {
		w := withStorage(running(t, cloud.IntentEvacuate, func(s *cloud.Server) { s.Task = cloud.TaskRebuilding }))
		w.ask(func(w *diskWorld) { w.intent.Rebuild = rebuild })
		w.run(w.flows.Evacuate())
		s, m := w.now(), w.migration()
		switch {
		case rebuild:
			if s.Host != hostB || !strings.Contains(m.Lost, "made anew from image img") {
				t.Errorf("server on %s, lost %q", s.Host, m.Lost)
			}
		case s.Host != hostA || m.Status != cloud.MigrationError || !strings.Contains(m.Error, "was not asked for") || len(w.fleet.Host(hostB).State(serverID).GetServerId()) == 0:
			t.Errorf("server on %s, migration %s: %s", s.Host, m.Status, m.Error)
		}
		if c := w.settled(); c.err() != nil {
			t.Error(c.err())
		}
	}
}

// letJoin says whether several servers may write the volume at a time.
func (w *diskWorld) letJoin(id cloud.VolumeID, may bool) {
	w.t.Helper()
	w.write(func(tx *store.Tx) error {
		v, err := store.Get(tx, tables.Volumes, id)
		if err != nil {
			return err
		}
		v.Multiattach = may
		return store.Put(tx, tables.Volumes, id, v)
	})
}

// bmc is a Fencer that answers as told.
type bmc struct {
	asked []cloud.HostName
	err   error
}

func (b *bmc) Isolate(_ context.Context, host cloud.HostName) (string, error) {
	b.asked = append(b.asked, host)
	if b.err != nil {
		return "", b.err
	}
	return "the BMC of " + string(host) + " says off", nil
}

func TestNothingStartsBeforeTheHostIsKnownToBeOff(t *testing.T) {
	for _, tc := range []struct {
		name   string
		err    error
		forced bool
		joint  bool   // one of the volumes may have several writers
		fence  string // in the record; empty: nothing may have been started
	}{
		{"off", nil, false, false, "the BMC of a says off"},
		{"silent BMC", cloud.Errorf(cloud.KindUnavailable, "no answer"), false, false, ""},
		{"no BMC, volumes of one writer", cloud.Errorf(cloud.KindUnsupported, "no BMC is known"), false, false, "refuse all writers but the newest"},
		{"no BMC, a volume of several writers", cloud.Errorf(cloud.KindUnsupported, "no BMC is known"), false, true, ""},
		{"an operator's word", cloud.Errorf(cloud.KindUnavailable, "no answer"), true, true, "an operator says"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w, b := stranded(t, func(w *diskWorld) { w.letJoin(dataVolume, tc.joint) }), &bmc{err: tc.err}
			w.flows.Fence = b
			if tc.forced {
				w.write(func(tx *store.Tx) error {
					h, err := store.Get(tx, tables.Hosts, hostA)
					h.ForcedDown = true
					if err != nil {
						return err
					}
					return store.Put(tx, tables.Hosts, hostA, h)
				})
			}
			record := w.run(w.flows.Evacuate())
			m := w.migration()
			if tc.fence != "" {
				if c := w.evacuated(); c.err() != nil || !strings.Contains(m.Fence, tc.fence) || (len(b.asked) > 0) == tc.forced {
					t.Errorf("%v; fence %q, asked %v", c.err(), m.Fence, b.asked)
				}
				return
			}
			if record.Phase == workflow.Done || w.now().Host != hostA || len(w.fleet.VolumeLeftovers(rootVolume)) == 0 || !strings.Contains(m.Error, "may still run") {
				t.Errorf("run %s, server on %s, migration %s: %s", record.Phase, w.now().Host, m.Status, m.Error)
			}
			if left := strings.Join(w.fleet.VolumeLeftovers(rootVolume), "; "); !strings.Contains(left, "on a writer") {
				t.Errorf("the service keeps %s: the host that may run was cut off although nobody else got the volume", left)
			}
		})
	}
}
