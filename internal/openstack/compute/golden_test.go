package compute

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// goldens are the answers whose shape changes with microversions, each at the versions that change it and at the last.
var goldens = []struct {
	name   string
	as     string
	path   string
	minors []int
}{
	{"server", "admin", "/servers/" + string(serverID(1)), []int{1, 3, 9, 16, 19, 26, 47, 63, 71, 73, 90, 95}},
	{"server", "ann", "/servers/" + string(serverID(1)), []int{1, 16, 95}},
	{"server_error", "ann", "/servers/" + string(serverID(2)), []int{1, 95}},
	{"servers", "ann", "/servers?limit=1", []int{1, 95}},
	{"servers_detail", "ann", "/servers/detail", []int{1, 95}},
	{"flavor", "ann", "/flavors/1", []int{1, 55, 61, 75}},
	{"flavors", "ann", "/flavors", []int{1, 55}},
	{"hypervisors", "admin", "/os-hypervisors", []int{1, 53}},
	{"hypervisor", "admin", "/os-hypervisors/1", []int{1, 28}},
	{"hypervisors_detail", "admin", "/os-hypervisors/detail", []int{53, 88}},
	{"hypervisors_servers", "admin", "/os-hypervisors?with_servers=true", []int{53, 75}},
	{"hypervisor_statistics", "admin", "/os-hypervisors/statistics", []int{1}},
	{"hypervisor_uptime", "admin", "/os-hypervisors/1/uptime", []int{1}},
	{"services", "admin", "/os-services", []int{1, 11, 53}},
	{"hosts", "admin", "/os-hosts", []int{1}},
	{"host", "admin", "/os-hosts/compute-1", []int{1}},
	{"zones", "ann", "/os-availability-zone", []int{1}},
	{"zones_detail", "admin", "/os-availability-zone/detail", []int{1}},
	{"aggregates", "admin", "/os-aggregates", []int{1, 41}},
	{"migrations", "admin", "/os-migrations", []int{1, 23, 59, 80}},
	{"server_migrations", "admin", "/servers/" + string(serverID(3)) + "/migrations", []int{23, 59, 80}},
	{"keypairs", "ann", "/os-keypairs", []int{1, 2}},
	{"keypair", "ann", "/os-keypairs/laptop", []int{1, 2}},
	{"server_groups", "ann", "/os-server-groups", []int{1, 13, 64}},
	{"limits", "ann", "/limits", []int{1, 36, 39, 57}},
	{"quota", "ann", "/os-quota-sets/" + annProject, []int{1, 36, 57}},
	{"quota_detail", "ann", "/os-quota-sets/" + annProject + "/detail", []int{57}},
	{"quota_class", "admin", "/os-quota-class-sets/default", []int{1, 50, 57}},
	{"action", "admin", "/servers/" + string(serverID(1)) + "/os-instance-actions/req-1", []int{1, 58, 62, 84}},
	{"action", "ann", "/servers/" + string(serverID(1)) + "/os-instance-actions/req-1", []int{1, 51, 62, 84}},
	{"actions", "ann", "/servers/" + string(serverID(1)) + "/os-instance-actions", []int{1, 58}},
	{"interfaces", "ann", "/servers/" + string(serverID(1)) + "/os-interface", []int{1, 70}},
	{"addresses", "ann", "/servers/" + string(serverID(1)) + "/ips", []int{1}},
	{"security_groups", "ann", "/servers/" + string(serverID(1)) + "/os-security-groups", []int{1}},
	{"usage", "ann", "/os-simple-tenant-usage/" + annProject + "?start=2026-03-04T12:00:00&end=2026-03-04T12:30:00", []int{1}},
}

// showcase puts something of everything into the store.
func showcase(w *site) {
	group := cloud.ServerGroup{
		ID: "9d000000-0000-4000-8000-000000000001", Name: "spread", Project: annProject, User: "ann", Policy: cloud.PolicyAntiAffinity, MaxPerHost: 2,
		Members: []cloud.ServerID{serverID(1)}, Created: noon,
	}
	put(w, tables.ServerGroups, group.ID, group)
	w.addServer(1, "compute-1", func(s *cloud.Server) {
		s.Description, s.Tags, s.Locked, s.LockedReason = "the first", []string{"blue", "green"}, true, "moving house"
		s.Group, s.KeyName, s.UserData, s.AccessIPv4, s.ConfigDrive = group.ID, "laptop", "aGVsbG8=", "198.51.100.7", true
		s.PortTags = map[cloud.PortID]string{s.Ports[0]: "uplink"}
	})
	w.addServer(2, "compute-2", func(s *cloud.Server) {
		s.VMState, s.Power = cloud.VMError, cloud.PowerNone
		s.Fault = &cloud.Fault{Code: 500, Message: "No valid host was found.", Details: "for operators", Created: noon}
	})
	moving := w.addServer(3, "compute-3", func(s *cloud.Server) { s.Task = cloud.TaskMigrating })
	for i, status := range []cloud.MigrationStatus{cloud.MigrationCompleted, cloud.MigrationRunning} {
		mig := cloud.Migration{
			ID: cloud.MigrationID(fmt.Sprintf("9e000000-0000-4000-8000-%012d", i+1)), Number: i + 1, Server: moving.ID, Project: adminProject, User: "admin",
			Type: cloud.TypeLiveMigration, Asked: cloud.MigrateBlock, Source: "compute-3", Target: "compute-1", TargetAddress: "192.0.2.1", Status: status, Created: noon, Updated: noon,
		}
		put(w, tables.Migrations, mig.ID, mig)
		put(w, tables.Progress, mig.ID, cloud.MigrationProgress{Migration: mig.ID, Server: moving.ID, At: noon, Stats: cloud.MigrationStats{
			MemoryTotal: 1000, MemoryProcessed: 300, MemoryRemaining: 700, DiskTotal: 5000, DiskProcessed: 4000, DiskRemaining: 1000,
		}})
	}
	put(w, tables.Usages, cloud.HostName("compute-1"), cloud.Usage{Host: "compute-1", Claims: map[string]cloud.Claim{
		string(serverID(1)): {Server: serverID(1), Resources: cloud.Resources{VCPUs: 1, RAMMiB: 512, DiskGiB: 1}},
	}})
	put(w, tables.Aggregates, cloud.AggregateID("9f000000-0000-4000-8000-000000000001"), cloud.Aggregate{
		ID: "9f000000-0000-4000-8000-000000000001", Number: 1, Name: "rack", Hosts: []cloud.HostName{"compute-3"},
		Metadata: map[string]string{cloud.MetaZone: "east", "ssd": "true"}, Created: noon,
	})
	put(w, tables.Keypairs, tables.KeypairKey("ann", "laptop"), cloud.Keypair{
		Name: "laptop", User: "ann", Number: 1, Type: keypairSSH, PublicKey: "ssh-ed25519 AAAA ann", Fingerprint: "aa:bb", Created: noon,
	})
	put(w, tables.Actions, tables.ActionKey(serverID(1), "req-1"), cloud.Action{
		Server: serverID(1), RequestID: "req-1", Name: "live-migration", Project: annProject, User: "admin", Message: "Error", Started: noon, Updated: noon,
		Events: []cloud.ActionEvent{
			{Name: "migrate_choose_target", Result: "Success", Started: noon, Finished: noon},
			{Name: "migrate_copy", Host: "compute-1", Result: "Error", Details: "no route to host", Started: noon, Finished: noon},
		},
	})
	put(w, tables.QuotaUsages, cloud.ProjectID(annProject), cloud.QuotaUsage{Project: annProject, Instances: 3, Cores: 3, RAMMiB: 1536})
	w.change(func(tx *store.Tx) error {
		h, err := store.Get(tx, tables.Hosts, cloud.HostName("compute-2"))
		h.Disabled, h.DisabledReason = true, "maintenance"
		if err != nil {
			return err
		}
		return store.Put(tx, tables.Hosts, h.Name, h)
	})
	w.down("compute-3")
}

func TestAnswersAreGoldenPerMicroversion(t *testing.T) {
	w := newSite(t)
	showcase(w)
	for _, g := range goldens {
		for _, minor := range g.minors {
			name := fmt.Sprintf("%s.%s.2.%d.json", g.name, g.as, minor)
			r := w.want(200, g.as, minor, "GET", g.path, nil)
			var pretty bytes.Buffer
			if err := json.Indent(&pretty, r.text, "", "  "); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			got := w.neutral(pretty.String()) + "\n"
			path := filepath.Join("testdata", "golden", name)
			if *update {
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil || got != string(want) {
				t.Errorf("%s differs (%v); run with -update and read the difference. Got:\n%s", name, err, got)
			}
		}
	}
}

// neutral replaces what differs between runs.
func (w *site) neutral(text string) string {
	text = strings.ReplaceAll(text, w.url, "http://cloud")
	for _, g := range store.All(w.store, tables.SecurityGroups) {
		text = strings.ReplaceAll(text, string(g.ID), "GROUP")
		for _, r := range g.Rules {
			text = strings.ReplaceAll(text, r.ID, "RULE")
		}
	}
	return text
}
