package e2e

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/godwit-cloud/godwit/test/labcloud"
)

// The tools of this file reach into hosts for what no API does: they slow a copy down so that a moment lasts, stop daemons in their
// tracks, kill, and look for what was left behind.

const (
	// crawl is a pace, in MiB/s, at which copying a guest of this package takes some seconds: long enough for every moment to be met.
	crawl = 16
	// creep is half of that, for two guests that are to be under way at the same time on a machine that is slow to send them off.
	creep = crawl / 2
	// sprint is faster than any machine.
	sprint = 1 << 20
)

// setPace limits how fast a guest leaves the host it is on, from now on, in a migration that runs and in those to come.
func setPace(ctx context.Context, node, id string, mibPerSecond int) error {
	_, err := on(ctx, node, "virsh", "-q", "migrate-setspeed", id, strconv.Itoa(mibPerSecond))
	return err
}

// on runs a command on a node and returns what it printed.
func on(ctx context.Context, node string, argv ...string) (string, error) {
	out, err := cloud.Lab.Output(ctx, node, argv...)
	return strings.TrimSpace(out), err
}

// freeze stops a daemon in its tracks: it keeps its connections and does nothing, until thaw or its death.
func freeze(ctx context.Context, t *testing.T, node, unit string) (thaw func()) {
	t.Helper()
	pid, err := cloud.Lab.UnitPID(ctx, node, unit)
	if err != nil || pid == 0 {
		t.Fatalf("%s on %s: pid %d, %v", unit, node, pid, err)
	}
	signal := func(ctx context.Context, name string) error {
		_, err := on(ctx, node, "sh", "-c", "kill -s "+name+" "+strconv.Itoa(pid))
		return err
	}
	if err := signal(ctx, "STOP"); err != nil {
		t.Fatal(err)
	}
	return func() { _ = signal(context.Background(), "CONT") } // an error: it was killed meanwhile
}

func killUnit(ctx context.Context, t *testing.T, node, unit string) {
	t.Helper()
	if err := cloud.Lab.KillUnit(ctx, node, unit); err != nil {
		t.Fatal(err)
	}
}

// killQEMU kills the guest's QEMU on a node, which must be there.
func killQEMU(ctx context.Context, t *testing.T, node, id string) {
	t.Helper()
	// The file appears when QEMU runs; libvirt names it after the domain.
	if _, err := on(ctx, node, "sh", "-c", `kill -KILL "$(cat /run/libvirt/qemu/instance-`+id+`.pid)"`); err != nil {
		t.Fatal(err)
	}
}

// domainState is libvirt's word for a guest's state on a node with the reason, such as "running (migrated)"; empty when it is not there.
func domainState(ctx context.Context, node, id string) string {
	out, err := on(ctx, node, "virsh", "-q", "domstate", "--reason", id)
	if err != nil {
		return ""
	}
	return out
}

// awaitDomain waits until a node's libvirt says one of the states about a guest.
func awaitDomain(ctx context.Context, t *testing.T, node, id string, states ...string) {
	t.Helper()
	last := ""
	err := labcloud.Until(ctx, "", func() (bool, error) {
		last = domainState(ctx, node, id)
		return slices.ContainsFunc(states, func(s string) bool { return strings.HasPrefix(last, s) }), nil
	})
	if err != nil {
		t.Fatalf("guest %s on %s is %q, want one of %q: %v", id, node, last, states, err)
	}
}

// A socket is a server's port as the network API shows it, and the tap it has on its host.
type socket struct {
	ID     string `json:"id"`
	Host   string `json:"binding:host_id"`
	Status string `json:"status"`
}

func (s socket) tap() string { return "gwt" + s.ID[:11] }

// sockets are the server's ports.
func sockets(ctx context.Context, t *testing.T, id string) []socket {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, cloud.Network.ServiceURL("ports")+"?device_id="+id, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Auth-Token", cloud.Network.Token())
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var out struct{ Ports []socket }
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("ports of %s: %s %v", id, resp.Status, err)
	}
	return out.Ports
}

// bound checks that every port of a server is active on a host, and that no other host has its tap.
func bound(ctx context.Context, t *testing.T, id, host string) {
	t.Helper()
	list := sockets(ctx, t, id)
	if len(list) == 0 {
		t.Errorf("server %s has no port", id)
	}
	for _, s := range list {
		if s.Host != host || s.Status != "ACTIVE" {
			t.Errorf("port %s of server %s is %s on %q, want ACTIVE on %s", s.ID, id, s.Status, s.Host, host)
		}
		for _, node := range cloud.Lab.ComputeNodes() {
			out, err := on(ctx, node, "sh", "-c", "ls /sys/class/net")
			if has := slices.Contains(strings.Fields(out), s.tap()); err == nil && has != (node == host) {
				t.Errorf("tap %s of server %s on %s: %v; the server is on %s", s.tap(), id, node, has, host)
			}
		}
	}
}

// settled waits until everything answers again: the API, every libvirtd, every compute service.
func settled(ctx context.Context, t *testing.T) {
	t.Helper()
	if err := cloud.Lab.WaitAPI(ctx); err != nil {
		t.Fatal(err)
	}
	for _, node := range cloud.Lab.ComputeNodes() {
		if err := cloud.Lab.WaitLibvirt(ctx, node); err != nil {
			t.Fatal(err)
		}
		waitService(t, node, "up")
	}
}
