package control

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostapitest"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/hostpower"
	"github.com/godwit-cloud/godwit/internal/optimize"
	"github.com/godwit-cloud/godwit/internal/planbook"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// threeHosts have a server each and are all proven to wake.
func threeHosts(t *testing.T) *fleetWorld {
	w := newFleetWorld(t, "h1", "h2", "h3")
	w.arrange(cloud.AutomationManual, nil)
	w.prove("h1", "h2", "h3")
	for i := range 3 {
		w.on(cloud.HostName(fmt.Sprintf("h%d", i+1)), cloud.ServerID(fmt.Sprintf("s%d", i+1)), nil)
	}
	return w
}

func TestFullAutomationEmptiesAHostAndPutsItToSleepByItself(t *testing.T) {
	w := newFleetWorld(t, "h1", "h2", "h3")
	w.arrange(cloud.AutomationFull, nil)
	w.prove("h1", "h2", "h3")
	w.on("h1", "s1", nil)
	w.on("h2", "s2", nil)
	w.until("one host sleeps, and no more, since one may fail", func(store.View) bool { return len(w.asleep()) == 1 })
	w.idle()
	for _, id := range []cloud.ServerID{"s1", "s2"} {
		w.running(id)
	}
	for id, n := range w.movesOf() {
		if n > 1 {
			t.Errorf("server %s moved %d times", id, n)
		}
	}
	w.sound()
}

func TestPartialAutomationRecommendsAndAPersonStarts(t *testing.T) {
	w := newFleetWorld(t, "h1", "h2", "h3")
	w.arrange(cloud.AutomationPartial, nil)
	w.prove("h1", "h2", "h3")
	for i := range 3 {
		w.on(cloud.HostName(fmt.Sprintf("h%d", i+1)), cloud.ServerID(fmt.Sprintf("s%d", i+1)), nil)
	}
	var newest *cloud.ActionPlan
	seen := map[cloud.PlanID]bool{}
	w.until("three plans one after the other are recommended, each superseding the last", func(v store.View) bool {
		open := 0
		for _, p := range store.All(v, tables.ActionPlans) {
			if p.Audit == "" && p.Status == cloud.StatusRecommended && len(movers(p)) == 1 {
				newest, open = p, open+1
				seen[p.ID] = true
			}
		}
		if open > 1 {
			t.Errorf("%d plans are recommended at a time", open)
		}
		return len(seen) == 3
	})
	if n := len(w.movesOf()); n > 0 || len(w.asleep()) > 0 {
		t.Fatalf("%d servers moved, %v sleep: nobody started a plan", n, w.asleep())
	}
	w.write(func(tx *store.Tx) error { // it may just have been superseded: a person who sees it starts it all the same
		p, err := store.Get(tx, tables.ActionPlans, newest.ID)
		if err != nil {
			return err
		}
		p.Status, p.Finished = cloud.StatusPending, time.Time{}
		return store.Put(tx, tables.ActionPlans, p.ID, p)
	})
	if p := w.ended(newest.ID); p.Status != cloud.StatusSucceeded {
		t.Errorf("plan is %s: %s %+v", p.Status, p.Message, p.Actions)
	}
	if got := w.asleep(); len(got) != 1 {
		t.Errorf("asleep: %v", got)
	}
	w.sound()
}

func TestAServersOwnAutomationLevelOverridesTheFleets(t *testing.T) {
	w := newFleetWorld(t, "h1", "h2", "h3")
	stop := w.arrange(cloud.AutomationManual, nil)
	w.prove("h1", "h2", "h3")
	w.on("h1", "off", map[string]string{cloud.MetaAutomation: "off"})
	w.on("h2", "partial", map[string]string{cloud.MetaAutomation: "partial"})
	w.on("h3", "partial-too", map[string]string{cloud.MetaAutomation: "partial"})
	stop()
	stop = w.arrange(cloud.AutomationFull, nil)
	id := w.audit(cloud.Audit{Kind: cloud.AuditContinuous, Interval: fleetStep, AutoStart: true}) // leaves a record also of what it does not do
	w.until("the automation has looked three times and said why it moves nothing", func(v store.View) bool {
		looks := 0
		for _, p := range store.All(v, tables.ActionPlans) {
			said := map[string]bool{}
			for _, r := range p.Refused {
				said[r.ServerName] = strings.Contains(r.Reason, "its automation level is")
			}
			if p.Audit == id && said["off"] && said["partial"] && said["partial-too"] {
				looks++
			}
		}
		return looks >= 3
	})
	w.write(func(tx *store.Tx) error { return store.Delete(tx, tables.Audits, id) })
	if n := len(w.movesOf()); n > 0 {
		t.Errorf("the automation moved %v", w.movesOf())
	}
	p := w.recommended(func(p *cloud.ActionPlan) bool { return len(movers(p)) == 1 })
	if slices.Contains(movers(p), "off") {
		t.Errorf("plan moves %v", movers(p))
	}
	w.start(p)
	if p := w.ended(p.ID); p.Status != cloud.StatusSucceeded {
		t.Errorf("plan is %s: %s", p.Status, p.Message)
	}
	if s := w.server("off"); s.Host != "h1" {
		t.Errorf("the server that is off is on %s", s.Host)
	}
	stop()
	w.sound()
}

func TestAContinuousAuditPlansUntilItIsToldNotTo(t *testing.T) {
	w := threeHosts(t)
	id := w.audit(cloud.Audit{Kind: cloud.AuditContinuous, Interval: fleetStep})
	plans := func(v store.View, status cloud.OptimizeStatus) (n int) {
		for _, p := range store.All(v, tables.ActionPlans) {
			if p.Audit == id && p.Status == status {
				n++
			}
		}
		return n
	}
	w.until("one plan is recommended and two are superseded", func(v store.View) bool {
		if n := plans(v, cloud.StatusRecommended); n > 1 {
			t.Errorf("%d plans of one audit are recommended", n)
		}
		a, _ := store.Lookup(v, tables.Audits, id)
		return plans(v, cloud.StatusSuperseded) >= 2 && a.Status == cloud.StatusOngoing && a.Next.After(a.Created)
	})
	ends := time.Now().UTC()
	w.write(func(tx *store.Tx) error {
		a, err := store.Get(tx, tables.Audits, id)
		a.Ends = ends
		if err != nil {
			return err
		}
		return store.Put(tx, tables.Audits, id, a)
	})
	w.until("the audit is over after its end", func(v store.View) bool {
		a, _ := store.Lookup(v, tables.Audits, id)
		return a.Status == cloud.StatusSucceeded
	})
	if n := len(w.movesOf()); n > 0 {
		t.Errorf("an audit that starts nothing moved %d servers", n)
	}
}

func TestAnAuditThatStartsItsPlansCarriesThemOut(t *testing.T) {
	w := threeHosts(t)
	w.audit(cloud.Audit{Kind: cloud.AuditContinuous, Interval: fleetStep, AutoStart: true})
	w.until("one host sleeps", func(store.View) bool { return len(w.asleep()) == 1 })
	w.idle()
	w.sound()
}

func TestAPlanThatIsCancelledCallsItsMoveOffAndLeavesTheHostAwake(t *testing.T) {
	w := threeHosts(t)
	gate := make(chan struct{})
	w.fleet.ScriptMigrations(gated(gate))
	t.Cleanup(func() { close(gate) })
	p := w.recommended(func(p *cloud.ActionPlan) bool {
		return len(movers(p)) == 1 && len(statusOf(*p, cloud.ActionSleep)) == 1
	})
	server := movers(p)[0]
	from := w.server(server).Host
	w.start(p)
	w.until("the server copies", func(v store.View) bool {
		all := store.By(v, tables.Migrations, tables.ByServer, server)
		return len(all) == 1 && all[0].Status == cloud.MigrationRunning
	})
	w.write(func(tx *store.Tx) error {
		_, err := planbook.Cancel(tx, p.ID, time.Now().UTC())
		return err
	})
	ended := w.ended(p.ID)
	if got := statusOf(ended, cloud.ActionMigrate); ended.Status != cloud.StatusCancelled || !slices.Equal(got, []cloud.OptimizeStatus{cloud.StatusCancelled}) {
		t.Errorf("plan is %s, its move %v: %+v", ended.Status, got, ended.Actions)
	}
	w.idle()
	if on := w.running(server); on != from || len(w.asleep()) > 0 {
		t.Errorf("server %s is on %s, asleep: %v", server, on, w.asleep())
	}
	w.sound()
}

func TestANewLeaderGoesOnWithThePlanAndMovesNoServerTwice(t *testing.T) {
	w := newFleetWorld(t, "h1", "h2", "h3")
	stop := w.arrange(cloud.AutomationManual, nil)
	w.prove("h1", "h2", "h3")
	w.on("h1", "s1", nil)
	w.on("h2", "s2", nil)
	w.on("h3", "s3", nil)
	w.on("h3", "s4", nil)
	w.use("s1", 2)
	w.use("s2", 2)
	gate := make(chan struct{})
	w.fleet.ScriptMigrations(gated(gate))
	p := w.recommended(func(p *cloud.ActionPlan) bool { return slices.Equal(movers(p), []cloud.ServerID{"s3", "s4"}) })
	w.start(p)
	w.until("both servers copy", func(v store.View) bool {
		return len(store.By(v, tables.Migrations, tables.ByStatus, cloud.MigrationRunning)) == 2
	})
	stop() // in the middle of the plan
	w.arrange(cloud.AutomationFull, nil)
	close(gate)
	if p := w.ended(p.ID); p.Status != cloud.StatusSucceeded {
		t.Errorf("plan is %s: %s %+v", p.Status, p.Message, p.Actions)
	}
	w.until("the emptied host sleeps", func(store.View) bool { return slices.Equal(w.asleep(), []cloud.HostName{"h3"}) })
	if got := w.movesOf(); !maps.Equal(got, map[cloud.ServerID]int{"s3": 1, "s4": 1}) {
		t.Errorf("moves by server: %v", got)
	}
	w.sound()
}

// TestNoServerMovesTwiceInAWindowOnALiveFleet: the load jumps from server to server every step, which would have a fleet without memory move all the time.
func TestNoServerMovesTwiceInAWindowOnALiveFleet(t *testing.T) {
	w := newFleetWorld(t, "h1", "h2", "h3")
	w.arrange(cloud.AutomationFull, func(s *optimize.Settings) { s.Goal = cloud.GoalBalance })
	const servers = 9
	for i := range servers {
		w.on(cloud.HostName(fmt.Sprintf("h%d", i%3+1)), cloud.ServerID(fmt.Sprintf("s%d", i)), nil)
	}
	plans := map[cloud.PlanID]bool{}
	turn := 0
	w.until("the optimiser has had plenty of reasons to move", func(v store.View) bool {
		turn++
		for i := range servers { // heavy is who is on one host, and the next moment who is on another
			on := w.server(cloud.ServerID(fmt.Sprintf("s%d", i))).Host
			load := 0.1
			if on == cloud.HostName(fmt.Sprintf("h%d", turn/40%3+1)) {
				load = 6
			}
			w.use(cloud.ServerID(fmt.Sprintf("s%d", i)), load)
		}
		for _, p := range store.All(v, tables.ActionPlans) {
			plans[p.ID] = true
		}
		return turn > 500 && len(w.movesOf()) > 1
	})
	w.idle()
	for id, n := range w.movesOf() {
		if n > 1 {
			t.Errorf("server %s moved %d times within the window", id, n)
		}
	}
	t.Logf("%d plans, moves by server: %v", len(plans), w.movesOf())
	w.sound()
}

func TestARisingLoadWakesAHostBeforeAnybodyIsShort(t *testing.T) {
	w := newFleetWorld(t, "h1", "h2", "h3")
	stop := w.arrange(cloud.AutomationManual, nil)
	w.prove("h1", "h2", "h3")
	w.on("h1", "s1", nil)
	w.on("h1", "s2", nil)
	w.on("h2", "s3", nil)
	w.on("h2", "s4", nil)
	stop()
	w.arrange(cloud.AutomationFull, nil)
	w.until("one host sleeps", func(store.View) bool { return len(w.asleep()) == 1 })
	sleeper := w.asleep()[0]
	for _, id := range []cloud.ServerID{"s1", "s2", "s3", "s4"} { // 30 of 32 CPUs: nobody is short, but the reserve is gone
		w.use(id, 7.5)
	}
	w.until("the host is awake again", func(store.View) bool { return w.state(sleeper) == cloud.HostAwake })
	p, _ := store.Lookup(w.store.View(), tables.HostPowers, sleeper)
	if p.WakeBy != "lan" {
		t.Errorf("woken by %q: %s", p.WakeBy, p.Reason)
	}
	w.sound()
}

func TestAServerThatFitsNowhereElseWakesAHost(t *testing.T) {
	w := newFleetWorld(t, "h1", "h2", "h3")
	stop := w.arrange(cloud.AutomationManual, nil) // else the plan wakes the host before it is needed: one of those awake may fail
	const sleeper = cloud.HostName("h3")
	w.prove(sleeper)
	w.write(func(tx *store.Tx) error {
		return hostpower.Ask(tx, hostpower.Wish{Host: sleeper, Ask: cloud.AskSleep}, time.Now().UTC())
	})
	w.until("the host sleeps", func(store.View) bool { return w.state(sleeper) == cloud.HostAsleep })
	for i := range 2 {
		w.boot(cloud.ServerID(fmt.Sprintf("large%d", i)), 60000)
	}
	w.idle()
	if w.state(sleeper) != cloud.HostAsleep {
		t.Fatalf("host %s is %s: two servers fit without it", sleeper, w.state(sleeper))
	}
	w.boot("third", 60000)
	w.idle()
	if on := w.running("third"); on != sleeper || w.state(sleeper) != cloud.HostAwake {
		t.Errorf("the third server is on %s; host %s is %s", on, sleeper, w.state(sleeper))
	}
	stop()
	w.sound()
}

func TestAServerWhoseOnlyHostIsFallingAsleepGetsItAllTheSame(t *testing.T) {
	w := newFleetWorld(t, "h1", "h2")
	w.arrange(cloud.AutomationManual, nil)
	w.prove("h2")
	asleep := make(chan struct{})
	w.fleet.Inject(hostapitest.Fault{Host: "h2", Call: "Sleep", Do: func() { <-asleep }}) // it takes its time
	w.write(func(tx *store.Tx) error {
		return hostpower.Ask(tx, hostpower.Wish{Host: "h2", Ask: cloud.AskSleep}, time.Now().UTC())
	})
	w.until("the host falls asleep", func(store.View) bool { return w.state("h2") == cloud.HostFallingAsleep })
	s := cloud.Server{ID: "s1", Project: "p", Name: "s1", Flavor: cloud.Flavor{ID: "f", Name: "f", VCPUs: 8, RAMMiB: 4096, RootGiB: 1}, Image: "img", ForcedHost: "h2",
		ImageFormat: "qcow2", VMState: cloud.VMBuilding, Task: cloud.TaskScheduling, Created: time.Now().UTC()}
	w.write(func(tx *store.Tx) error { return store.Put(tx, tables.Servers, s.ID, s) })
	w.ask(cloud.Intent{ID: "boot", Kind: cloud.IntentBoot, Server: s.ID})
	w.until("the boot asks for the host", func(v store.View) bool {
		p, _ := store.Lookup(v, tables.HostPowers, "h2")
		return p.Asked == cloud.AskWake
	})
	close(asleep)
	w.idle()
	if on := w.running("s1"); on != "h2" {
		t.Errorf("it runs on %s", on)
	}
	w.sound()
}

func TestAHostThatDoesNotAnswerTheCallToSleepIsNotTakenForOneThatRefused(t *testing.T) {
	w := newFleetWorld(t, "h1", "h2")
	w.arrange(cloud.AutomationManual, nil)
	w.fleet.Inject(hostapitest.Fault{Host: "h1", Call: "Sleep", After: true, Err: cloud.Errorf(cloud.KindUnavailable, "the connection is lost")})
	w.prove("h1")
	w.sound()
}

func TestAHostThatDidNotHearTheCallToSleepIsCalledAgain(t *testing.T) {
	w := newFleetWorld(t, "h1", "h2")
	w.arrange(cloud.AutomationManual, nil)
	w.fleet.Inject(hostapitest.Fault{Host: "h1", Call: "Sleep", Err: cloud.Errorf(cloud.KindUnavailable, "the connection is lost")})
	w.prove("h1")
	w.sound()
}

func TestAHostThatRefusesToSleepIsAwake(t *testing.T) {
	w := newFleetWorld(t, "h1", "h2")
	w.arrange(cloud.AutomationManual, nil)
	w.prove("h1")
	w.fleet.Host("h1").Place(&hostpb.ServerSpec{ServerId: "foreign", Name: "foreign"}, 1)
	w.write(func(tx *store.Tx) error {
		return hostpower.Ask(tx, hostpower.Wish{Host: "h1", Ask: cloud.AskSleep}, time.Now().UTC())
	})
	w.until("the host refuses", func(v store.View) bool {
		p, _ := store.Lookup(v, tables.HostPowers, "h1")
		return p.State == cloud.HostAwake && p.Asked == cloud.AskNothing && p.Reason != "" && p.Since.After(p.WakeProven)
	})
}

func TestAHostSleepsWithItsStoppedServersAndWakesWhenOneIsStarted(t *testing.T) {
	w := newFleetWorld(t, "h1", "h2", "h3")
	stop := w.arrange(cloud.AutomationManual, nil)
	w.prove("h1", "h2", "h3")
	w.on("h1", "s1", nil)
	w.on("h2", "s2", nil)
	w.on("h3", "resting", nil)
	w.ask(cloud.Intent{ID: "stop", Kind: cloud.IntentStop, Server: "resting"})
	w.idle()
	stop()
	stop = w.arrange(cloud.AutomationFull, nil)
	w.until("the host sleeps with its stopped server", func(store.View) bool { return slices.Equal(w.asleep(), []cloud.HostName{"h3"}) })
	stop()
	w.arrange(cloud.AutomationManual, nil) // nobody moves what is started
	w.ask(cloud.Intent{ID: "start", Kind: cloud.IntentStart, Server: "resting"})
	w.idle()
	if on := w.running("resting"); on != "h3" {
		t.Errorf("it runs on %s", on)
	}
	w.sound()
}
