package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"

	"github.com/godwit-cloud/godwit/internal/lab"
	"github.com/godwit-cloud/godwit/test/labcloud"
)

// A coldMove is something that is done to a guest with its power off.
type coldMove struct {
	name  string
	from  string              // the status it is asked in
	ask   func(to string) any // the action's body; to is the other host
	ends  []string            // statuses it may end in, the best first
	steps []string            // in whose beginning somebody is killed: each is long enough to be seen
}

const (
	resting = "ACTIVE"
	verify  = "VERIFY_RESIZE"
	shelved = "SHELVED_OFFLOADED"
)

func plainly(name string) func(string) any {
	return func(string) any { return map[string]any{name: nil} }
}

func toHost(name string) func(string) any {
	return func(to string) any { return map[string]any{name: map[string]any{"host": to}} }
}

var coldMoves = []coldMove{
	{"migrate", resting, toHost("migrate"), []string{verify, resting}, []string{"stop_source", "export_source", "prepare_target", "start_target"}},
	{"revert", verify, plainly("revertResize"), []string{resting, verify}, []string{"stop_target", "prepare_source", "start_source", "discard_target"}},
	{"confirm", verify, plainly("confirmResize"), []string{resting, verify}, []string{"discard_source", "keep_target"}},
	{"shelve", resting, plainly("shelve"), []string{shelved, resting}, []string{"stop", "upload", "offload"}},
	{"unshelve", shelved, toHost("unshelve"), []string{resting, shelved}, []string{"prepare", "start"}},
}

// coldVictims are who is killed, given where the guest is and where it would go.
var coldVictims = map[string]func(at, to string) (node, unit string){
	"the server":              func(_, _ string) (string, string) { return lab.Controller, lab.UnitServer },
	"the agent it is at":      func(at, _ string) (string, string) { return at, lab.UnitAgent },
	"the agent it goes to":    func(_, to string) (string, string) { return to, lab.UnitAgent },
	"the libvirtd it is at":   func(at, _ string) (string, string) { return at, lab.UnitLibvirtd },
	"the libvirtd it goes to": func(_, to string) (string, string) { return to, lab.UnitLibvirtd },
}

// coldAlways are the cases of every test run, in a chain that needs no move besides.
var coldAlways = map[string]string{
	"migrate start_target": "the agent it goes to", "confirm discard_source": "the agent it goes to", "shelve upload": "the libvirtd it is at", "unshelve start": "the server",
}

// A coldCase is a move, a step of it, and who is killed when that has begun.
type coldCase struct {
	move         coldMove
	step, victim string
}

// coldCases are the cases of this run.
func coldCases() (all []coldCase) {
	for _, m := range coldMoves {
		for _, step := range m.steps {
			for _, victim := range []string{"the server", "the agent it is at", "the agent it goes to", "the libvirtd it is at", "the libvirtd it goes to"} {
				if drill || coldAlways[m.name+" "+step] == victim {
					all = append(all, coldCase{m, step, victim})
				}
			}
		}
	}
	return all
}

// takeNext takes the next case out of those that are left: of those that can begin in the guest's status, one of the moves that has most left, so that hardly a
// move is made but to kill somebody in it. When none can begin in it, the first that is left is taken, and the guest has to be brought there.
func takeNext(left *[]coldCase, status string) coldCase {
	count := map[string]int{}
	for _, c := range *left {
		count[c.move.name]++
	}
	next := 0
	for i, c := range *left {
		best := (*left)[next].move
		if c.move.from == status && (best.from != status || count[c.move.name] > count[best.name]) {
			next = i
		}
	}
	c := (*left)[next]
	*left = slices.Delete(*left, next, next+1)
	return c
}

// TestKillsInTheMiddleOfColdMoves: whoever is killed, at whatever step: the move ends as done or as if it had not been asked, without help; the guest runs once at
// most, what it had acknowledged is on its disk, and the host that does not have it keeps nothing but the way back.
func TestKillsInTheMiddleOfColdMoves(t *testing.T) {
	g := &nomad{running: boot(t, guestOptions{name: "nomad", host: here}), at: here, status: resting}
	for left := coldCases(); len(left) > 0; {
		c := takeNext(&left, g.status)
		began := time.Now()
		if !t.Run(fmt.Sprintf("%s killed in %s at %s", c.victim, c.move.name, c.step), func(t *testing.T) { g.survives(t, c.move, c.step, c.victim) }) {
			g.takeStock(t)
		}
		t.Logf("%d cases left; that took %s", len(left), time.Since(began).Round(time.Second))
	}
	g.bring(t.Context(), t, resting)
}

// A nomad is a guest that is moved with its power off.
type nomad struct {
	*running
	at     string // the host it is on, or was on last
	status string
	last   uint64 // the last record that was acknowledged
	rested uint64 // and that was before it was moved: with a local disk, a revert gives that disk back
}

// bringsMax is how many moves lie between any two statuses at most.
const bringsMax = 2

// takeStock finds out how a case that failed has left the guest, so that the next begins with what is; a guest that nothing can be asked of ends the test.
func (g *nomad) takeStock(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	settled(ctx, t)
	s := g.rests(ctx, t, coldMove{name: "what was left behind", ends: []string{resting, verify, shelved}})
	g.status = s.Status
	if s.Status == shelved {
		return
	}
	g.at = s.Host
	talk, err := cloud.Talk(ctx, s)
	if err != nil {
		t.Fatalf("it does not answer: %v", err)
	}
	g.talk.Close()
	g.talk = talk
	g.last = g.sync(ctx, t)
	if g.status == resting {
		g.rested = g.last
	}
}

// survives is one case.
func (g *nomad) survives(t *testing.T, m coldMove, step, victim string) {
	g.bring(t.Context(), t, m.from)
	ctx, cancel := context.WithTimeout(t.Context(), strikeMax)
	defer cancel()
	to := map[string]string{here: there, there: here}[g.at]
	node, unit := coldVictims[victim](g.at, to)
	request := g.ask(ctx, t, m, to)
	seen := g.awaitStep(ctx, t, request, step)
	killUnit(ctx, t, node, unit)
	s := g.rests(ctx, t, m)
	settled(ctx, t)
	if m.name == "revert" && s.Status == resting {
		g.last = g.rested
	}
	t.Logf("%s; ended %s on %q: %s", seen, s.Status, s.Host, s.Fault.Message)
	g.sound(ctx, t, s)
}

// bring brings the guest into a status, with nobody killed. Each move has as long as a case, whose own time has not begun.
func (g *nomad) bring(ctx context.Context, t *testing.T, status string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, bringsMax*strikeMax)
	defer cancel()
	for g.status != status {
		next := map[string]string{resting + verify: "migrate", resting + shelved: "shelve", verify + resting: "confirm", verify + shelved: "confirm", shelved + resting: "unshelve", shelved + verify: "unshelve"}[g.status+status]
		m := coldMoves[slices.IndexFunc(coldMoves, func(m coldMove) bool { return m.name == next })]
		to := map[string]string{here: there, there: here}[g.at]
		g.ask(ctx, t, m, to)
		s := g.rests(ctx, t, m)
		if s.Status != m.ends[0] {
			t.Fatalf("%s without any kill ended %s: %s", m.name, s.Status, s.Fault.Message)
		}
		g.sound(ctx, t, s)
	}
}

// ask asks for the move and returns the request's id.
func (g *nomad) ask(ctx context.Context, t *testing.T, m coldMove, to string) string {
	t.Helper()
	if g.status != shelved {
		g.last = g.sync(ctx, t)
	}
	if g.status == resting {
		g.rested = g.last
	}
	a := do(ctx, t, call{method: "POST", path: "/servers/" + g.id + "/action", version: "2.91", body: m.ask(to)})
	if a.code != http.StatusAccepted && a.code != http.StatusNoContent {
		t.Fatalf("%s: %d %s", m.name, a.code, a.body)
	}
	return a.header.Get("X-Openstack-Request-Id")
}

// awaitStep waits until the step has begun, or the whole has ended, and says which.
func (g *nomad) awaitStep(ctx context.Context, t *testing.T, request, step string) string {
	t.Helper()
	seen := ""
	err := labcloud.Until(ctx, step+" begins", func() (bool, error) {
		raw, err := get(ctx, "servers/"+g.id+"/os-instance-actions/"+request)
		if err != nil {
			return false, err
		}
		var out struct {
			Action struct{ Events []struct{ Event string } } `json:"instanceAction"`
		}
		if err := json.Unmarshal(raw, &out); err != nil {
			return false, err
		}
		for _, e := range out.Action.Events {
			if strings.HasSuffix(e.Event, "_"+step) {
				seen = "killed when " + e.Event + " had begun"
				return true, nil
			}
		}
		s, err := cloud.Server(ctx, g.id)
		if err == nil && s.TaskState == "" {
			seen = "killed when all was over"
		}
		return seen != "", err
	})
	if err != nil {
		t.Fatal(err)
	}
	return seen
}

// get reads from the compute API.
func get(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, cloud.Compute.Endpoint+path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("X-Auth-Token", cloud.Compute.Token())
	req.Header.Set("OpenStack-API-Version", "compute 2.91")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s %s", path, resp.Status, raw)
	}
	return raw, err
}

// rests waits until the move is over.
func (g *nomad) rests(ctx context.Context, t *testing.T, m coldMove) *servers.Server {
	t.Helper()
	var s *servers.Server
	err := labcloud.Until(ctx, m.name+" is over", func() (bool, error) {
		now, err := cloud.Server(ctx, g.id)
		if err != nil {
			return false, nil // the server was killed; its supervisor starts it again
		}
		s = now
		return s.TaskState == "" && slices.Contains(m.ends, s.Status), nil
	})
	if err != nil {
		if s == nil {
			s = &servers.Server{}
		}
		t.Fatalf("%v: %s/%s on %s, %s", err, s.Status, s.TaskState, s.Host, s.Fault.Message)
	}
	return s
}

// sound checks what must hold whenever nothing is under way, and notes where the guest is.
func (g *nomad) sound(ctx context.Context, t *testing.T, s *servers.Server) {
	t.Helper()
	g.status = s.Status
	nodes := []string{here, there}
	if s.Status == shelved {
		for _, node := range nodes {
			leavesNothing(ctx, t, node, g.id)
		}
		return
	}
	g.at = s.Host
	if runs := g.host(t); runs != s.Host {
		t.Errorf("it runs on %s, its record says %s", runs, s.Host)
	}
	g.talk.Close()
	talk, err := cloud.Talk(ctx, s)
	if err != nil {
		t.Fatalf("it does not answer: %v", err)
	}
	g.talk = talk
	g.holds(ctx, t, g.last)
	bound(ctx, t, g.id, s.Host)
	for _, node := range nodes {
		if node != s.Host && s.Status == resting {
			leavesNothing(ctx, t, node, g.id)
		}
	}
}
