// Package standby shows what an operator gets from a second server: real `godwit server` processes on one etcd cluster with TLS, agents that
// speak the real wire for simulated hosts, and a SIGKILL in the middle of migrations.
package standby

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostapitest"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/test/labcloud"
)

// patience bounds the whole test, and with it every wait; nothing takes that long, on a busy machine either, unless it is broken.
const patience = 5 * time.Minute

const host1, host2 = cloud.HostName("compute-1"), cloud.HostName("compute-2")

func TestAStandbyTakesOverFromALeaderThatIsKilledInTheMiddleOfMigrations(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "godwit")
	if out, err := exec.Command("go", "build", "-o", binary, "../../cmd/godwit").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	p := newPlant(t)
	p.a.start(ctx, binary)
	awaitLeader(ctx, t, p.a)
	p.b.start(ctx, binary)
	if p.b.leads() {
		t.Fatal("both servers take agents")
	}
	p.connect(ctx, host1, host2)
	c := p.furnish(ctx, 2)

	// Three migrations: one lasts longer than its leader, two end, well and badly, while nobody leads.
	lasting, ending, failing := p.begin(ctx, c, "lasting"), p.begin(ctx, c, "ending"), p.begin(ctx, c, "failing")
	failing.outcome = hostpb.MigrateOutcome_MIGRATE_OUTCOME_FAILED
	p.script(lasting, ending, failing)
	for _, m := range []*move{lasting, ending, failing} {
		must(t, c.LiveMigrate(ctx, m.id, string(host2)))
	}
	for _, m := range []*move{lasting, ending, failing} {
		m.await(ctx, c, "running")
	}
	standbyServes(ctx, c, p, lasting)

	p.a.end(syscall.SIGKILL)
	killed := time.Now()
	ending.open()
	failing.open()
	if s, err := c.Server(ctx, lasting.id); err != nil || s.Status != "MIGRATING" {
		t.Errorf("a read through the balancer right after the kill: %v, %v", s, err)
	}
	late := p.bootAt(ctx, c, p.b, "asked while nobody leads")
	awaitLeader(ctx, t, p.b)
	t.Logf("b led %v after a was killed", time.Since(killed))
	ending.await(ctx, c, "completed")
	failing.await(ctx, c, "failed")
	t.Logf("what a had begun was settled %v after", time.Since(killed))
	p.nobodyIsDead(ctx, c)
	lasting.open()
	lasting.await(ctx, c, "completed")
	for id, on := range map[string]cloud.HostName{lasting.id: host2, ending.id: host2, failing.id: host1} {
		p.settled(ctx, c, id, on)
	}
	_, err := c.WaitStatus(ctx, late, "ACTIVE")
	must(t, err)
	p.imageIsThere(ctx, c)

	// The dead one comes back as the standby, and takes over again when the other is told to stop.
	p.a.start(ctx, binary)
	if p.a.leads() {
		t.Error("the server that came back takes agents too")
	}
	p.b.end(syscall.SIGTERM)
	awaitLeader(ctx, t, p.a)
	p.nobodyIsDead(ctx, c)
	for _, id := range []string{lasting.id, ending.id, failing.id, late} {
		must(t, c.Remove(ctx, id))
		if left := p.fleet.Leftovers(cloud.ServerID(id)); len(left) > 0 {
			t.Errorf("server %s left %v", id, left)
		}
	}
	if v := p.fleet.Violations(); len(v) > 0 {
		t.Error(v)
	}
}

func awaitLeader(ctx context.Context, t *testing.T, s *process) {
	t.Helper()
	must(t, labcloud.Until(ctx, "server "+s.name+" leads", func() (bool, error) { return s.leads(), nil }))
}

// move is a server on compute-1 that is to go to compute-2 when its gate opens.
type move struct {
	t       *testing.T
	id      string
	gate    chan struct{}
	once    sync.Once
	outcome hostpb.MigrateOutcome
}

// open lets the migration end.
func (m *move) open() { m.once.Do(func() { close(m.gate) }) }

func (p *plant) begin(ctx context.Context, c *tenant, name string) *move {
	p.t.Helper()
	g := c.guest
	g.Name, g.Host = name, string(host1)
	s, err := c.Boot(ctx, g)
	must(p.t, err)
	return &move{t: p.t, id: s.ID, gate: make(chan struct{})}
}

func (p *plant) script(moves ...*move) {
	p.fleet.ScriptMigrations(func(r *hostpb.MigrateRequest) hostapitest.Migration {
		i := slices.IndexFunc(moves, func(m *move) bool { return m.id == r.GetCall().GetServerId() })
		return hostapitest.Migration{Gate: moves[i].gate, Outcome: moves[i].outcome}
	})
	p.t.Cleanup(func() { // the fleet's goroutines end with the test, however it ends
		for _, m := range moves {
			m.open()
		}
		p.fleet.Wait()
	})
}

// await waits until the API shows the server's migration in this state.
func (m *move) await(ctx context.Context, c *tenant, status string) {
	m.t.Helper()
	last := ""
	err := labcloud.Until(ctx, "migration "+status, func() (bool, error) {
		list, err := c.Migrations(ctx, m.id)
		if err != nil || len(list) == 0 {
			return false, err
		}
		last = list[0].Status
		if list[0].Final() && last != status {
			return false, fmt.Errorf("it is %s", last)
		}
		return last == status, nil
	})
	if err != nil {
		m.t.Fatalf("server %s: %v (last seen %q)", m.id, err, last)
	}
}

// standbyServes checks that the server that does not lead reads and writes, and says who has the consoles.
func standbyServes(ctx context.Context, c *tenant, p *plant, m *move) {
	p.t.Helper()
	if status, text := c.ask(ctx, p.b, http.MethodGet, "servers/"+m.id, ""); status != http.StatusOK || !strings.Contains(text, `"MIGRATING"`) {
		p.t.Errorf("the standby shows %d %s", status, text)
	}
	const console = `{"os-getConsoleOutput": {}}`
	if status, text := c.ask(ctx, p.b, http.MethodPost, "servers/"+m.id+"/action", console); status != http.StatusServiceUnavailable || !strings.Contains(text, "server a, which leads") {
		p.t.Errorf("a console on the standby: %d %s", status, text)
	}
	if status, text := c.ask(ctx, p.a, http.MethodPost, "servers/"+m.id+"/action", console); status != http.StatusOK || !strings.Contains(text, "booted on") {
		p.t.Errorf("a console on the leader: %d %s", status, text)
	}
	id := p.bootAt(ctx, c, p.b, "asked of the standby")
	if _, err := c.WaitStatus(ctx, id, "ACTIVE"); err != nil {
		p.t.Error(err)
	}
	must(p.t, c.Remove(ctx, id))
}

// bootAt asks one server, past the balancer, for a guest, and returns when all servers know of it.
func (p *plant) bootAt(ctx context.Context, c *tenant, s *process, name string) (id string) {
	p.t.Helper()
	status, text := c.ask(ctx, s, http.MethodPost, "servers", fmt.Sprintf(`{"server": {"name": %q, "imageRef": %q, "flavorRef": %q, "networks": [{"uuid": %q}]}}`,
		name, c.guest.Image, c.guest.Flavor, c.guest.Network))
	if status != http.StatusAccepted {
		p.t.Fatalf("server %s refuses a boot: %d %s", s.name, status, text)
	}
	var answer struct{ Server struct{ ID string } }
	must(p.t, json.Unmarshal([]byte(text), &answer))
	must(p.t, labcloud.Until(ctx, "the other server's replica has it", func() (bool, error) {
		_, err := c.Server(ctx, answer.Server.ID)
		if gophercloud.ResponseCodeIs(err, http.StatusNotFound) {
			return false, nil
		}
		return err == nil, err
	}))
	return answer.Server.ID
}

// settled checks that a server is active on one host, in the record and in the fleet.
func (p *plant) settled(ctx context.Context, c *tenant, id string, host cloud.HostName) {
	p.t.Helper()
	s, err := c.WaitStatus(ctx, id, "ACTIVE")
	must(p.t, err)
	must(p.t, labcloud.Until(ctx, "nothing is left elsewhere", func() (bool, error) { return len(p.fleet.Leftovers(cloud.ServerID(id))) == 1, nil }))
	if on := p.fleet.Running(cloud.ServerID(id)); !slices.Equal(on, []cloud.HostName{host}) || s.Host != string(host) {
		p.t.Errorf("server %s is on %s by its record and runs on %v, want %s", id, s.Host, on, host)
	}
}

// nobodyIsDead waits until both hosts are heard by the new leader, and checks that it has not taken another leader's silence for theirs.
func (p *plant) nobodyIsDead(ctx context.Context, c *tenant) {
	p.t.Helper()
	must(p.t, c.WaitHosts(ctx, len(p.agents)))
	var all struct {
		Recoveries []labcloud.Recovery `json:"recoveries"`
	}
	must(p.t, c.Operator(ctx, http.MethodGet, "recoveries", nil, &all))
	if len(all.Recoveries) > 0 {
		p.t.Errorf("after a change of the leader these hosts were recovered: %+v", all.Recoveries)
	}
	for host := range p.agents {
		life, err := c.Life(ctx, string(host))
		must(p.t, err)
		if life.Verdict.Verdict == "dead" {
			p.t.Errorf("after a change of the leader host %s is called dead: %+v", host, life.Verdict)
		}
	}
}

// imageIsThere reads the image from the new leader, as a host does that boots from it.
func (p *plant) imageIsThere(ctx context.Context, c *tenant) {
	p.t.Helper()
	data, err := p.agents[host1].FetchImage(ctx, cloud.ImageID(c.guest.Image), 0)
	must(p.t, err)
	defer data.Close()
	got, err := io.ReadAll(data)
	if err != nil || len(got) != len(imageData) {
		p.t.Errorf("read %d bytes of the image, %v", len(got), err)
	}
}
