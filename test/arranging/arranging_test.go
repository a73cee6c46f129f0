//go:build drill

// Package arranging shows on real hosts what the optimiser does when something comes between, or nobody is there: BMCs put hosts to sleep, stopped
// servers sleep with their host, a plan is cancelled in the middle of a move, its leader dies, and full automation needs no person. It brings up a lab
// of its own, in which a step of five minutes is two seconds, so it is a drill.
//
//	compute-1, compute-3: a server each that nobody may move      compute-2: the host that everything happens to
package arranging

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/lab"
	"github.com/godwit-cloud/godwit/test/guest"
	"github.com/godwit-cloud/godwit/test/labcloud"
)

const (
	allMax  = 20 * time.Minute
	stepMax = 4 * time.Minute // one subtest, on a machine that does much else
	subject = "compute-2"
	// creep is a pace of copying, MiB/s, at which a guest with 32 MiB of random data travels for some seconds.
	creep = 4
	fill  = "32MiB"
)

var quick = map[string]any{"step": "2s", "telemetry": "500ms", "awake_min": "0s", "window": "1s", "gain_factor": 1, "reserve": 0, "accounting": "2s"}

// traveller is a guest that is moved about, and the conversation with it, which outlives its moves.
type traveller struct {
	id, name, bootID string
	talk             *guest.Client
}

// world is a cloud of three hosts.
type world struct {
	*testing.T
	*labcloud.Fixture
	guests []*traveller
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// stock runs a stock client.
func (w *world) stock(ctx context.Context, argv ...string) {
	w.Helper()
	_, err := w.Client(ctx, argv...)
	w.must(err)
}

// boot boots a guest on a host; automation is its own level, "" for none.
func (w *world) boot(ctx context.Context, name, host, automation string) *traveller {
	w.Helper()
	g := w.Guest(name, host, map[string]string{"log": "20ms", "fill": fill})
	if automation != "" {
		g.Metadata[cloud.MetaAutomation] = automation
	}
	s, err := w.Boot(ctx, g)
	w.must(err)
	tr := &traveller{id: s.ID, name: name}
	w.guests = append(w.guests, tr)
	w.converse(ctx, tr)
	return tr
}

// converse connects to a guest that was started.
func (w *world) converse(ctx context.Context, tr *traveller) {
	w.Helper()
	if tr.talk != nil {
		_ = tr.talk.Close() // its guest is gone
	}
	s, err := w.WaitStatus(ctx, tr.id, "ACTIVE")
	w.must(err)
	tr.talk, err = w.Talk(ctx, s)
	w.must(err)
	status, err := tr.talk.Status(ctx)
	w.must(err)
	tr.bootID = status.BootID
}

// whole checks that a guest runs on one host and was never restarted, and that all it wrote is on its disk.
func (w *world) whole(ctx context.Context, tr *traveller, host string) {
	w.Helper()
	last, err := tr.talk.Sync(ctx)
	w.must(err)
	status, err := tr.talk.Status(ctx)
	w.must(err)
	report, err := tr.talk.Verify(ctx)
	w.must(err)
	if !report.OK || report.Last < last || status.LogErrors > 0 || status.BootID != tr.bootID {
		w.Errorf("%s: log %+v, %d written, %d errors, booted as %s, now %s", tr.name, report, last, status.LogErrors, tr.bootID, status.BootID)
	}
	for _, node := range w.Lab.ComputeNodes() {
		out, _ := w.Lab.Output(ctx, node, "virsh", "-q", "list", "--name") // a node that is off has none
		if runs := strings.Contains(out, tr.id); runs != (node == host) {
			w.Errorf("%s runs on %s: %v; want it on %s", tr.name, node, runs, host)
		}
	}
}

func (w *world) power(ctx context.Context, host string) (state string, p cloud.HostPower) {
	w.Helper()
	var out struct {
		Host struct {
			State string          `json:"state"`
			Power cloud.HostPower `json:"power"`
		} `json:"host"`
	}
	w.must(w.Operator(ctx, http.MethodGet, "hosts/"+host, nil, &out))
	return out.Host.State, out.Host.Power
}

// ask asks a host to sleep, wake, or prove that it wakes, and waits until it has.
func (w *world) ask(ctx context.Context, host string, body map[string]any) cloud.HostPower {
	w.Helper()
	_, before := w.power(ctx, host)
	w.must(w.Operator(ctx, http.MethodPost, "hosts/"+host+"/power", body, nil))
	want := map[any]string{"sleep": "asleep", "wake": "up", "test": "up"}[body["ask"]]
	var p cloud.HostPower
	w.must(labcloud.Until(ctx, fmt.Sprintf("%s after %v", host, body), func() (bool, error) {
		var state string
		state, p = w.power(ctx, host)
		if p.WakeFailures > 0 {
			return false, fmt.Errorf("it does not wake: %s", p.Reason)
		}
		return state == want && p.Asked == cloud.AskNothing && (body["ask"] != "test" || p.WakeProven.After(before.WakeProven)), nil
	}))
	w.Logf("%s %v: %s (%s; sleep %s, wake %s)", host, body, want, p.Reason, p.SleepTook.Round(time.Millisecond), p.WakeTook.Round(time.Millisecond))
	return p
}

// gone waits until nothing of a host is left.
func (w *world) gone(ctx context.Context, host string) {
	w.Helper()
	w.must(labcloud.Until(ctx, "node "+host+" without a process", func() (bool, error) {
		_, err := w.Lab.NodePID(host)
		return err != nil, nil
	}))
}

// recommended asks for plans until one moves exactly that server off its host and puts the host to sleep.
func (w *world) recommended(ctx context.Context, tr *traveller) cloud.ActionPlan {
	w.Helper()
	var plan struct {
		Plan cloud.ActionPlan `json:"plan"`
	}
	w.must(labcloud.Until(ctx, "a plan that empties "+subject, func() (bool, error) {
		var audit struct {
			Audit cloud.Audit `json:"audit"`
		}
		if err := w.Operator(ctx, http.MethodPost, "audits", map[string]any{"goal": "consolidate"}, &audit); err != nil {
			return false, err
		}
		err := labcloud.Until(ctx, "audit", func() (bool, error) {
			err := w.Operator(ctx, http.MethodGet, "audits/"+string(audit.Audit.ID), nil, &audit)
			return audit.Audit.Status.Final(), err
		})
		if err != nil || audit.Audit.Status != cloud.StatusSucceeded {
			return false, errors.Join(err, fmt.Errorf("audit %s: %s", audit.Audit.Status, audit.Audit.Message))
		}
		if err := w.Operator(ctx, http.MethodGet, "plans/"+string(audit.Audit.Plan), nil, &plan); err != nil {
			return false, err
		}
		var kinds []cloud.PlanActionKind
		for _, a := range plan.Plan.Actions {
			kinds = append(kinds, a.Kind)
		}
		return slices.Equal(kinds, []cloud.PlanActionKind{cloud.ActionMigrate, cloud.ActionSleep}) && string(plan.Plan.Actions[0].Server) == tr.id, nil
	}))
	return plan.Plan
}

// underWay starts a plan and returns when its move copies, slowly.
func (w *world) underWay(ctx context.Context, p cloud.ActionPlan, tr *traveller) {
	w.Helper()
	_, err := w.Lab.Output(ctx, subject, "virsh", "-q", "migrate-setspeed", tr.id, strconv.Itoa(creep))
	w.must(err)
	known := w.migrations(ctx, tr)
	w.must(w.Operator(ctx, http.MethodPost, "plans/"+string(p.ID)+"/start", map[string]any{}, nil))
	w.must(labcloud.Until(ctx, tr.name+" copies", func() (bool, error) {
		now := w.migrations(ctx, tr)
		if len(now) == len(known) {
			return false, nil
		}
		m := labcloud.Newest(now)
		if m.Final() {
			return false, fmt.Errorf("the move has ended %s", m.Status)
		}
		return m.Status == "running", nil
	}))
}

func (w *world) migrations(ctx context.Context, tr *traveller) []labcloud.Migration {
	w.Helper()
	list, err := w.Migrations(ctx, tr.id)
	w.must(err)
	return list
}

// ended waits for a plan's end. The server may be between two lives.
func (w *world) ended(ctx context.Context, id cloud.PlanID) cloud.ActionPlan {
	w.Helper()
	var out struct {
		Plan cloud.ActionPlan `json:"plan"`
	}
	var last error
	err := labcloud.Until(ctx, "plan "+string(id), func() (bool, error) {
		last = w.Operator(ctx, http.MethodGet, "plans/"+string(id), nil, &out)
		return last == nil && out.Plan.Status.Final(), nil
	})
	w.must(errors.Join(err, ifErr(err, last)))
	return out.Plan
}

// ifErr is last when there is an err that it explains.
func ifErr(err, last error) error {
	if err == nil {
		return nil
	}
	return last
}

// home brings a traveller back to the subject, which must be awake.
func (w *world) home(ctx context.Context, tr *traveller) {
	w.Helper()
	if state, _ := w.power(ctx, subject); state != "up" {
		w.ask(ctx, subject, map[string]any{"ask": "wake"})
	}
	moved, err := w.Move(ctx, tr.id, subject)
	w.must(err)
	w.Logf("%s is back on %s: %+v", tr.name, subject, moved)
}

// TestRealHostsAreArranged: one lab, one sentence of the promise after the other. A step that fails may fail those after it.
func TestRealHostsAreArranged(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), allMax)
	defer cancel()
	w := &world{T: t, Fixture: labcloud.BringUp(ctx, t, labcloud.Options{Name: "arranging", BMC: true, WakeOnLAN: true, Optimize: quick})}
	defer func() {
		for _, tr := range w.guests {
			_ = tr.talk.Close()
		}
	}()
	for _, step := range []struct {
		name string
		do   func(ctx context.Context, w *world)
	}{
		{"a host is put to sleep by its BMC, and woken", sleepsByBMC},
		{"a host sleeps with its stopped servers, and a start wakes it", sleepsWithStopped},
		{"a plan is cancelled in the middle of its move", cancelled},
		{"another leader goes on with a plan", leaderDies},
		{"full automation applies its plans by itself", byItself},
	} {
		ok := t.Run(step.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(ctx, stepMax)
			defer cancel()
			sub := *w
			sub.T = t
			step.do(ctx, &sub)
			w.guests = sub.guests
		})
		if !ok {
			return
		}
	}
}

// sleepsByBMC: mode bmc asks the agent only whether the host may sleep; what ends it is the soft shutdown of its BMC, which also wakes it.
func sleepsByBMC(ctx context.Context, w *world) {
	w.must(w.Operator(ctx, http.MethodPost, "hosts/"+subject+"/power", map[string]any{"ask": "test", "mode": "suspend"}, nil))
	w.must(labcloud.Until(ctx, "a host that cannot suspend says so, and is awake", func() (bool, error) {
		state, p := w.power(ctx, subject)
		return state == "up" && p.Asked == cloud.AskNothing && strings.Contains(p.Reason, "made of namespaces"), nil
	}))
	before, err := w.Lab.NodePID(subject)
	w.must(err)
	if p := w.ask(ctx, subject, map[string]any{"ask": "test", "mode": "bmc"}); !strings.Contains(p.Reason, "woken by bmc") || p.Mode != cloud.SleepBMC {
		w.Errorf("power %+v: want mode bmc, woken by bmc", p)
	}
	if after, err := w.Lab.NodePID(subject); err != nil || after == before {
		w.Errorf("process %d before, %d after (%v): it was never off", before, after, err)
	}
	if p := w.ask(ctx, subject, map[string]any{"ask": "sleep", "mode": "bmc"}); p.Mode != cloud.SleepBMC {
		w.Errorf("power %+v", p)
	}
	w.gone(ctx, subject)
	agent, err := os.ReadFile(w.logOf(subject))
	w.must(err)
	if strings.Contains(string(agent), "going to sleep") {
		w.Error("the agent ended its host by itself")
	}
	w.ask(ctx, subject, map[string]any{"ask": "wake"})
}

// logOf is the file of a node's agent's log.
func (w *world) logOf(node string) string {
	for _, file := range w.Lab.LogFiles() {
		if strings.Contains(file, "/"+node+"/") && strings.HasSuffix(file, lab.UnitAgent+".log") {
			return file
		}
	}
	w.Fatalf("no log of %s among %v", node, w.Lab.LogFiles())
	return ""
}

// sleepsWithStopped: with magic packets alone, so that both ways of waking are met.
func sleepsWithStopped(ctx context.Context, w *world) {
	w.must(w.ForgetBMCs(ctx))
	tr := w.boot(ctx, "resting", subject, "")
	last, err := tr.talk.Sync(ctx)
	w.must(err)
	w.stock(ctx, "openstack", "server", "stop", tr.name)
	_, err = w.WaitStatus(ctx, tr.id, "SHUTOFF")
	w.must(err)
	w.ask(ctx, subject, map[string]any{"ask": "sleep"})
	w.gone(ctx, subject)
	w.stock(ctx, "openstack", "server", "start", tr.name)
	w.converse(ctx, tr)
	if state, p := w.power(ctx, subject); state != "up" || !strings.Contains(p.Reason, "woken by lan") {
		w.Errorf("%s is %s: %s", subject, state, p.Reason)
	}
	report, err := tr.talk.Verify(ctx)
	w.must(err)
	if report.Last < last {
		w.Errorf("record %d of %d is there", report.Last, last)
	}
	w.whole(ctx, tr, subject)
	w.must(w.IntroduceBMCs(ctx))
	w.must(w.Remove(ctx, tr.id))
	_ = tr.talk.Close()
	w.guests = slices.DeleteFunc(w.guests, func(g *traveller) bool { return g == tr })
}

// cancelled: the move that is under way is called off, the guest goes on where it was, and the host stays awake.
func cancelled(ctx context.Context, w *world) {
	w.boot(ctx, "pinned-1", "compute-1", "off")
	w.boot(ctx, "pinned-3", "compute-3", "off")
	tr := w.boot(ctx, "lone", subject, "")
	p := w.recommended(ctx, tr)
	w.underWay(ctx, p, tr)
	w.must(w.Operator(ctx, http.MethodPost, "plans/"+string(p.ID)+"/cancel", map[string]any{}, nil))
	ended := w.ended(ctx, p.ID)
	for _, a := range ended.Actions {
		if ended.Status != cloud.StatusCancelled || a.Status != cloud.StatusCancelled {
			w.Errorf("plan %s, %s %s: %s", ended.Status, a.Kind, a.Status, a.Error)
		}
	}
	if m := labcloud.Newest(w.migrations(ctx, tr)); m.Status != "cancelled" {
		w.Errorf("the move ended %s", m.Status)
	}
	_, err := w.WaitStatus(ctx, tr.id, "ACTIVE")
	w.must(err)
	w.whole(ctx, tr, subject)
	if state, _ := w.power(ctx, subject); state != "up" {
		w.Errorf("%s is %s", subject, state)
	}
}

// leaderDies: the server is killed while the plan's move copies; what comes up instead ends the plan, and moves nothing twice.
func leaderDies(ctx context.Context, w *world) {
	tr := w.guests[len(w.guests)-1]
	p := w.recommended(ctx, tr)
	known := len(w.migrations(ctx, tr))
	w.underWay(ctx, p, tr)
	w.must(w.Lab.KillUnit(ctx, lab.Controller, lab.UnitServer))
	if ended := w.ended(ctx, p.ID); ended.Status != cloud.StatusSucceeded {
		w.Fatalf("plan %s: %s %+v", ended.Status, ended.Message, ended.Actions)
	}
	if list := w.migrations(ctx, tr); len(list) != known+1 || labcloud.Newest(list).Status != "completed" {
		w.Errorf("migrations %+v", list)
	}
	w.whole(ctx, tr, string(p.Actions[0].Target))
	w.gone(ctx, subject)
	w.home(ctx, tr)
}

// byItself: the server starts anew with automation full; nobody asks for anything, and the host is emptied and sleeps.
func byItself(ctx context.Context, w *world) {
	tr := w.guests[len(w.guests)-1]
	known := len(w.migrations(ctx, tr))
	conf := w.Lab.Path(lab.Controller, "/etc/godwit/godwit.yaml")
	text, err := os.ReadFile(conf)
	w.must(err)
	changed := strings.Replace(string(text), "\noptimize:\n", "\noptimize:\n    automation: full\n", 1)
	if changed == string(text) {
		w.Fatalf("no section optimize in\n%s", text)
	}
	w.must(os.WriteFile(conf, []byte(changed), 0o600))
	w.must(w.Lab.RestartUnit(ctx, lab.Controller, lab.UnitServer))
	w.must(w.Lab.WaitAPI(ctx))
	w.must(labcloud.Until(ctx, subject+" sleeps", func() (bool, error) {
		var out struct {
			Host struct {
				State string `json:"state"`
			} `json:"host"`
		}
		err := w.Operator(ctx, http.MethodGet, "hosts/"+subject, nil, &out)
		return err == nil && out.Host.State == "asleep", nil
	}))
	w.gone(ctx, subject)
	var plans struct {
		Plans []cloud.ActionPlan `json:"plans"`
	}
	w.must(w.Operator(ctx, http.MethodGet, "plans", nil, &plans))
	own := 0
	for _, p := range plans.Plans {
		if p.Audit == "" && p.Status == cloud.StatusSucceeded && len(p.Actions) > 0 {
			own++
		}
	}
	if list := w.migrations(ctx, tr); own == 0 || len(list) != known+1 {
		w.Errorf("%d plans of the automation succeeded, %d moves since: %+v", own, len(list)-known, list)
	}
	s, err := w.Server(ctx, tr.id)
	w.must(err)
	w.whole(ctx, tr, s.Host)
	for i, host := range []string{"compute-1", "compute-3"} {
		w.whole(ctx, w.guests[i], host)
	}
}
