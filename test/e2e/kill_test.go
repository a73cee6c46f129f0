package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/lab"
	"github.com/godwit-cloud/godwit/test/guest"
	"github.com/godwit-cloud/godwit/test/labcloud"
)

// Two guests leave compute-1 and compute-2 for each other at the same time, and something is killed. So whatever is killed on compute-2 is the
// destination's for one guest and the source's for the other.
const (
	here  = "compute-1"
	there = "compute-2"
)

// A traveller is a guest under way.
type traveller struct {
	*running
	from, to string
	known    int // migrations it had before
	before   guest.Status
}

// A victim is what is killed with SIGKILL in the middle of a migration. The drill kills it at every moment, a test run at those of always: over all victims
// that is every moment at least once.
type victim struct {
	name   string
	kill   func(ctx context.Context, t *testing.T)
	always []string // names of moments
}

var victims = []victim{
	{"agent of destination and source", func(ctx context.Context, t *testing.T) { killUnit(ctx, t, there, lab.UnitAgent) },
		[]string{receiving.name, arrived.name}},
	{"libvirtd of destination and source", func(ctx context.Context, t *testing.T) { killUnit(ctx, t, there, lab.UnitLibvirtd) },
		[]string{asked.name, halfway.name, cuttingOver.name}},
	{"server", func(ctx context.Context, t *testing.T) { killUnit(ctx, t, lab.Controller, lab.UnitServer) },
		[]string{halfway.name, arrived.name}},
}

// A moment is when the blow falls. What arrive returns is called after the blow.
type moment struct {
	name   string
	arrive func(ctx context.Context, t *testing.T, all []*traveller) (release func())
}

var (
	asked = moment{"as soon as it was asked", func(context.Context, *testing.T, []*traveller) func() { return func() {} }}

	receiving = moment{"when the target receives", func(ctx context.Context, t *testing.T, all []*traveller) func() {
		for _, g := range all {
			awaitDomain(ctx, t, g.to, g.id, "paused", "running")
		}
		return func() {}
	}}

	halfway = moment{"when half is copied", func(ctx context.Context, t *testing.T, all []*traveller) func() {
		awaitHalves(ctx, t, all)
		return func() {}
	}}

	cuttingOver = moment{"in the cut-over", inCutOver}
	arrived     = moment{"when it runs on the target and nobody knows", arrivedUnnoticed}
)

// inCutOver holds the move towards there where both hosts have the guest and neither runs it: its destination's libvirtd, without which its CPUs
// are not started, stands still. The same daemon is the source's of the other guest, whose move stands still as well.
func inCutOver(ctx context.Context, t *testing.T, all []*traveller) func() {
	awaitHalves(ctx, t, all)
	thaw := freeze(ctx, t, there, lab.UnitLibvirtd)
	for _, g := range all {
		if g.to == there {
			hurry(ctx, t, g)
			awaitSent(ctx, t, g)
		}
	}
	return thaw
}

// awaitSent waits until the source's QEMU has sent all there is: from then on the target could run the guest. (In the hundredth of a second before,
// between the guest's stop and that point, QEMU 7.2 does not survive that libvirt calls the migration off: docs/operating/guests.md.) The guest's stop comes
// first, because until its own migration begins, which is after its disk's copy, QEMU tells of the one by which the guest came.
func awaitSent(ctx context.Context, t *testing.T, g *traveller) {
	t.Helper()
	awaitDomain(ctx, t, g.from, g.id, "paused")
	err := labcloud.Until(ctx, "all of "+g.id+" sent", func() (bool, error) {
		out, err := on(ctx, g.from, "virsh", "-q", "qemu-monitor-command", g.id, `{"execute": "query-migrate"}`)
		return strings.Contains(out, `"status":"completed"`), err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// arrivedUnnoticed lets the guests arrive while the server stands still.
func arrivedUnnoticed(ctx context.Context, t *testing.T, all []*traveller) func() {
	awaitHalves(ctx, t, all)
	thaw := freeze(ctx, t, lab.Controller, lab.UnitServer)
	for _, g := range all {
		hurry(ctx, t, g)
		awaitDomain(ctx, t, g.to, g.id, "running")
	}
	return thaw
}

// hurry lifts the pace of a migration.
func hurry(ctx context.Context, t *testing.T, g *traveller) {
	t.Helper()
	if err := setPace(ctx, g.from, g.id, sprint); err != nil {
		t.Fatal(err)
	}
}

// strikeMax bounds one case. A destination that vanishes is noticed by libvirt's keepalive after half a minute.
const strikeMax = 3 * time.Minute

// TestKillsInTheMiddleOfAMigration: whoever is killed, whenever: the guest goes on over the same connection, its disk is whole, one copy of it
// runs, the migration ends in a true final state, and the host that does not have the guest keeps nothing of it.
func TestKillsInTheMiddleOfAMigration(t *testing.T) {
	pair := bootPair(t)
	for _, v := range victims {
		for _, m := range []moment{asked, receiving, halfway, cuttingOver, arrived} {
			if !drill && !slices.Contains(v.always, m.name) {
				continue
			}
			ok := t.Run(v.name+" "+m.name, func(t *testing.T) {
				idle(t, pair)
				apart(t, pair)
				strike(t, pair, m, v.kill)
			})
			if !ok {
				pair = replaceDead(t, pair)
			}
		}
	}
}

// TestDestinationQEMUKilledAndPowerLost is the same for the process that receives the guest, and for its whole host, all at once and for good.
func TestDestinationQEMUKilledAndPowerLost(t *testing.T) {
	g := boot(t, travelling("bound", here))
	back := func(t *testing.T) {
		idle(t, []*running{g})
		if g.host(t) != here {
			moveTo(t.Context(), t, g, here)
		}
	}
	moments := []moment{receiving, halfway, cuttingOver} // before there is none; after it is the guest's own
	if !drill {
		moments = []moment{receiving}
	}
	for _, m := range moments {
		t.Run("QEMU "+m.name, func(t *testing.T) {
			back(t)
			strike(t, []*running{g}, m, func(ctx context.Context, t *testing.T) { killQEMU(ctx, t, there, g.id) })
		})
	}
	t.Run("power "+halfway.name, func(t *testing.T) {
		back(t)
		list, err := cloud.Migrations(t.Context(), g.id)
		if err != nil {
			t.Fatal(err)
		}
		strike(t, []*running{g}, halfway, func(ctx context.Context, t *testing.T) {
			t.Cleanup(func() { powerOn(t, there) })
			if err := cloud.Lab.PowerOff(ctx, there); err != nil {
				t.Fatal(err)
			}
			if end := awaitEnd(ctx, t, g.id, len(list)); end.Status != "failed" {
				t.Errorf("the migration ended %s while its destination was off", end.Status)
			}
			powerOn(t, there)
		})
	})
}

// powerOn turns a host on, if it is not, and waits until it serves.
func powerOn(t *testing.T, host string) {
	t.Helper()
	if err := cloud.Lab.PowerOn(context.Background(), host); err != nil {
		t.Fatal(err)
	}
	waitService(t, host, "up")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	awaitTaking(ctx, t, host)
}

// travelling is a guest with enough on its disk and in its memory for a copy to take its time, some of it changing.
func travelling(name, host string) guestOptions {
	return guestOptions{name: name, host: host, fill: "32MiB", dirty: "2MiB", dirtySize: "8MiB"}
}

func bootPair(t *testing.T) []*running {
	return bootAll(t, travelling("east", here), travelling("west", there))
}

// apart puts two guests on different ones of the two hosts. It is an ordinary move: whatever was broken before works again.
func apart(t *testing.T, pair []*running) {
	t.Helper()
	ctx := t.Context()
	other := map[string]string{here: there, there: here}
	if at := pair[0].host(t); pair[1].host(t) == at {
		moveTo(ctx, t, pair[1], other[at])
	}
}

func moveTo(ctx context.Context, t *testing.T, g *running, host string) {
	t.Helper()
	m, err := cloud.Move(ctx, g.id, host)
	if err != nil || m.Status != "completed" {
		t.Fatalf("move %s to %s: %s %v", g.id, host, m.Status, err)
	}
}

// replaceDead boots new guests when a failed case has left one dead, so that the next case tells something.
func replaceDead(t *testing.T, pair []*running) []*running {
	ctx, cancel := context.WithTimeout(t.Context(), answerMax)
	defer cancel()
	for _, g := range pair {
		if _, err := g.talk.Status(ctx); err != nil {
			return bootPair(t)
		}
	}
	return pair
}

// idle waits until no guest is under way and all answer, so that a case does not begin with what another left behind.
func idle(t *testing.T, guests []*running) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), idleMax)
	defer cancel()
	for _, g := range guests {
		if _, err := cloud.WaitStatus(ctx, g.id, "ACTIVE"); err != nil {
			t.Fatal(err)
		}
		_ = g.status(t)
	}
}

// idleMax bounds how long a migration that nobody slows down any more may last.
const idleMax = time.Minute

// quicken lets every move that a failed case has left under way end.
func quicken(t *testing.T, guests []*running) {
	ctx, cancel := context.WithTimeout(context.Background(), idleMax)
	defer cancel()
	for _, g := range guests {
		err := labcloud.Until(ctx, "the end of every migration of "+g.id, func() (bool, error) {
			for _, node := range []string{here, there} {
				_ = setPace(ctx, node, g.id, sprint) // an error: it is not there
			}
			list, err := cloud.Migrations(ctx, g.id)
			if err != nil || slices.ContainsFunc(list, func(m labcloud.Migration) bool { return !m.Final() }) {
				return false, nil // a server that restarts is asked again
			}
			return true, nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// answerMax is how long a guest may take to answer when nothing holds it up.
const answerMax = 5 * time.Second

// strike sends the guests off, kills at the moment, and checks what must hold afterwards.
func strike(t *testing.T, guests []*running, m moment, kill func(ctx context.Context, t *testing.T)) {
	ctx, cancel := context.WithTimeout(t.Context(), strikeMax)
	defer cancel()
	defer func() {
		if t.Failed() {
			quicken(t, guests)
		}
	}()
	var all []*traveller
	for _, g := range guests {
		all = append(all, depart(ctx, t, g, creep))
	}
	release := m.arrive(ctx, t, all)
	blow := time.Now()
	kill(ctx, t)
	release() // first: a frozen daemon answers nobody
	for _, g := range all {
		_ = setPace(ctx, g.from, g.id, sprint) // an error: it is not there any more, or its libvirtd is dead
	}
	if err := cloud.Lab.WaitAPI(ctx); err != nil {
		t.Fatal(err)
	}
	ends := map[*traveller]labcloud.Migration{}
	for _, g := range all {
		ends[g] = awaitEnd(ctx, t, g.id, g.known)
	}
	settled(ctx, t)
	for _, g := range all {
		g.unharmed(ctx, t, ends[g], blow)
	}
}

// depart begins a move to the other host, at a pace of so many MiB/s.
func depart(ctx context.Context, t *testing.T, g *running, paceMiB int) *traveller {
	t.Helper()
	tr := &traveller{running: g, from: g.host(t), before: g.status(t)}
	tr.to = map[string]string{here: there, there: here}[tr.from]
	list, err := cloud.Migrations(ctx, g.id)
	if err != nil {
		t.Fatal(err)
	}
	tr.known = len(list)
	if err := setPace(ctx, tr.from, g.id, paceMiB); err != nil {
		t.Fatal(err)
	}
	if err := cloud.LiveMigrate(ctx, g.id, tr.to); err != nil {
		t.Fatal(err)
	}
	return tr
}

// unharmed checks a guest after a blow during its migration, which has ended.
func (g *traveller) unharmed(ctx context.Context, t *testing.T, end labcloud.Migration, blow time.Time) {
	t.Helper()
	record, err := cloud.Record(ctx, end.UUID)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s to %s: %s %v after the blow: %s", g.from, g.to, end.Status, record.Finished.Sub(blow).Round(time.Millisecond), record.Error)
	if record.Created.After(blow) || !record.Finished.After(blow) {
		t.Errorf("the blow at %v missed the migration from %v to %v", blow, record.Created, record.Finished)
	}
	s, err := cloud.WaitStatus(ctx, g.id, "ACTIVE")
	if err != nil {
		t.Fatal(err)
	}
	at, other := g.from, g.to
	if end.Status == "completed" {
		at, other = g.to, g.from
	}
	if runs := g.host(t); s.Host != at || runs != at {
		t.Errorf("migration %s: the API says %s, the guest runs on %s, want %s", end.Status, s.Host, runs, at)
	}
	g.goesOn(t, g.before)
	g.whole(t)
	leavesNothing(ctx, t, other, g.id)
	bound(ctx, t, g.id, at)
}

// awaitEnd waits, through a server that may be restarting, for the end of the migration after the known ones.
func awaitEnd(ctx context.Context, t *testing.T, id string, known int) labcloud.Migration {
	t.Helper()
	var last labcloud.Migration
	err := labcloud.Until(ctx, "migration ended", func() (bool, error) {
		list, err := cloud.Migrations(ctx, id)
		if err != nil || len(list) <= known {
			return false, nil // the server was killed; its supervisor starts it again
		}
		last = labcloud.Newest(list)
		return last.Final(), nil
	})
	if err != nil {
		t.Fatalf("%v; last seen %+v", err, last)
	}
	return last
}

// awaitHalves waits until the API has reported of every guest that at least half of its memory or of its disk has gone over, and fails with the
// record of one whose move is over before all of them are there.
func awaitHalves(ctx context.Context, t *testing.T, all []*traveller) {
	t.Helper()
	err := labcloud.Until(ctx, "half is copied", func() (bool, error) {
		ready := 0
		for _, g := range all {
			p, runs, err := cloud.Progress(ctx, g.id)
			if err != nil {
				return false, fmt.Errorf("%s: %w", g.id, err)
			}
			if !runs {
				return false, g.missed(ctx)
			}
			if p.MemoryTotal > 0 && p.MemoryRemaining*2 <= p.MemoryTotal || p.DiskTotal > 0 && p.DiskRemaining*2 <= p.DiskTotal {
				ready++
			}
		}
		return ready == len(all), nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// missed is the error of a moment that did not come because the guest's move was over before, with what is known of that move.
func (g *traveller) missed(ctx context.Context) error {
	list, err := cloud.Migrations(ctx, g.id)
	if err != nil || len(list) == 0 {
		return fmt.Errorf("the moment was missed: server %s: migrations %v, %w", g.id, list, err)
	}
	r, err := cloud.Record(ctx, labcloud.Newest(list).UUID)
	if err != nil {
		return fmt.Errorf("the moment was missed: server %s: %w", g.id, err)
	}
	return fmt.Errorf("the moment was missed: server %s, %s to %s: %s from %v to %v: %q, phases %+v, totals %+v",
		g.id, g.from, g.to, r.Status, r.Created, r.Finished, r.Error, r.Phases, r.Totals)
}
