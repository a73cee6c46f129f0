// Package partition cuts real hosts off from what they need, the control plane and a shared directory of disks, one after the other and both at once, and
// watches the processes of their guests from outside: a host that has lost both stops its guest before the cluster may start it elsewhere, one that has lost
// one goes on, and at no moment is there a second copy. The bounds are those of docs/decisions/0014-recovery.md.
package partition

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/lab"
	"github.com/godwit-cloud/godwit/internal/recovery"
	"github.com/godwit-cloud/godwit/test/guest"
	"github.com/godwit-cloud/godwit/test/guest/disklog"
	"github.com/godwit-cloud/godwit/test/labcloud"
)

const (
	// hosts are a witness, one host for each direction, and the one that the tester's peer is on.
	hosts = 4
	// selfFenceAfter is the least that may be set: the test waits for it again and again.
	selfFenceAfter = 10 * time.Second
	// noticed is the agent's own period, decision 14: it begins to stop its guests 0 to 1 s after the bound.
	noticed = time.Second
	// drag is what ending a process, and seeing that from outside, may take on a machine that is busy: decision 14 allows 9 s for it.
	drag = 8 * time.Second
	// awaitMax bounds what takes half a minute at most on a quiet machine.
	awaitMax = 90 * time.Second
	// oneMax bounds a turn on a busy machine.
	oneMax = 4 * time.Minute
)

// margin is what the leader adds to selfFenceAfter.
var margin = recovery.Default().Margin

// turns is how often each direction is walked; a drill repeats them.
func turns() int {
	if os.Getenv("GODWIT_DRILL") != "" {
		return 3
	}
	return 1
}

// TestAHostThatIsCutOffStopsItsGuestsBeforeTheyStartElsewhere walks both directions, on a host each, at the same time: the control plane is lost first and the
// storage later, and the other way round. After the first loss the guest runs on where it is, and nobody is called dead; after the second it stops, and then
// starts elsewhere with every record that was acknowledged. A host that lost its storage first has said so while it could: what a kernel does with a process whose
// storage hangs is nobody's promise, so the cluster then waits for a person's word.
func TestAHostThatIsCutOffStopsItsGuestsBeforeTheyStartElsewhere(t *testing.T) {
	if testing.Short() {
		t.Skip("needs root and a lab")
	}
	ctx, cancel := context.WithTimeout(t.Context(), oneMax*time.Duration(turns()+1))
	defer cancel()
	f := bringUp(ctx, t)
	for i := range turns() {
		t.Run(fmt.Sprint("turn ", i), func(t *testing.T) {
			t.Run("control plane first", func(t *testing.T) {
				t.Parallel()
				(&castaway{f, "compute-2"}).walk(ctx, t, networks, storage)
			})
			t.Run("storage first", func(t *testing.T) {
				t.Parallel()
				(&castaway{f, "compute-3"}).walk(ctx, t, storage, networks)
			})
			if i == 0 && os.Getenv("GODWIT_DRILL") != "" {
				t.Run("agent paused", func(t *testing.T) { (&castaway{f, "compute-2"}).paused(ctx, t) })
			}
		})
	}
}

// castaway is the host that is cut off.
type castaway struct {
	*labcloud.Fixture
	host string
}

// A loss is something that a host can be cut off from.
type loss struct {
	name      string
	cut, heal func(ctx context.Context, c *castaway) error
}

var (
	networks = loss{"networks", links("down"), links("up")}
	storage  = loss{"storage", func(ctx context.Context, c *castaway) error { return c.Lab.CutShare(ctx, c.host) }, func(ctx context.Context, c *castaway) error { return c.Lab.RestoreShare(ctx, c.host) }}
)

func links(state string) func(context.Context, *castaway) error {
	script := fmt.Sprintf("ip link set %s %s && ip link set %s %[2]s", lab.LinkMgmt, state, lab.LinkData)
	return func(ctx context.Context, c *castaway) error {
		_, err := c.Lab.Output(ctx, c.host, "sh", "-c", script)
		return err
	}
}

// adrift is a guest on a host that is being cut off.
type adrift struct {
	*castaway
	id   string
	last uint64 // record of its disk log that was acknowledged before
	seen *observer
}

// walk takes one loss, then the other, and heals both.
func (c *castaway) walk(ctx context.Context, t *testing.T, first, second loss) {
	server, err := c.BootGuest(ctx, "on-"+c.host, c.host, map[string]string{"tick": "100ms", "log": "20ms"})
	must(t, err)
	defer func() {
		if err := c.Remove(context.WithoutCancel(ctx), server.ID); err != nil {
			t.Error(err)
		}
	}()
	g := &adrift{castaway: c, id: server.ID, last: synced(ctx, t, c.Fixture, server.ID), seen: observe(t, c.Fixture, server.ID)}
	defer g.seen.stop()
	defer func() { // also when the test fails: what is cut stays cut for the next one
		for _, l := range []loss{first, second} {
			_ = l.heal(context.WithoutCancel(ctx), c) // healed already, if all went well
		}
	}()
	g.loseOne(ctx, t, first)
	word := first.name == storage.name
	if word {
		await(ctx, t, "the host has said that it cannot vouch for its guests", func() (bool, error) { return g.vouchesNot(ctx) })
	}
	g.loseBoth(ctx, t, first, second, word)
	for _, l := range []loss{second, first} {
		do(ctx, t, "heal "+l.name, c, l.heal)
	}
	if word {
		c.says(ctx, t, "--up")
	}
	await(ctx, t, "the host has returned", func() (bool, error) {
		life, err := c.Life(ctx, c.host)
		return err == nil && len(life.Recoveries) > 0 && life.Recoveries[0].Status == "returned", err
	})
	if on := g.seen.now(); len(on) != 1 || on[0] == c.host {
		t.Errorf("after the return the guest runs on %v", on)
	}
	if twice := g.seen.stop(); twice != "" {
		t.Error(twice)
	}
	g.whole(ctx, t, "the return")
}

// loseOne takes one loss and checks that nothing comes of it.
func (g *adrift) loseOne(ctx context.Context, t *testing.T, l loss) {
	t.Helper()
	before, err := g.Life(ctx, g.host)
	must(t, err)
	do(ctx, t, "cut "+l.name, g.castaway, l.cut)
	<-time.After(selfFenceAfter + noticed + 2*time.Second) // the test is about what does not happen meanwhile
	if on := g.seen.now(); len(on) != 1 || on[0] != g.host {
		t.Fatalf("with the %s lost alone, the guest runs on %v", l.name, on)
	}
	if life, err := g.Life(ctx, g.host); err != nil || life.Verdict.Verdict == "dead" || len(life.Recoveries) != len(before.Recoveries) {
		t.Errorf("with the %s lost alone: %+v, %v", l.name, life, err)
	}
}

// loseBoth takes the other loss. The guest is stopped where it is, and then runs elsewhere; with word, not before a person has said that the host is down.
func (g *adrift) loseBoth(ctx context.Context, t *testing.T, first, second loss, word bool) {
	t.Helper()
	cut := time.Now()
	do(ctx, t, "cut "+second.name, g.castaway, second.cut)
	complete := time.Now()
	await(ctx, t, "the guest was stopped", func() (bool, error) { return !g.seen.ended(g.host).IsZero(), nil })
	if word {
		<-time.After(margin + 2*time.Second) // the test is about what does not happen meanwhile
		life, err := g.Life(ctx, g.host)
		if err != nil || len(life.Recoveries) == 0 || life.Recoveries[0].Status != "blocked" || !g.seen.elsewhere(g.host).IsZero() {
			t.Errorf("without a person's word: %+v, %v; it runs elsewhere since %v", life, err, g.seen.elsewhere(g.host))
		}
		g.says(ctx, t, "--down")
	}
	await(ctx, t, "it runs elsewhere", func() (bool, error) { return !g.seen.elsewhere(g.host).IsZero(), nil })
	stopped, started := g.seen.ended(g.host), g.seen.elsewhere(g.host)
	t.Logf("%s lost, then %s: the guest's process ended %.1f s after the second loss and a new one began elsewhere %.1f s after it", first.name, second.name,
		stopped.Sub(cut).Seconds(), started.Sub(cut).Seconds())
	if took := stopped.Sub(complete); took > selfFenceAfter+noticed+drag {
		t.Errorf("the guest was stopped %v after the host was cut off, the bound is %v", took, selfFenceAfter+noticed+drag)
	}
	if took := stopped.Sub(cut); took < selfFenceAfter-2*time.Second { // the last heartbeat and the last renewal are up to a second old
		t.Errorf("the guest was stopped after %v already", took)
	}
	if took := started.Sub(cut); took < selfFenceAfter+margin-2*time.Second {
		t.Errorf("it was started elsewhere after %v, the leader waits for %v", took, selfFenceAfter+margin)
	}
	await(ctx, t, "it is ACTIVE elsewhere", func() (bool, error) {
		s, err := g.Server(ctx, g.id)
		return err == nil && s.Host != g.host && s.Status == "ACTIVE" && s.TaskState == "", err
	})
	g.whole(ctx, t, "the partition")
	if life, err := g.Life(ctx, g.host); err != nil || len(life.Recoveries) == 0 || life.Recoveries[0].Fenced != word {
		t.Errorf("the host has no BMC; a person's word: %v; yet: %+v, %v", word, life, err)
	}
}

// whole checks that the guest's disk has all that was acknowledged.
func (g *adrift) whole(ctx context.Context, t *testing.T, after string) {
	t.Helper()
	if r := verified(ctx, t, g.Fixture, g.id); !r.OK || r.Last < g.last {
		t.Errorf("the disk after %s: %+v, record %d was acknowledged before it", after, r, g.last)
	}
}

// vouchesNot reports whether the host has said that it may be unable to stop its guests.
func (c *castaway) vouchesNot(ctx context.Context) (bool, error) {
	var out struct {
		Host struct {
			Report struct {
				SelfFencing bool `json:"self_fencing"`
			} `json:"report"`
		} `json:"host"`
	}
	err := c.Operator(ctx, http.MethodGet, "hosts/"+c.host, nil, &out)
	return !out.Host.Report.SelfFencing, err
}

// says is a person's word on the host: --down or --up.
func (c *castaway) says(ctx context.Context, t *testing.T, word string) {
	t.Helper()
	_, err := c.Client(ctx, "openstack", "--os-compute-api-version", "2.11", "compute", "service", "set", word, c.host, "nova-compute")
	must(t, err)
}

// paused stops the agent for longer than it takes to fence itself: neither it nor the cluster touches the guest.
func (c *castaway) paused(ctx context.Context, t *testing.T) {
	server, err := c.BootGuest(ctx, "bystander", c.host, map[string]string{"tick": "100ms", "log": "20ms"})
	must(t, err)
	defer func() { must(t, c.Remove(context.WithoutCancel(ctx), server.ID)) }()
	last := synced(ctx, t, c.Fixture, server.ID)
	seen := observe(t, c.Fixture, server.ID)
	defer seen.stop()
	pid, err := c.Lab.UnitPID(ctx, c.host, lab.UnitAgent)
	must(t, err)
	signal := func(name string) {
		_, err := c.Lab.Output(ctx, c.host, "kill", "-"+name, strconv.Itoa(pid))
		must(t, err)
	}
	signal("STOP")
	<-time.After(2*selfFenceAfter + margin) // the test is about what does not happen meanwhile
	signal("CONT")
	<-time.After(selfFenceAfter + margin)
	if on := seen.now(); len(on) != 1 || on[0] != c.host || !seen.ended(c.host).IsZero() {
		t.Errorf("after a pause of its host's agent the guest runs on %v; its process was ended at %v", on, seen.ended(c.host))
	}
	if r := verified(ctx, t, c.Fixture, server.ID); !r.OK || r.Last < last {
		t.Errorf("the disk: %+v", r)
	}
}

// bringUp makes a cloud of four hosts with one directory of disks.
func bringUp(ctx context.Context, t *testing.T) *labcloud.Fixture {
	t.Helper()
	return labcloud.BringUp(ctx, t, labcloud.Options{Name: "partition", Hosts: hosts, Shared: true,
		Recovery: map[string]any{"self_fence_after": selfFenceAfter.String(), "brake_share": 0.6}}) // two of four are cut off at once
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func do(ctx context.Context, t *testing.T, what string, c *castaway, act func(context.Context, *castaway) error) {
	t.Helper()
	if err := act(ctx, c); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func await(ctx context.Context, t *testing.T, what string, ok func() (bool, error)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, awaitMax)
	defer cancel()
	must(t, labcloud.Until(ctx, what, ok))
}

// converse talks to the guest.
func converse(ctx context.Context, t *testing.T, f *labcloud.Fixture, id string) *guest.Client {
	t.Helper()
	s, err := f.Server(ctx, id)
	must(t, err)
	talk, err := f.Talk(ctx, s)
	must(t, err)
	return talk
}

// synced returns the last record that the guest's disk log has acknowledged.
func synced(ctx context.Context, t *testing.T, f *labcloud.Fixture, id string) uint64 {
	t.Helper()
	talk := converse(ctx, t, f, id)
	defer talk.Close()
	last, err := talk.Sync(ctx)
	must(t, err)
	return last
}

func verified(ctx context.Context, t *testing.T, f *labcloud.Fixture, id string) disklog.Report {
	t.Helper()
	talk := converse(ctx, t, f, id)
	defer talk.Close()
	r, err := talk.Verify(ctx)
	must(t, err)
	return r
}

// observer watches the processes of one guest on all hosts, from outside of them.
type observer struct {
	cancel context.CancelFunc
	done   chan struct{}

	mu    sync.Mutex
	on    map[string]bool      // hosts with a process, at the last look
	began map[string]time.Time // first seen there
	end   map[string]time.Time // last seen to be gone there
	twice string               // two at once
}

// lookEvery is how often the processes are looked at; what the test measures is seconds.
const lookEvery = 50 * time.Millisecond

func observe(t *testing.T, f *labcloud.Fixture, id string) *observer {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	o := &observer{cancel: cancel, done: make(chan struct{}), on: map[string]bool{}, began: map[string]time.Time{}, end: map[string]time.Time{}}
	spaces := map[string]string{}
	for _, node := range f.Lab.ComputeNodes() {
		pid, err := f.Lab.NodePID(node)
		must(t, err)
		space, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid))
		must(t, err)
		spaces[space] = node
	}
	o.look(spaces, id)
	go func() { // ended by stop
		defer close(o.done)
		tick := time.NewTicker(lookEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				o.look(spaces, id)
			case <-ctx.Done():
				return
			}
		}
	}()
	return o
}

// look finds the guest's processes.
func (o *observer) look(spaces map[string]string, id string) {
	found := map[string]bool{}
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		panic(err) // the pattern is wrong
	}
	for _, p := range processes {
		line, err := os.ReadFile(p + "/cmdline")
		if err != nil || !strings.Contains(string(line), id) || !strings.Contains(string(line), "qemu-system") {
			continue
		}
		if space, err := os.Readlink(p + "/ns/pid"); err == nil && spaces[space] != "" && lives(p) {
			found[spaces[space]] = true
		}
	}
	now := time.Now()
	o.mu.Lock()
	defer o.mu.Unlock()
	for node := range found {
		if o.began[node].IsZero() {
			o.began[node] = now
		}
		if len(found) > 1 {
			o.twice = fmt.Sprintf("at %v the guest had processes on %v", now, found)
		}
	}
	for node := range o.on {
		if !found[node] {
			o.end[node] = now
		}
	}
	o.on = found
}

// lives reports whether a process is more than an entry that waits to be collected.
func lives(proc string) bool {
	stat, err := os.ReadFile(proc + "/stat")
	_, rest, ok := strings.Cut(string(stat), ") ")
	return err == nil && ok && !strings.HasPrefix(rest, "Z")
}

func (o *observer) now() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	var out []string
	for node := range o.on {
		out = append(out, node)
	}
	return out
}

func (o *observer) ended(node string) time.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.end[node]
}

// elsewhere returns when a process was first seen on another host.
func (o *observer) elsewhere(there string) time.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	for node, at := range o.began {
		if node != there {
			return at
		}
	}
	return time.Time{}
}

// stop ends the watch and says when there were two copies at once, if ever.
func (o *observer) stop() string {
	o.cancel()
	<-o.done
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.twice
}
