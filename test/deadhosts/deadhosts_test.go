//go:build drill

// Package deadhosts takes the power of real hosts away, of one or of most of them, and watches what the cloud does by itself, what it asks a person for, and what a
// monitor's word changes. It brings up a lab of its own, of four hosts with BMCs, and takes long, so it is a drill.
package deadhosts

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/test/labcloud"
)

const (
	allMax = 40 * time.Minute
	// concurrencyMax is how many servers may be moved at a time.
	concurrencyMax = 4
	// crowdVariable says how many servers the host has whose loss is one of many; crowdUsual, when it says nothing.
	crowdVariable = "GODWIT_DRILL_CROWD"
	crowdUsual    = 30
)

// world is a cloud whose hosts die.
type world struct {
	*labcloud.Fixture
	binary string
}

func TestDeadHosts(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), allMax)
	defer cancel()
	binary, err := labcloud.Build(ctx, t.TempDir())
	must(t, err)
	t.Setenv(labcloud.BinaryVariable, binary)
	w := &world{labcloud.BringUp(ctx, t, labcloud.Options{Name: "deadhosts", Hosts: 4, Storage: 1, BMC: true, CPUs: crowdUsual,
		Recovery: map[string]any{"concurrency_max": concurrencyMax, "heal_backoff": "1s"}}), binary}
	must(t, w.LiftQuota(ctx))
	t.Run("a monitor's word", func(t *testing.T) { w.aMonitorsWord(ctx, t) })
	t.Run("a watchdog that turns its guest off", func(t *testing.T) { w.aWatchdogTurnsItsGuestOff(ctx, t) })
	t.Run("the brake", func(t *testing.T) { w.theBrakeAsks(ctx, t) })
	t.Run("a crowd", func(t *testing.T) { w.aCrowdIsRecovered(ctx, t) })
}

// aMonitorsWord: the stock client of Masakari says that a host which has lost its power stopped. Its server runs elsewhere once the BMC has said that the host is
// off, the notification tells of it, and the host is on maintenance until it is back. Of a host that lives, it is told and nothing is done.
func (w *world) aMonitorsWord(ctx context.Context, t *testing.T) {
	const host, lives = "compute-1", "compute-2"
	segment := w.shown(ctx, t, "uuid", "segment", "create", "racks", "auto", "compute")
	member := w.shown(ctx, t, "uuid", "segment", "host", "create", host, "COMPUTE", "SSH", segment)
	w.shown(ctx, t, "uuid", "segment", "host", "create", lives, "COMPUTE", "SSH", segment)
	id := w.onVolume(ctx, t, "watched", host, w.FlavorID)
	news := func(host string) []string {
		return []string{"notification", "create", "COMPUTE_HOST", host, time.Now().UTC().Format("2006-01-02T15:04:05"),
			`{"event": "STOPPED", "cluster_status": "OFFLINE", "host_status": "NORMAL"}`}
	}
	wrong := w.shown(ctx, t, "notification_uuid", news(lives)...)
	must(t, w.Lab.PowerOff(ctx, host))
	right := w.told(ctx, t, member, news(host))
	w.await(ctx, t, "the notification is finished", func() (bool, error) {
		return w.shown(ctx, t, "status", "notification", "show", right) == "finished", nil
	})
	if on := w.shown(ctx, t, "on_maintenance", "segment", "host", "show", segment, member); on != "true" {
		t.Errorf("while its server is elsewhere the host is on maintenance: %s", on)
	}
	if s, err := w.Server(ctx, id); err != nil || s.Host == host || s.Status != "ACTIVE" {
		t.Errorf("the server: %+v, %v", s, err)
	}
	if life, err := w.Life(ctx, host); err != nil || !life.Recoveries[0].Fenced {
		t.Errorf("the host: %+v, %v", life, err)
	}
	w.back(ctx, t, host)
	w.await(ctx, t, "it is off maintenance", func() (bool, error) {
		return w.shown(ctx, t, "on_maintenance", "segment", "host", "show", segment, member) == "false", nil
	})
	w.await(ctx, t, "what was said of a host that lives is ignored", func() (bool, error) {
		return w.shown(ctx, t, "status", "notification", "show", wrong) == "ignored", nil
	})
	if life, err := w.Life(ctx, lives); err != nil || len(life.Recoveries) > 0 {
		t.Errorf("the host that lives: %+v, %v", life, err)
	}
	w.stock(ctx, t, "openstack", "segment", "delete", segment)
}

// told gives a monitor's news and returns the notification that tells of the host's recovery: that one, or the cluster's own, when on a busy machine the cluster was
// faster than the client, which is then told that the host is on maintenance already.
func (w *world) told(ctx context.Context, t *testing.T, member string, news []string) string {
	t.Helper()
	out, err := w.Client(ctx, append(append([]string{"openstack"}, news...), "-f", "value", "-c", "notification_uuid")...)
	if err == nil {
		return strings.TrimSpace(out)
	}
	if !strings.Contains(err.Error(), "already under maintenance") {
		t.Fatal(err)
	}
	t.Log("the cluster was faster than the monitor")
	var all []map[string]any
	must(t, json.Unmarshal([]byte(w.stock(ctx, t, "openstack", "notification", "list", "-f", "json")), &all))
	for _, n := range all {
		if n["source_host_uuid"] == member {
			return fmt.Sprint(n["notification_uuid"])
		}
	}
	t.Fatalf("no notification of the host: %v", all)
	return ""
}

// aWatchdogTurnsItsGuestOff: its flavor says that the watchdog device turns the guest off. It is a failure, not a wish, so the guest is started again.
func (w *world) aWatchdogTurnsItsGuestOff(ctx context.Context, t *testing.T) {
	w.stock(ctx, t, "openstack", "flavor", "create", "--id", "harsh", "--vcpus", "1", "--ram", "256", "--disk", "1", "--property", "hw:watchdog_action=poweroff", "harsh")
	id := w.onVolume(ctx, t, "harsh", "compute-3", "harsh")
	s, err := w.Server(ctx, id)
	must(t, err)
	talk, err := w.Talk(ctx, s)
	must(t, err)
	before, err := talk.Status(ctx)
	must(t, err)
	must(t, talk.ArmWatchdog(ctx))
	_ = talk.Close() // its guest is about to end
	began := time.Now()
	w.await(ctx, t, "the guest answers from another boot", func() (bool, error) {
		s, err := w.Server(ctx, id)
		if err != nil || s.Status != "ACTIVE" {
			return false, err
		}
		short, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		talk, err := w.Talk(short, s)
		if err != nil {
			return false, nil //nolint:nilerr // it has not started yet
		}
		defer talk.Close()
		now, err := talk.Status(short)
		return err == nil && now.BootID != before.BootID, nil //nolint:nilerr // it ends now
	})
	t.Logf("a watchdog turned the guest off; it answers from another boot %.1f s after it was armed", time.Since(began).Seconds())
	told := w.stock(ctx, t, "openstack", "notification", "list", "-f", "json")
	if !strings.Contains(told, id) || !strings.Contains(told, "WATCHDOG") {
		t.Errorf("nothing tells of the watchdog: %s", told)
	}
}

// theBrakeAsks: three of four hosts lose their power at once. Nobody is called dead, until a person lets one host's recovery go on; the others wait.
func (w *world) theBrakeAsks(ctx context.Context, t *testing.T) {
	cut := []string{"compute-1", "compute-2", "compute-3"}
	first := w.onVolume(ctx, t, "first", cut[0], w.FlavorID)
	second := w.onVolume(ctx, t, "second", cut[1], w.FlavorID)
	known := map[string]int{}
	for _, host := range cut {
		life, err := w.Life(ctx, host)
		must(t, err)
		known[host] = len(life.Recoveries)
	}
	var all sync.WaitGroup
	for _, host := range cut {
		all.Go(func() {
			if err := w.Lab.PowerOff(ctx, host); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	w.await(ctx, t, "the brake is on", func() (bool, error) {
		for _, host := range cut {
			life, err := w.Life(ctx, host)
			if err != nil || !strings.Contains(strings.Join(life.Verdict.Evidence, " "), "the brake is on") {
				return false, err
			}
		}
		return true, nil
	})
	<-time.After(15 * time.Second) // the drill is about what does not happen meanwhile
	for _, host := range cut {
		if life, err := w.Life(ctx, host); err != nil || life.Verdict.Verdict != "suspect" || len(life.Recoveries) != known[host] {
			t.Errorf("with the brake on, %s: %+v, %v", host, life, err)
		}
	}
	if asked := w.stock(ctx, t, w.binary, "recover", "allow", cut[0]); !strings.Contains(asked, "suspect") {
		t.Errorf("recover allow, without --yes: %s", asked)
	}
	w.stock(ctx, t, w.binary, "recover", "allow", cut[0], "--yes")
	began := time.Now()
	w.elsewhere(ctx, t, cut[0], first)
	t.Logf("the first server runs elsewhere %.1f s after a person's word", time.Since(began).Seconds())
	if s, err := w.Server(ctx, second); err != nil || s.Host != cut[1] {
		t.Errorf("the server of a host that nobody answered for: %+v, %v", s, err)
	}
	for _, host := range cut[1:] {
		if life, err := w.Life(ctx, host); err != nil || len(life.Recoveries) != known[host] {
			t.Errorf("%s, which nobody answered for: %+v, %v", host, life, err)
		}
	}
	for _, host := range cut {
		must(t, w.Lab.PowerOn(ctx, host))
	}
	w.returned(ctx, t, cut[0])
	w.await(ctx, t, "all hosts are heard", func() (bool, error) {
		for _, host := range cut {
			if life, err := w.Life(ctx, host); err != nil || life.Verdict.Verdict != "alive" {
				return false, err
			}
		}
		return true, nil
	})
}

// aCrowdIsRecovered: a host with many servers dies. All of them run elsewhere in the end, once each, and never more are moved at a time than is set.
func (w *world) aCrowdIsRecovered(ctx context.Context, t *testing.T) {
	const host = "compute-2"
	n := crowdUsual
	if said := os.Getenv(crowdVariable); said != "" {
		var err error
		n, err = strconv.Atoi(said)
		must(t, err)
	}
	ids := w.crowd(ctx, t, host, n)
	before, err := w.Life(ctx, host)
	must(t, err)
	began := time.Now()
	must(t, w.Lab.PowerOff(ctx, host))
	most, first, last := 0, time.Duration(0), time.Duration(0)
	var rec labcloud.Recovery
	w.await(ctx, t, "the crowd is recovered", func() (bool, error) {
		life, err := w.Life(ctx, host)
		if err != nil || len(life.Recoveries) == len(before.Recoveries) {
			return false, err
		}
		rec = life.Recoveries[0]
		moving, there := 0, 0
		for _, s := range rec.Servers {
			switch s.Outcome {
			case "moving":
				moving++
			case "recovered":
				there++
			}
		}
		most = max(most, moving)
		if there > 0 && first == 0 {
			first = time.Since(began)
		}
		last = time.Since(began)
		return rec.Status == "done", nil
	})
	t.Logf("%d servers of a dead host: the first elsewhere after %.1f s, the last after %.1f s, %d at a time of %d allowed", n, first.Seconds(), last.Seconds(), most, concurrencyMax)
	if most > concurrencyMax || most < 2 {
		t.Errorf("%d were moved at a time, %d are allowed", most, concurrencyMax)
	}
	for _, s := range rec.Servers {
		if slices.Contains(ids, s.Server) && s.Outcome != "recovered" {
			t.Errorf("server %s: %s: %s", s.Server, s.Outcome, s.Reason)
		}
	}
	w.back(ctx, t, host)
	on := map[string]int{}
	for _, node := range w.Lab.ComputeNodes() {
		out, err := w.Lab.Output(ctx, node, "virsh", "-q", "list", "--uuid")
		must(t, err)
		for _, id := range strings.Fields(out) {
			on[id]++
		}
	}
	for _, id := range ids {
		if on[id] != 1 {
			t.Errorf("server %s runs %d times", id, on[id])
		}
	}
}

// crowd boots servers on a host; their disks are the hosts' own and may be made anew.
func (w *world) crowd(ctx context.Context, t *testing.T, host string, n int) (ids []string) {
	t.Helper()
	for i := range n {
		g := w.Guest(fmt.Sprint("crowd-", i), host, nil)
		g.Metadata["godwit:recovery_rebuild"] = "on"
		s, err := w.Create(ctx, g)
		must(t, err)
		ids = append(ids, s.ID)
	}
	t.Cleanup(func() { w.remove(ctx, t, ids...) })
	for _, id := range ids {
		_, err := w.WaitStatus(ctx, id, "ACTIVE")
		must(t, err)
	}
	return ids
}

// onVolume boots a server from a volume, for as long as the scenario lasts.
func (w *world) onVolume(ctx context.Context, t *testing.T, name, host, flavor string) string {
	t.Helper()
	g := w.Guest(name, host, map[string]string{"log": "20ms"})
	var err error
	g.Volume, err = w.CreateVolume(ctx, name, w.ImageID, 1)
	must(t, err)
	g.Flavor = flavor
	s, err := w.Boot(ctx, g)
	must(t, err)
	t.Cleanup(func() {
		w.remove(ctx, t, s.ID)
		if err := w.RemoveVolume(context.WithoutCancel(ctx), g.Volume); err != nil {
			t.Error(err)
		}
	})
	return s.ID
}

func (w *world) remove(ctx context.Context, t *testing.T, ids ...string) {
	for _, id := range ids {
		if err := w.Remove(context.WithoutCancel(ctx), id); err != nil {
			t.Error(err)
		}
	}
}

// back turns a host on and waits until its recovery is over.
func (w *world) back(ctx context.Context, t *testing.T, host string) {
	t.Helper()
	must(t, w.Lab.PowerOn(ctx, host))
	w.returned(ctx, t, host)
}

func (w *world) returned(ctx context.Context, t *testing.T, host string) {
	t.Helper()
	w.await(ctx, t, host+" has returned", func() (bool, error) {
		life, err := w.Life(ctx, host)
		return err == nil && len(life.Recoveries) > 0 && life.Recoveries[0].Status == "returned", err
	})
}

// elsewhere waits until a server runs on another host.
func (w *world) elsewhere(ctx context.Context, t *testing.T, from, id string) {
	t.Helper()
	w.await(ctx, t, "it runs elsewhere", func() (bool, error) {
		s, err := w.Server(ctx, id)
		return err == nil && s.Host != from && s.Status == "ACTIVE" && s.TaskState == "", err
	})
}

// shown runs a command of the stock client and returns a field of what it shows.
func (w *world) shown(ctx context.Context, t *testing.T, name string, command ...string) string {
	t.Helper()
	out := map[string]any{}
	must(t, json.Unmarshal([]byte(w.stock(ctx, t, append(append([]string{"openstack"}, command...), "-f", "json")...)), &out))
	return fmt.Sprint(out[name])
}

func (w *world) stock(ctx context.Context, t *testing.T, argv ...string) string {
	t.Helper()
	out, err := w.Client(ctx, argv...)
	if err != nil {
		t.Fatalf("%v: %v\n%s", argv, err, out)
	}
	return out
}

// await waits for what takes a minute at most on a quiet machine.
func (w *world) await(ctx context.Context, t *testing.T, what string, ok func() (bool, error)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	must(t, labcloud.Until(ctx, what, ok))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
