package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"

	"github.com/godwit-cloud/godwit/internal/lab"
	"github.com/godwit-cloud/godwit/test/guest"
	"github.com/godwit-cloud/godwit/test/labcloud"
)

// A running guest with an open connection to its control port, kept over everything that happens to it.
type running struct {
	id   string
	ip   string
	talk *guest.Client
}

type guestOptions struct {
	name      string
	host      string
	dirty     string // memory changed per second, such as 32MiB
	dirtySize string // of the memory that is changed; 64MiB if empty
	fill      string // random data on the disk and in memory, such as 64MiB
	volume    string // boots from it
	logPeriod string // between two records of the disk log; 20ms if empty
	flavor    string // name; the package's if empty
	noDrive   bool   // no config drive: the guest learns everything from the metadata service
}

// orders are what the guest is told to do.
func (o guestOptions) orders() map[string]string {
	orders := map[string]string{"tick": "100ms", "log": "20ms"}
	for name, value := range map[string]string{"log": o.logPeriod, "dirty": o.dirty, "dirty_size": o.dirtySize, "fill": o.fill} {
		if value != "" {
			orders[name] = value
		}
	}
	return orders
}

// boot boots a guest that ticks and writes its disk log, waits until it answers, and deletes it when the test ends.
func boot(t *testing.T, o guestOptions) *running {
	t.Helper()
	return bootAll(t, o)[0]
}

// bootAll boots several guests at a time.
func bootAll(t *testing.T, options ...guestOptions) []*running {
	t.Helper()
	ids := make([]string, len(options))
	for i, o := range options {
		g := cloud.Guest(o.name, o.host, o.orders())
		g.NoDrive, g.Volume = o.noDrive, o.volume
		if o.flavor != "" {
			g.Flavor = strings.TrimSpace(stock(t, "openstack", "flavor", "show", o.flavor, "-f", "value", "-c", "id"))
		}
		s, err := cloud.Create(t.Context(), g)
		if err != nil {
			t.Fatal(err)
		}
		ids[i] = s.ID
		t.Cleanup(func() { retire(t, o.name, s.ID) })
	}
	var guests []*running
	for i, o := range options {
		s, err := cloud.WaitStatus(t.Context(), ids[i], "ACTIVE")
		if err != nil {
			t.Fatal(err)
		}
		if o.host != "" && s.Host != o.host {
			t.Fatalf("%s asked for %s, landed on %s", o.name, o.host, s.Host)
		}
		guests = append(guests, connect(t, s))
	}
	for i, o := range options {
		if o.fill != "" {
			awaitConsole(t, ids[i], "filled disk=")
		}
	}
	return guests
}

// retire deletes a test's guest, after quoting its console if the test failed.
func retire(t *testing.T, name, id string) {
	if t.Failed() {
		t.Logf("console of %s:\n%s", name, console(id))
	}
	remove(t, id)
}

// awaitConsole waits until the guest has said something on its console.
func awaitConsole(t *testing.T, id, text string) {
	t.Helper()
	err := labcloud.Until(t.Context(), id+" says "+text, func() (bool, error) {
		out, err := servers.ShowConsoleOutput(t.Context(), cloud.Compute, id, servers.ShowConsoleOutputOpts{}).Extract()
		return strings.Contains(out, text), err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func connect(t *testing.T, s *servers.Server) *running {
	t.Helper()
	talk, err := cloud.Talk(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	g := &running{id: s.ID, ip: labcloud.Address(s), talk: talk}
	t.Cleanup(func() { g.talk.Close() })
	return g
}

// reconnect begins a new conversation with a guest that has been started again.
func (g *running) reconnect(t *testing.T) {
	t.Helper()
	g.talk.Close()
	s, err := cloud.WaitStatus(t.Context(), g.id, "ACTIVE")
	if err != nil {
		t.Fatal(err)
	}
	if g.talk, err = cloud.Talk(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if ip := labcloud.Address(s); ip != g.ip {
		t.Errorf("the server had %s and has %s now", g.ip, ip)
	}
}

// consoleTail is how many lines of a console a report on a failed test quotes.
const consoleTail = 60

// console is the end of a server's console for a report.
func console(id string) string {
	ctx, cancel := context.WithTimeout(context.Background(), removeMax)
	defer cancel()
	out, err := servers.ShowConsoleOutput(ctx, cloud.Compute, id, servers.ShowConsoleOutputOpts{Length: consoleTail}).Extract()
	if err != nil {
		return err.Error()
	}
	return out
}

// removeMax bounds the clean-up of one server.
const removeMax = 2 * time.Minute

func remove(t *testing.T, id string) {
	ctx, cancel := context.WithTimeout(context.Background(), removeMax)
	defer cancel()
	if err := servers.Delete(ctx, cloud.Compute, id).ExtractErr(); err != nil {
		t.Errorf("delete %s: %v", id, err)
		return
	}
	awaitGone(t, id)
}

// awaitGone waits until a server that was deleted is no more, and checks that no host keeps anything of it.
func awaitGone(t *testing.T, id string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), removeMax)
	defer cancel()
	if err := cloud.WaitGone(ctx, id); err != nil {
		t.Error(err)
	}
	for _, node := range cloud.Lab.ComputeNodes() {
		leavesNothing(ctx, t, node, id)
	}
}

func (g *running) status(t *testing.T) guest.Status {
	t.Helper()
	s, err := g.talk.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// goesOn waits until the guest has ticked and logged further than at before, in the same life.
func (g *running) goesOn(t *testing.T, before guest.Status) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	err := labcloud.Until(ctx, "guest goes on", func() (bool, error) {
		now, err := g.talk.Status(ctx)
		if err != nil {
			return false, err
		}
		if now.BootID != before.BootID {
			t.Fatalf("the guest rebooted: boot id %s, was %s", now.BootID, before.BootID)
		}
		return now.Ticks > before.Ticks && now.LogLast > before.LogLast, nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// whole checks that the guest lives and that its disk log has every record it ever acknowledged.
func (g *running) whole(t *testing.T) {
	t.Helper()
	before := g.status(t)
	r, err := g.talk.Verify(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !r.OK || r.Last < before.LogLast || before.LogErrors != 0 {
		t.Errorf("disk log: %+v; the guest had written %d records with %d errors", r, before.LogLast, before.LogErrors)
	}
	g.goesOn(t, before)
}

// untouched checks that a refused request changed nothing.
func (g *running) untouched(t *testing.T, before guest.Status) {
	t.Helper()
	s, err := cloud.Server(t.Context(), g.id)
	if err != nil {
		t.Fatal(err)
	}
	if s.Status != "ACTIVE" || s.TaskState != "" || s.Host != g.host(t) {
		t.Errorf("server is %s, task %q, on %s", s.Status, s.TaskState, s.Host)
	}
	g.goesOn(t, before)
}

// host finds the one host on which the guest's CPUs run, by asking each host's libvirt, and fails when there is not exactly one.
func (g *running) host(t *testing.T) string {
	t.Helper()
	var on []string
	for _, node := range cloud.Lab.ComputeNodes() {
		out, err := cloud.Lab.Output(t.Context(), node, "virsh", "-q", "list", "--uuid", "--state-running")
		if err != nil {
			continue // a host that is off runs nothing
		}
		if strings.Contains(out, g.id) {
			on = append(on, node)
		}
	}
	if len(on) != 1 {
		t.Fatalf("guest %s runs on %v, want exactly one host", g.id, on)
	}
	return on[0]
}

// cleanMax bounds how long a host may take to clean up after a server that has left.
const cleanMax = 20 * time.Second

// leavesNothing checks that a host keeps no domain and no file of a server, and that nothing of the host counts as taken by it.
func leavesNothing(ctx context.Context, t *testing.T, node, id string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, cleanMax)
	defer cancel()
	var left string
	err := labcloud.Until(ctx, "", func() (bool, error) {
		left = remains(ctx, node, id)
		if claimed, err := cloud.Claimed(ctx, node, id); err != nil || claimed { // an API that restarts is asked again
			left += fmt.Sprintf("\na claim: %v %v", claimed, err)
		}
		return left == "", nil
	})
	if err != nil {
		t.Errorf("%s keeps of server %s:\n%s", node, id, left)
	}
}

// remains lists what a host has of a server: domain, disks, console. The agent's note of the last generation it accepted, which keeps late
// calls out, is meant to stay.
func remains(ctx context.Context, node, id string) string {
	script := `virsh -q list --all --uuid | grep -F "$1"; find /var/lib/godwit /run/godwit -path "*$1*" -not -path '*/agent/servers/*' 2>/dev/null | head -5`
	out, err := cloud.Lab.Output(ctx, node, "sh", "-c", script+"; true", "sh", id)
	if err != nil {
		return "" // a host without power keeps nothing that runs
	}
	return strings.TrimSpace(out)
}

// The functions below put a host into a state for one case and return what undoes it.

func disable(host string) func(t *testing.T) func() {
	return func(t *testing.T) func() {
		set := func(status string) {
			id := serviceID(t, host)
			a := do(context.Background(), t, call{method: "PUT", path: "os-services/" + id, version: "2.53", body: map[string]any{"status": status}})
			if a.code != http.StatusOK {
				t.Fatalf("os-services %s: %d %s", status, a.code, a.body)
			}
		}
		set("disabled")
		return func() { set("enabled") }
	}
}

func serviceID(t *testing.T, host string) string {
	a := do(context.Background(), t, call{method: "GET", path: "os-services?binary=nova-compute&host=" + host, version: "2.53"})
	var out struct {
		Services []struct {
			ID string `json:"id"`
		} `json:"services"`
	}
	if err := json.Unmarshal([]byte(a.body), &out); err != nil || len(out.Services) != 1 {
		t.Fatalf("os-services of %s: %v %s", host, err, a.body)
	}
	return out.Services[0].ID
}

// powerOff kills the host's agent for good rather than the host: the peer's cable ends there.
func powerOff(host string) func(t *testing.T) func() {
	return func(t *testing.T) func() {
		ctx := context.Background()
		if err := cloud.Lab.CrashUnit(ctx, host, lab.UnitAgent); err != nil {
			t.Fatal(err)
		}
		waitService(t, host, "down")
		return func() {
			if err := cloud.Lab.StartUnit(ctx, host, lab.UnitAgent); err != nil {
				t.Fatal(err)
			}
			waitService(t, host, "up")
		}
	}
}

func waitService(t *testing.T, host, state string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := labcloud.Until(ctx, host+" "+state, func() (bool, error) {
		a := do(ctx, t, call{method: "GET", path: "os-services?binary=nova-compute&host=" + host, version: "2.53"})
		return strings.Contains(a.body, `"state": "`+state+`"`) || strings.Contains(a.body, `"state":"`+state+`"`), nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// fill leaves the host no memory for another guest, by an aggregate-free trick: a flavor as large as what is left, booted there.
func fill(host string) func(t *testing.T) func() {
	return func(t *testing.T) func() {
		ctx := context.Background()
		free := freeMemory(t, host)
		flavor, err := cloud.Flavor(ctx, "filler", 1, free-64, 1)
		if err != nil {
			t.Fatal(err)
		}
		s, err := cloud.Boot(ctx, labcloud.Guest{Name: "filler", Image: cloud.ImageID, Flavor: flavor, Network: cloud.NetworkID, Host: host})
		if err != nil {
			t.Fatal(err)
		}
		return func() {
			remove(t, s.ID)
			do(ctx, t, call{method: "DELETE", path: "flavors/" + flavor})
		}
	}
}

func freeMemory(t *testing.T, host string) int {
	a := do(context.Background(), t, call{method: "GET", path: "os-hypervisors/detail", version: "2.53"})
	var out struct {
		Hypervisors []struct {
			Name string `json:"hypervisor_hostname"`
			Free int    `json:"free_ram_mb"`
		} `json:"hypervisors"`
	}
	if err := json.Unmarshal([]byte(a.body), &out); err != nil {
		t.Fatal(err)
	}
	for _, h := range out.Hypervisors {
		if h.Name == host {
			return h.Free
		}
	}
	t.Fatalf("no hypervisor %s", host)
	return 0
}
