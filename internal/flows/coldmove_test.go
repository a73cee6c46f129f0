package flows

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostapitest"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
	"github.com/godwit-cloud/godwit/internal/workflow"
	"github.com/godwit-cloud/godwit/internal/workflow/workflowtest"
)

// large is what servers are resized to.
var large = cloud.Flavor{ID: "large", Name: "large", VCPUs: 2, RAMMiB: 1024, RootGiB: 2}

// coldWish is a cold migration or a resize as a test wants it.
type coldWish struct {
	stopped  bool // the server is off to begin with
	shared   bool // the hosts share the directory of disks
	resize   bool
	sameHost bool // the resize may only stay where it is
	volumes  bool // the server boots from a volume
}

// coldly makes the world in which the edge has just asked for it.
func coldly(t *testing.T, wish coldWish) *world {
	t.Helper()
	state := cloud.VMActive
	if wish.stopped {
		state = cloud.VMStopped
	}
	after := cloud.Flavor{ID: "small", Name: "small", VCPUs: 1, RAMMiB: 512, RootGiB: 1}
	kind := cloud.TypeColdMigration
	if wish.resize {
		after, kind = large, cloud.TypeResize
	}
	prepare := func(s *cloud.Server) {
		s.Flavor.ID = "small"
		s.VMState, s.Task = state, cloud.TaskResizePrep
		s.Resize = &cloud.Resize{Migration: "m1", Source: hostA, Old: s.Flavor, New: after, OldState: state}
		if wish.stopped {
			s.Power = cloud.PowerShutdown
		}
	}
	var w *world
	if wish.volumes {
		w = onVolumes(t, cloud.IntentColdMove, prepare)
	} else {
		w = running(t, cloud.IntentColdMove, prepare)
	}
	if wish.shared {
		w.share()
	}
	if wish.stopped {
		w.fleet.Host(hostA).SetDomain(serverID, hostpb.DomainState_DOMAIN_STATE_SHUTOFF, "shutdown")
	}
	m := cloud.Migration{ID: "m1", Number: 1, Server: serverID, Source: hostA, Type: kind, Asked: cloud.MigrateAuto, Status: cloud.MigrationQueued, Intent: "i1",
		OldFlavor: &w.server.Resize.Old, NewFlavor: &after, SameHost: wish.sameHost}
	if wish.sameHost {
		m.AskedTarget = hostA
	}
	w.intent.Migration = "m1"
	w.write(func(tx *store.Tx) error {
		charged := w.server.Charged()
		return errors.Join(
			store.Put(tx, tables.Migrations, m.ID, m),
			store.Put(tx, tables.Intents, w.intent.ID, w.intent),
			store.Put(tx, tables.QuotaUsages, "p", cloud.QuotaUsage{Project: "p", Instances: 1, Cores: charged.VCPUs, RAMMiB: charged.RAMMiB}),
		)
	})
	return w
}

// share has hosts a and b keep disks in one directory.
func (w *world) share() {
	w.t.Helper()
	w.fleet.Share("dir", hostA, hostB)
	w.write(func(tx *store.Tx) error {
		for _, h := range []cloud.HostName{hostA, hostB} {
			report, err := store.Get(tx, tables.HostReports, h)
			report.SharedDiskID = "dir"
			if err := errors.Join(err, store.Put(tx, tables.HostReports, h, report)); err != nil {
				return err
			}
		}
		return nil
	})
	w.replace()
}

// replace puts the server on host a once more, after what the hosts are was changed.
func (w *world) replace() {
	w.t.Helper()
	spec, err := Spec(w.store.View(), &w.server)
	if err != nil {
		w.t.Fatal(err)
	}
	w.fleet.Host(hostA).Place(spec, 1)
}

// next has the edge ask for the decision about a finished move.
func (w *world) next(kind cloud.IntentKind, task cloud.TaskState) {
	w.t.Helper()
	w.intent = cloud.Intent{ID: "i2", Kind: kind, Server: serverID, Migration: "m1", RequestID: "req-2", Project: "p"}
	w.write(func(tx *store.Tx) error {
		s, err := store.Get(tx, tables.Servers, serverID)
		s.Task = task
		return errors.Join(err, store.Put(tx, tables.Servers, serverID, s), store.Put(tx, tables.Intents, w.intent.ID, w.intent),
			store.Put(tx, tables.Actions, tables.ActionKey(serverID, "req-2"), cloud.Action{Server: serverID, RequestID: "req-2", Name: string(kind)}))
	})
}

func (w *world) claim(host cloud.HostName) cloud.Resources {
	u, ok := store.Lookup(w.store, tables.Usages, host)
	if !ok {
		return cloud.Resources{}
	}
	return u.Claims[cloud.ClaimKey(serverID)].Resources
}

func (w *world) charged() cloud.QuotaUsage {
	u, _ := store.Lookup(w.store, tables.QuotaUsages, cloud.ProjectID("p"))
	return *u
}

// onDisk is what the server's disk on a host holds: the image, and who has started the server since.
func (w *world) onDisk(host cloud.HostName) string { return w.fleet.Host(host).DiskContent(serverID) }

// awaits checks that the server has been moved and that its owner may decide.
func awaits(w *world, wish coldWish) error {
	c, s, m := w.settled(), w.now(), w.migration()
	target := hostB
	if wish.sameHost {
		target = hostA
	}
	c.must(s.VMState == cloud.VMResized && s.Task == cloud.TaskNone && s.Host == target && s.Resize != nil, "server is %s/%q on %q", s.VMState, s.Task, s.Host)
	c.must(m.Status == cloud.MigrationFinished && m.Target == target, "migration is %s to %s (%s)", m.Status, m.Target, m.Error)
	c.must(len(w.fleet.Exported(serverID)) == 0, "disks are served by %v", w.fleet.Exported(serverID))
	on := w.fleet.Running(serverID)
	c.must(len(on) == 0 == wish.stopped && (wish.stopped || on[0] == target), "runs on %v", on)
	for _, h := range []cloud.HostName{hostA, target} {
		want, ok := s.ClaimOn(h)
		c.must(ok && w.claim(h) == want.Resources, "claim on %s is %+v, want %+v", h, w.claim(h), want.Resources)
	}
	c.must(w.port().BindingHost == target, "port is on %q", w.port().BindingHost)
	return c.err()
}

// unmoved checks that nothing is left of a move that failed.
func unmoved(w *world, wish coldWish) error {
	c, s, m := w.settled(), w.now(), w.migration()
	state := cloud.VMActive
	if wish.stopped {
		state = cloud.VMStopped
	}
	c.must(s.VMState == state && s.Task == cloud.TaskNone && s.Host == hostA && s.Resize == nil && s.Fault != nil, "server is %s/%q on %q, fault %v", s.VMState, s.Task, s.Host, s.Fault)
	c.must(m.Status == cloud.MigrationError, "migration is %s", m.Status)
	c.must(len(w.fleet.Running(serverID)) == 0 == wish.stopped, "runs on %v", w.fleet.Running(serverID))
	c.must(slices.Equal(w.claims(), []cloud.HostName{hostA}) && w.claim(hostA) == s.Resources(), "claims on %v, %+v", w.claims(), w.claim(hostA))
	c.must(slices.Equal(w.placed(), []cloud.HostName{hostA}), "group places it on %v", w.placed())
	c.must(len(w.fleet.Leftovers(serverID)) == 1, "hosts keep %v", w.fleet.Leftovers(serverID))
	c.must(len(w.fleet.Exported(serverID)) == 0, "disks are served by %v", w.fleet.Exported(serverID))
	c.must(w.charged().Cores == s.Flavor.VCPUs && w.charged().RAMMiB == s.Flavor.RAMMiB, "the project is charged %+v", w.charged())
	return c.err()
}

func eachWish(t *testing.T, test func(t *testing.T, wish coldWish)) {
	for name, wish := range map[string]coldWish{
		"a running server": {}, "a stopped server": {stopped: true}, "in a shared directory": {shared: true}, "a resize": {resize: true},
		"a resize on its host": {resize: true, sameHost: true}, "on volumes": {volumes: true},
	} {
		t.Run(name, func(t *testing.T) { test(t, wish) })
	}
}

func TestColdMoveKeepsTheEnginesPromises(t *testing.T) {
	eachWish(t, func(t *testing.T, wish coldWish) {
		workflowtest.Run(t, func(t *testing.T) workflowtest.Case[cloud.Intent] {
			w := coldly(t, wish)
			return workflowtest.Case[cloud.Intent]{Definition: w.flows.ColdMove(), Args: w.intent,
				Done: func() error { return awaits(w, wish) }, Clean: func() error { return unmoved(w, wish) }}
		})
	})
}

// decided is a world in which the move is finished and its owner has asked for a decision.
func decided(t *testing.T, wish coldWish, kind cloud.IntentKind, task cloud.TaskState) *world {
	t.Helper()
	w := coldly(t, wish)
	w.run(w.flows.ColdMove())
	if err := awaits(w, wish); err != nil {
		t.Fatal(err)
	}
	w.next(kind, task)
	return w
}

func TestConfirmKeepsTheEnginesPromises(t *testing.T) {
	eachWish(t, func(t *testing.T, wish coldWish) {
		workflowtest.Run(t, func(t *testing.T) workflowtest.Case[cloud.Intent] {
			w := decided(t, wish, cloud.IntentConfirm, cloud.TaskResizeConfirming)
			return workflowtest.Case[cloud.Intent]{Definition: w.flows.Confirm(), Args: w.intent,
				Done: func() error {
					c, s, m := w.settled(), w.now(), w.migration()
					state := map[bool]cloud.VMState{true: cloud.VMStopped, false: cloud.VMActive}[wish.stopped]
					c.must(s.VMState == state && s.Task == cloud.TaskNone && s.Resize == nil, "server is %s/%q", s.VMState, s.Task)
					c.must(m.Status == cloud.MigrationConfirmed, "migration is %s", m.Status)
					c.must(slices.Equal(w.claims(), []cloud.HostName{s.Host}) && w.claim(s.Host) == s.Resources(), "claims on %v, %+v", w.claims(), w.claim(s.Host))
					c.must(len(w.fleet.Leftovers(serverID)) == 1, "hosts keep %v", w.fleet.Leftovers(serverID))
					c.must(w.charged().Cores == s.Flavor.VCPUs, "the project is charged %+v", w.charged())
					c.must(wish.volumes || strings.HasPrefix(w.onDisk(s.Host), "[a]"), "disk holds %q", w.onDisk(s.Host))
					return c.err()
				},
				Clean: func() error {
					c, s := w.settled(), w.now()
					c.must(s.VMState == cloud.VMResized && s.Task == cloud.TaskNone && s.Resize != nil, "server is %s/%q", s.VMState, s.Task)
					c.must(w.migration().Status == cloud.MigrationFinished, "migration is %s", w.migration().Status)
					return c.err()
				}}
		})
	})
}

func TestRevertKeepsTheEnginesPromises(t *testing.T) {
	eachWish(t, func(t *testing.T, wish coldWish) {
		workflowtest.Run(t, func(t *testing.T) workflowtest.Case[cloud.Intent] {
			w := decided(t, wish, cloud.IntentRevert, cloud.TaskResizeReverting)
			return workflowtest.Case[cloud.Intent]{Definition: w.flows.Revert(), Args: w.intent,
				Done: func() error {
					c, s, m := w.settled(), w.now(), w.migration()
					state := map[bool]cloud.VMState{true: cloud.VMStopped, false: cloud.VMActive}[wish.stopped]
					c.must(s.VMState == state && s.Task == cloud.TaskNone && s.Resize == nil && s.Host == hostA, "server is %s/%q on %s", s.VMState, s.Task, s.Host)
					c.must(s.Flavor.ID == "small", "its flavor is %s", s.Flavor.ID)
					c.must(m.Status == cloud.MigrationReverted, "migration is %s", m.Status)
					c.must(len(w.fleet.Running(serverID)) == 0 == wish.stopped, "runs on %v", w.fleet.Running(serverID))
					c.must(slices.Equal(w.claims(), []cloud.HostName{hostA}) && w.claim(hostA) == s.Resources(), "claims on %v, %+v", w.claims(), w.claim(hostA))
					c.must(len(w.fleet.Leftovers(serverID)) == 1, "hosts keep %v", w.fleet.Leftovers(serverID))
					c.must(w.charged().Cores == s.Flavor.VCPUs, "the project is charged %+v", w.charged())
					c.must(wish.shared || wish.sameHost || !strings.Contains(w.onDisk(hostA), "[b]"), "the kept disk holds what was written on the target: %q", w.onDisk(hostA))
					return c.err()
				},
				Clean: func() error {
					c, s := w.settled(), w.now()
					c.must(s.VMState == cloud.VMResized && s.Task == cloud.TaskNone && s.Resize != nil, "server is %s/%q", s.VMState, s.Task)
					c.must(w.migration().Status == cloud.MigrationFinished, "migration is %s", w.migration().Status)
					c.must(len(w.fleet.Running(serverID)) == 0 == wish.stopped, "runs on %v", w.fleet.Running(serverID))
					return c.err()
				}}
		})
	})
}

func TestADiskIsNeverMadeSmaller(t *testing.T) {
	w := coldly(t, coldWish{resize: true})
	w.write(func(tx *store.Tx) error {
		m, err := store.Get(tx, tables.Migrations, "m1")
		tiny := *m.NewFlavor
		tiny.RootGiB = 0
		m.NewFlavor = &tiny
		return errors.Join(err, store.Put(tx, tables.Migrations, m.ID, m))
	})
	if r := w.run(w.flows.ColdMove()); r.Phase != workflow.Failed {
		t.Fatalf("run is %s", r.Phase)
	}
	if err := unmoved(w, coldWish{}); err != nil {
		t.Error(err)
	}
	if f := w.now().Fault; f == nil || !strings.Contains(f.Message, "Unable to resize disk down") {
		t.Errorf("fault %+v", f)
	}
}

func TestAServerThatDoesNotStartWhereItWasMovedToCanBeReverted(t *testing.T) {
	w := coldly(t, coldWish{})
	stop := w.fleet.Inject(hostapitest.Fault{Host: hostB, Call: "Start", Times: -1, Err: cloud.Errorf(cloud.KindUnavailable, "no memory")})
	w.run(w.flows.ColdMove())
	s := w.now()
	if s.VMState != cloud.VMResized || s.Fault == nil || !strings.Contains(s.Fault.Message, "no memory") || s.Power != cloud.PowerShutdown {
		t.Fatalf("server is %s, power %d, fault %+v", s.VMState, s.Power, s.Fault)
	}
	stop()
	w.next(cloud.IntentRevert, cloud.TaskResizeReverting)
	w.run(w.flows.Revert())
	c := w.settled()
	c.livesOn(w, hostA)
	if err := c.err(); err != nil {
		t.Error(err)
	}
}

func TestAServerStartsOnATargetWhoseAgentIsBackAfterAWhile(t *testing.T) {
	w := coldly(t, coldWish{})
	w.fleet.Inject(hostapitest.Fault{Host: hostB, Call: "Start", Times: coldStartsAwayMax - 1, Err: cloud.Errorf(cloud.KindUnavailable, "its agent is not connected")})
	w.run(w.flows.ColdMove())
	if s := w.now(); s.VMState != cloud.VMResized || s.Fault != nil || s.Power != cloud.PowerRunning {
		t.Errorf("server is %s, power %d, fault %+v", s.VMState, s.Power, s.Fault)
	}
}

func TestARevertToAHostThatIsAwayTouchesNothing(t *testing.T) {
	w := decided(t, coldWish{}, cloud.IntentRevert, cloud.TaskResizeReverting)
	w.fleet.Host(hostA).CrashAgent()
	if r := w.run(w.flows.Revert()); r.Phase != workflow.Failed {
		t.Fatalf("run is %s", r.Phase)
	}
	if s := w.now(); s.VMState != cloud.VMResized || s.Host != hostB || !slices.Equal(w.fleet.Running(serverID), []cloud.HostName{hostB}) {
		t.Errorf("server is %s on %s, runs on %v", s.VMState, s.Host, w.fleet.Running(serverID))
	}
}

func TestAResizedServerThatIsDeletedLeavesNothing(t *testing.T) {
	w := decided(t, coldWish{resize: true}, cloud.IntentDelete, cloud.TaskDeleting)
	w.run(w.flows.Delete())
	if err := gone(w); err != nil {
		t.Error(err)
	}
	if m := w.migration(); m.Status != cloud.MigrationConfirmed {
		t.Errorf("migration is %s", m.Status)
	}
}

// onVolumes is running for a server that boots from a volume and has another one.
func onVolumes(t *testing.T, kind cloud.IntentKind, change func(*cloud.Server)) *world {
	t.Helper()
	w := withStorage(running(t, kind, change))
	w.give(rootVolume, "/dev/vda", 0)
	w.give(dataVolume, "/dev/vdb", -1)
	w.use()
	w.write(func(tx *store.Tx) error { // its root disk is not the host's
		return setClaim(tx, &w.server, hostA, cloud.Claim{Server: serverID, Resources: w.server.Resources()})
	})
	return w.world
}
