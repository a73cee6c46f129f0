package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servergroups"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"

	"github.com/godwit-cloud/godwit/test/labcloud"
)

// crowdMax bounds one crowd: a dozen QEMUs may start at a time.
const crowdMax = 4 * time.Minute

// TestConcurrentBootsNeverOversubscribe: when more servers are asked for at the same time than there is room for, as many as fit run and each other
// one says why it does not.
func TestConcurrentBootsNeverOversubscribe(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), crowdMax)
	defer cancel()
	const perHost, asked = 2, 9
	room := freeMemory(t, here)
	flavor, err := cloud.Flavor(ctx, "crowd", 1, room/perHost-64, 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { do(context.Background(), t, call{method: "DELETE", path: "flavors/" + flavor}) })
	all := bootCrowd(ctx, t, asked, labcloud.Guest{Name: "crowd", Image: cloud.ImageID, Flavor: flavor, Network: cloud.NetworkID})
	hosts := map[string]int{}
	for _, s := range all {
		if s.Status == "ACTIVE" {
			hosts[s.Host]++
			continue
		}
		if s.Status != "ERROR" || !strings.HasPrefix(s.Fault.Message, "No valid host was found.") {
			t.Errorf("server %s is %s: %q", s.ID, s.Status, s.Fault.Message)
		}
		explained(ctx, t, s.ID, "memory")
	}
	for _, node := range cloud.Lab.ComputeNodes() {
		if hosts[node] != perHost {
			t.Errorf("%s runs %d of the crowd, has room for %d", node, hosts[node], perHost)
		}
	}
}

// TestAntiAffinityHoldsUnderConcurrentBoots: no two servers of the group share a host, however they race.
func TestAntiAffinityHoldsUnderConcurrentBoots(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), crowdMax)
	defer cancel()
	group, err := servergroups.Create(ctx, cloud.Compute, servergroups.CreateOpts{Name: "rivals", Policy: "anti-affinity"}).Extract()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := servergroups.Delete(context.Background(), cloud.Compute, group.ID).ExtractErr(); err != nil {
			t.Error(err)
		}
	})
	rival := cloud.Guest("rival", "", nil)
	rival.Group = group.ID
	nodes := cloud.Lab.ComputeNodes()
	var on []string
	for _, s := range bootCrowd(ctx, t, len(nodes)+2, rival) {
		if s.Status == "ACTIVE" {
			on = append(on, s.Host)
		} else {
			explained(ctx, t, s.ID, "group")
		}
	}
	slices.Sort(on)
	if !slices.Equal(on, nodes) {
		t.Errorf("the group runs on %v, want one on each of %v", on, nodes)
	}
}

// bootCrowd asks for n servers at the same time, waits until nothing is being done with any, and deletes them when the test ends.
func bootCrowd(ctx context.Context, t *testing.T, n int, g labcloud.Guest) []*servers.Server {
	t.Helper()
	ids, errs := make([]string, n), make([]error, n)
	var asking sync.WaitGroup
	for i := range n {
		asking.Go(func() {
			one := g
			one.Name = fmt.Sprintf("%s-%d", g.Name, i)
			s, err := cloud.Create(ctx, one)
			if errs[i] = err; err == nil {
				ids[i] = s.ID
			}
		})
	}
	asking.Wait()
	t.Cleanup(func() { disperse(t, ids) })
	var out []*servers.Server
	for i, id := range ids {
		if errs[i] != nil {
			t.Fatal(errs[i])
		}
		out = append(out, awaitIdle(ctx, t, id))
	}
	return out
}

// disperse deletes many servers at a time.
func disperse(t *testing.T, ids []string) {
	for _, id := range ids {
		if id == "" {
			continue
		}
		if err := servers.Delete(context.Background(), cloud.Compute, id).ExtractErr(); err != nil {
			t.Error(err)
		}
	}
	for _, id := range ids {
		if id != "" {
			awaitGone(t, id)
		}
	}
}

// explained checks that `godwit why` has a reason for every host that speaks of what is short.
func explained(ctx context.Context, t *testing.T, id, short string) {
	t.Helper()
	cmd := exec.CommandContext(ctx, godwit, "why", id, "-o", "json")
	cmd.Env = cloud.Env
	raw, err := cmd.Output()
	if err != nil {
		t.Fatalf("godwit why %s: %v", id, err)
	}
	var why struct {
		Decisions []struct {
			Chosen   string `json:"chosen"`
			Verdicts []struct {
				Host    string   `json:"host"`
				Fits    bool     `json:"fits"`
				Reasons []string `json:"reasons"`
			} `json:"verdicts"`
		} `json:"decisions"`
	}
	if err := json.Unmarshal(raw, &why); err != nil || len(why.Decisions) == 0 {
		t.Fatalf("godwit why %s: %v %s", id, err, raw)
	}
	last := why.Decisions[0]
	if last.Chosen != "" || len(last.Verdicts) != len(cloud.Lab.ComputeNodes()) {
		t.Errorf("the decision about %s: %+v", id, last)
	}
	for _, v := range last.Verdicts {
		if v.Fits || !slices.ContainsFunc(v.Reasons, func(r string) bool { return strings.Contains(strings.ToLower(r), strings.ToLower(short)) }) {
			t.Errorf("%s: host %s is refused for %q, which does not speak of %s", id, v.Host, v.Reasons, short)
		}
	}
}
