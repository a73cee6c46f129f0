package reconcile_test

import (
	"fmt"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/placement"
	"github.com/godwit-cloud/godwit/internal/reconcile"
)

func TestHostThatReportsGetsARecordOnce(t *testing.T) {
	o := reconcile.Host(reconcile.HostCase{Name: "a", Reported: true})
	if len(o.Actions) != 1 || o.Actions[0].Kind != reconcile.CreateHost || o.Actions[0].Host != "a" {
		t.Errorf("got %+v", o)
	}
	if o := reconcile.Host(reconcile.HostCase{Name: "a", Reported: true, Host: &cloud.Host{Name: "a"}}); len(o.Actions) != 0 {
		t.Errorf("known host: %+v", o)
	}
	if o := reconcile.Host(reconcile.HostCase{Name: "a"}); len(o.Actions) != 0 {
		t.Errorf("silent host: %+v", o)
	}
}

// TestClaimsEndUpAgreeingWithTheServers repairs any books and finds them right, with the claims of servers that somebody works on untouched.
func TestClaimsEndUpAgreeingWithTheServers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := reconcile.HostCase{Name: "a", Host: &cloud.Host{Name: "a"}, Usage: cloud.Usage{Host: "a", Claims: map[string]cloud.Claim{}},
			Servers: map[cloud.ServerID]*cloud.Server{}, Busy: map[cloud.ServerID]bool{}}
		for i := range rapid.IntRange(0, 6).Draw(t, "servers") {
			id := cloud.ServerID(fmt.Sprintf("s%d", i))
			s := &cloud.Server{ID: id, Host: rapid.SampledFrom([]cloud.HostName{"a", "a", "b", ""}).Draw(t, "host"), VMState: cloud.VMActive,
				Task: rapid.SampledFrom([]cloud.TaskState{"", "", cloud.TaskSpawning}).Draw(t, "task"), Flavor: cloud.Flavor{VCPUs: 1 + i}}
			if rapid.IntRange(0, 3).Draw(t, "exists") > 0 {
				c.Servers[id] = s
			}
			if rapid.Bool().Draw(t, "claimed") {
				claim := cloud.Claim{Server: id, Resources: cloud.Resources{VCPUs: rapid.IntRange(1, 6).Draw(t, "vcpus")}}
				claim.Migration = rapid.SampledFrom([]cloud.MigrationID{"", "m"}).Draw(t, "migration")
				placement.Claim(&c.Usage, nil, claim)
			}
			c.Busy[id] = rapid.IntRange(0, 3).Draw(t, "busy") == 0
		}
		before := c.Usage.Claims
		for _, a := range reconcile.Host(c).Actions {
			switch a.Kind {
			case reconcile.ReleaseClaim:
				placement.Release(&c.Usage, nil, a.Server)
			case reconcile.RestoreClaim:
				placement.Claim(&c.Usage, nil, a.Claim)
			default:
				t.Fatalf("unexpected %v", a)
			}
			if s := c.Servers[a.Server]; c.Busy[a.Server] || s != nil && s.Task != cloud.TaskNone {
				t.Fatalf("%v: somebody works on the server", a)
			}
			if s := c.Servers[a.Server]; a.Kind == reconcile.ReleaseClaim && s != nil && s.Host == "a" {
				t.Fatalf("%v: the server lives here", a)
			}
		}
		if o := reconcile.Host(c); len(o.Actions) != 0 {
			t.Fatalf("repaired and still wrong: %+v", o)
		}
		for id, s := range c.Servers {
			claim, ok := c.Usage.Claims[cloud.ClaimKey(id)]
			if idle := !c.Busy[id] && s.Task == cloud.TaskNone; idle && (s.Host == "a") != ok {
				t.Fatalf("%s on %q, claimed here: %v", id, s.Host, ok)
			} else if old, had := before[cloud.ClaimKey(id)]; !idle && (had != ok || !reflect.DeepEqual(old, claim)) {
				t.Fatalf("%s is worked on and its claim changed", id)
			}
		}
	})
}

func TestBusyNamesServersWithIntentsAndUnfinishedMigrations(t *testing.T) {
	got := reconcile.Busy([]*cloud.Intent{{Server: "i"}}, []*cloud.Migration{{Server: "m", Status: cloud.MigrationRunning}, {Server: "done", Status: cloud.MigrationCompleted}})
	if want := map[cloud.ServerID]bool{"i": true, "m": true}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
