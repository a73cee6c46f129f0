package e2e

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/lab"
	"github.com/godwit-cloud/godwit/test/labcloud"
)

// TestADeadHostsServersStartElsewhereByThemselves: a power cut. What is on a volume runs on another host soon after, with every record that was acknowledged,
// and nobody asked for it; what has its disk on the dead host alone is left to a person. The host that returns has nothing of the first left, and takes
// servers again.
func TestADeadHostsServersStartElsewhereByThemselves(t *testing.T) {
	for i := range repeated(1, 10) {
		t.Run(strconv.Itoa(i), func(t *testing.T) { powerCut(t) })
	}
}

// repeated is how often something is done: often in a drill.
func repeated(shortly, drilling int) int {
	if drill {
		return drilling
	}
	return shortly
}

func powerCut(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), outageMax)
	defer cancel()
	lasting := bootFromVolume(t, guestOptions{name: "phoenix", host: there})
	local := boot(t, guestOptions{name: "moored", host: there})
	last, err := lasting.talk.Sync(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { powerOn(t, there) })
	cut := time.Now()
	if err := cloud.Lab.PowerOff(ctx, there); err != nil {
		t.Fatal(err)
	}
	awaitEvacuated(ctx, t, lasting.id, "ACTIVE")
	t.Logf("running elsewhere %.1f s after the power cut", time.Since(cut).Seconds())
	lasting.reconnect(t)
	if r, err := lasting.talk.Verify(ctx); err != nil || !r.OK || r.Last < last {
		t.Errorf("the volume after the loss of its host: %+v %v, record %d was acknowledged before", r, err, last)
	}
	if s, err := cloud.Server(ctx, local.id); err != nil || s.Host != there || s.TaskState != "" {
		t.Errorf("the server with a local disk: %+v %v; it should have been left alone", s, err)
	}
	rec := awaitRecovery(ctx, t, there, "done")
	for _, s := range rec.Servers {
		want := map[string]string{lasting.id: "recovered", local.id: "left"}[s.Server]
		if want != "" && s.Outcome != want {
			t.Errorf("server %s: outcome %s (%s), want %s", s.Server, s.Outcome, s.Reason, want)
		}
	}
	powerOn(t, there)
	leavesNothing(ctx, t, there, lasting.id)
	lasting.host(t) // and not twice
	awaitRecovery(ctx, t, there, "returned")
}

// TestAPartitionedHostIsTurnedOffBeforeItsServersStartElsewhere: its guests run on, so nothing but its BMC's word lets a server with a disk of the host's own
// start anew elsewhere.
func TestAPartitionedHostIsTurnedOffBeforeItsServersStartElsewhere(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), outageMax)
	defer cancel()
	g := boot(t, guestOptions{name: "islander", host: there})
	stock(t, "nova", "meta", "islander", "set", "godwit:recovery_rebuild=on")
	t.Cleanup(func() { powerOn(t, there) })
	cut := time.Now()
	for _, link := range []string{lab.LinkMgmt, lab.LinkData} {
		if _, err := cloud.Lab.Output(ctx, there, "ip", "link", "set", link, "down"); err != nil {
			t.Fatal(err)
		}
	}
	awaitEvacuated(ctx, t, g.id, "ACTIVE")
	t.Logf("running elsewhere %.1f s after the partition", time.Since(cut).Seconds())
	if _, err := cloud.Lab.Unit(ctx, there, lab.UnitAgent); err == nil {
		t.Error("the partitioned host is on while its server runs elsewhere")
	}
	if rec := awaitRecovery(ctx, t, there, "done"); !rec.Fenced || !strings.Contains(rec.Fence, "turned off, says its BMC") {
		t.Errorf("the recovery rests on %q, fenced %v", rec.Fence, rec.Fenced)
	}
	powerOn(t, there)
	leavesNothing(ctx, t, there, g.id)
	g.host(t)
}

// awaitRecovery waits until the newest recovery of a host has the status.
func awaitRecovery(ctx context.Context, t *testing.T, host, status string) labcloud.Recovery {
	t.Helper()
	var last labcloud.Recovery
	err := labcloud.Until(ctx, "recovery of "+host+" "+status, func() (bool, error) {
		life, err := cloud.Life(ctx, host)
		if err != nil || len(life.Recoveries) == 0 {
			return false, err
		}
		last = life.Recoveries[0]
		return last.Status == status, nil
	})
	if err != nil {
		t.Fatalf("%v; last %+v", err, last)
	}
	return last
}

// awaitTaking waits until a host takes servers again.
func awaitTaking(ctx context.Context, t *testing.T, host string) {
	t.Helper()
	err := labcloud.Until(ctx, host+" takes servers", func() (bool, error) {
		a := do(ctx, t, call{method: "GET", path: "os-services?binary=nova-compute&host=" + host, version: "2.53"})
		text := strings.ReplaceAll(a.body, " ", "")
		return strings.Contains(text, `"status":"enabled"`) && strings.Contains(text, `"state":"up"`), nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// An alarm that is false: the host lives, whatever is not heard of it.
type falseAlarm struct {
	name  string
	begin func(ctx context.Context) error
	last  time.Duration // how long it is left so
	end   func(ctx context.Context) error
}

func falseAlarms() []falseAlarm {
	inNode := func(argv ...string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := cloud.Lab.Output(ctx, there, argv...)
			return err
		}
	}
	pause := 6 * time.Second
	if drill {
		pause = 20 * time.Second
	}
	nothing := func(context.Context) error { return nil }
	return []falseAlarm{
		{"its agent is paused", signal(there, lab.UnitAgent, "STOP"), pause, signal(there, lab.UnitAgent, "CONT")},
		{"its management link is cut", inNode("ip", "link", "set", lab.LinkMgmt, "down"), pause, inNode("ip", "link", "set", lab.LinkMgmt, "up")},
		{"it has far more to do than it can", burn(pause), pause, nothing},
		{"the server is paused", signal(lab.Controller, lab.UnitServer, "STOP"), pause, signal(lab.Controller, lab.UnitServer, "CONT")},
		{"the server is killed", func(ctx context.Context) error { return cloud.Lab.KillUnit(ctx, lab.Controller, lab.UnitServer) }, pause, nothing},
		{"the server is away", func(ctx context.Context) error { return cloud.Lab.StopUnit(ctx, lab.Controller, lab.UnitServer) }, pause, func(ctx context.Context) error {
			if err := cloud.Lab.StartUnit(ctx, lab.Controller, lab.UnitServer); err != nil {
				return err
			}
			return cloud.Lab.WaitAPI(ctx)
		}},
	}
}

// signal sends a signal to a node's daemon.
func signal(node, unit, name string) func(context.Context) error {
	return func(ctx context.Context) error {
		pid, err := cloud.Lab.UnitPID(ctx, node, unit)
		if err == nil {
			_, err = cloud.Lab.Output(ctx, node, "kill", "-"+name, strconv.Itoa(pid))
		}
		return err
	}
}

// burn keeps several times as many processes busy on the host as it has CPUs.
func burn(last time.Duration) func(context.Context) error {
	const burners = 16
	script := fmt.Sprintf("for i in $(seq %d); do timeout %d sh -c 'while :; do :; done' >/dev/null 2>&1 & done", burners, int(last.Seconds()))
	return func(ctx context.Context) error {
		_, err := cloud.Lab.Output(ctx, there, "sh", "-c", script)
		return err
	}
}

// TestAHostThatLivesIsNotCalledDead: an agent that is paused, a management link that is cut, a host that is
// overloaded, a server that is paused, killed or away. The guest runs on where it is, nothing
// is recovered, and the host is neither fenced nor disabled.
func TestAHostThatLivesIsNotCalledDead(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), outageMax*time.Duration(repeated(1, 2))) // pauses are longer in a drill
	defer cancel()
	g := bootFromVolume(t, guestOptions{name: "alive", host: there})
	before := g.status(t)
	known := recoveryBegins(ctx, t)
	for _, alarm := range falseAlarms() {
		t.Run(alarm.name, func(t *testing.T) {
			if err := alarm.begin(ctx); err != nil {
				t.Fatal(err)
			}
			<-time.After(alarm.last) // the test is about what does not happen meanwhile
			if err := alarm.end(ctx); err != nil {
				t.Fatal(err)
			}
			waitService(t, there, "up")
			awaitTaking(ctx, t, there)
			if now := g.status(t); now.BootID != before.BootID || g.host(t) != there {
				t.Errorf("the guest was %+v and is %+v", before, now)
			}
		})
	}
	if now := recoveryBegins(ctx, t); !slices.Equal(now, known) {
		t.Errorf("recoveries were begun: %v, known before: %v", now, known)
	}
}

// recoveryBegins lists the recoveries of all hosts.
func recoveryBegins(ctx context.Context, t *testing.T) []string {
	t.Helper()
	var out []string
	for _, node := range cloud.Lab.ComputeNodes() {
		life, err := cloud.Life(ctx, node)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range life.Recoveries {
			out = append(out, fmt.Sprint(node, " ", r.Began))
		}
	}
	slices.Sort(out)
	return out
}
