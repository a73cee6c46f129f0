package compute

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/openstack/identity"
	"github.com/godwit-cloud/godwit/internal/openstack/image"
	"github.com/godwit-cloud/godwit/internal/openstack/network"
	"github.com/godwit-cloud/godwit/internal/openstack/volume"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// person is somebody at a terminal with the stock clients and the administrator's openrc, against real identity, network and compute services
// whose hosts do nothing: the test plays the flows.
type person struct {
	*site
	openrc string
	home   string
	admin  cloud.ProjectID
}

func newPerson(t *testing.T) *person {
	t.Helper()
	for _, client := range []string{"openstack", "nova"} {
		if _, err := exec.LookPath(client); err != nil {
			t.Fatalf("the stock clients are part of this test (packages python3-openstackclient, python3-novaclient): %v", err)
		}
	}
	quiet := slog.New(slog.DiscardHandler)
	s, err := store.Open(t.Context(), store.Options{DataDir: t.TempDir(), Tables: tables.All(), Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	w := &site{TB: t, store: s, console: &fakeConsole{text: "hello\nfrom the guest\n"}}
	keystone := identity.New(s, identity.Options{Logger: quiet})
	api := openstack.New(openstack.Options{Auth: keystone, Logger: quiet})
	files, err := image.OpenFiles(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	api.Mount(keystone, network.New(network.Options{Store: s}), image.New(s, files, image.Options{Logger: quiet}), volume.New(volume.Options{Store: s, Logger: quiet}), New(Options{Store: s, Logger: quiet, Console: w.console}))
	server := httptest.NewServer(api)
	t.Cleanup(func() {
		server.Close()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	w.url = server.URL
	made, err := identity.Bootstrap(t.Context(), s, identity.BootstrapOptions{PublicURL: server.URL, Dir: filepath.Join(t.TempDir(), "credentials")})
	if err != nil {
		t.Fatal(err)
	}
	w.seed()
	return &person{site: w, openrc: made.Openrc, home: t.TempDir(), admin: made.AdminProject}
}

// try runs a client's command line and returns what it printed.
func (p *person) try(command string) (string, error) {
	cmd := exec.Command("/bin/sh", "-c", `. "$0" && exec `+command, p.openrc)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + p.home, "LC_ALL=C.UTF-8", "PYTHONWARNINGS=ignore"}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return string(out) + stderr.String(), err
	}
	return string(out), nil
}

func (p *person) run(command string) string {
	p.Helper()
	out, err := p.try(command)
	if err != nil {
		p.Fatalf("%s: %v\n%s", command, err, out)
	}
	return out
}

// fails runs a command that must fail with the text in its output.
func (p *person) fails(command, text string) {
	p.Helper()
	if out, err := p.try(command); err == nil || !strings.Contains(out, text) {
		p.Errorf("%s: %v, output does not say %q:\n%s", command, err, text, out)
	}
}

// says runs a command whose output must contain the texts.
func (p *person) says(command string, texts ...string) {
	p.Helper()
	out := p.run(command)
	for _, text := range texts {
		if !strings.Contains(out, text) {
			p.Errorf("%s: does not say %q:\n%s", command, text, out)
		}
	}
}

func (p *person) show(command string) m {
	p.Helper()
	var v m
	if err := json.Unmarshal([]byte(p.run("openstack "+command+" -f json")), &v); err != nil {
		p.Fatalf("openstack %s: %v", command, err)
	}
	return v
}

func (p *person) list(command string) []m {
	p.Helper()
	var v []m
	if err := json.Unmarshal([]byte(p.run("openstack "+command+" -f json")), &v); err != nil {
		p.Fatalf("openstack %s: %v", command, err)
	}
	return v
}

// boots plays the boot flow of the only server with this name.
func (p *person) boots(name string, host cloud.HostName) *cloud.Server {
	p.Helper()
	found := store.By(p.store, tables.Servers, tables.ByName, name)
	if len(found) != 1 {
		p.Fatalf("%d servers named %s", len(found), name)
	}
	p.settle(found[0].ID, func(s *cloud.Server) {
		s.VMState, s.Power, s.Host, s.Launched = cloud.VMActive, cloud.PowerRunning, host, time.Now()
	})
	return p.server(found[0].ID)
}

// moving plays the beginning of the migrate flow.
func (p *person) moving(s *cloud.Server, target cloud.HostName) *cloud.Migration {
	p.Helper()
	var out cloud.Migration
	p.change(func(tx *store.Tx) error {
		for _, mig := range p.moves(s.ID) {
			if mig.Status.Final() {
				continue
			}
			now, err := store.Get(tx, tables.Migrations, mig.ID)
			if err != nil {
				return err
			}
			now.Status, now.Target = cloud.MigrationRunning, target
			out = now
			return errors.Join(store.Put(tx, tables.Migrations, now.ID, now), store.Put(tx, tables.Progress, now.ID, cloud.MigrationProgress{
				Migration: now.ID, Server: s.ID, Stats: cloud.MigrationStats{MemoryTotal: 4096, MemoryRemaining: 1024, DiskTotal: 8192, DiskRemaining: 2048},
			}))
		}
		return errors.New("nothing moves")
	})
	return &out
}

// lands plays the end of the migrate flow.
func (p *person) lands(s *cloud.Server, mig *cloud.Migration) {
	p.Helper()
	p.settle(s.ID, func(s *cloud.Server) { s.Host = mig.Target })
	mig.Status = cloud.MigrationCompleted
	put(p.site, tables.Migrations, mig.ID, *mig)
}

func TestSeedsWalkThroughWithTheStockClients(t *testing.T) {
	t.Parallel()
	p := newPerson(t)
	p.says("openstack host list", "compute-1", "compute-2", "compute-3", "compute", "nova")
	p.run("openstack server create --image " + imageID + " --flavor m1.tiny --network blue vm-live-migration")
	s := p.boots("vm-live-migration", "compute-1")
	p.says("nova list", "vm-live-migration", "ACTIVE", "blue=10.1.0.")
	p.says("nova show vm-live-migration", "OS-EXT-SRV-ATTR:host", "compute-1", "m1.tiny")

	p.run("nova live-migration --block-migrate vm-live-migration compute-2")
	p.says("nova list", "MIGRATING")
	mig := p.moving(s, "compute-2")
	p.says("nova server-migration-list vm-live-migration", "running", "4096", "2048")
	p.says(fmt.Sprintf("nova server-migration-show vm-live-migration %d", mig.Number), "memory_remaining_bytes", "1024")
	p.lands(s, mig)
	p.says("nova show vm-live-migration", "compute-2")
	p.says("nova migration-list", "completed", "compute-2")

	p.run("openstack --os-compute-api-version 2.30 server migrate --live-migration --block-migration --host compute-3 vm-live-migration")
	p.lands(s, p.moving(s, "compute-3"))
	p.run("openstack --os-compute-api-version 2.79 server migrate --live-migration --block-migration vm-live-migration")
	mig = p.moving(s, "compute-1")
	p.says("openstack --os-compute-api-version 2.79 server migration list --server vm-live-migration", "running")
	p.says(fmt.Sprintf("openstack --os-compute-api-version 2.80 server migration show vm-live-migration %d", mig.Number), "running")
	p.run(fmt.Sprintf("openstack --os-compute-api-version 2.79 server migration abort vm-live-migration %d", mig.Number))
	if now, _ := store.Lookup(p.store, tables.Migrations, mig.ID); !now.AbortAsked {
		t.Error("abort asked for nothing")
	}
	p.run(fmt.Sprintf("nova live-migration-force-complete vm-live-migration %d", mig.Number))
	p.lands(s, mig)
	p.fails("nova live-migration --block-migrate vm-live-migration nowhere", "Compute host nowhere could not be found.")
	p.says("openstack server event list vm-live-migration", "live-migration")
	p.run("openstack server delete vm-live-migration")
}

func TestStockClientsManageServers(t *testing.T) {
	t.Parallel()
	p := newPerson(t)
	key := filepath.Join(p.home, "id")
	public, _, err := generateKey("test")
	if err := errors.Join(err, os.WriteFile(key+".pub", []byte(public), 0o600)); err != nil {
		t.Fatal(err)
	}
	p.run("openstack keypair create --public-key " + key + ".pub laptop")
	p.says("openstack keypair list", "laptop", "ssh")
	p.says("nova keypair-list", "laptop")
	p.says("openstack keypair create fresh", "PRIVATE KEY")
	p.run("openstack --os-compute-api-version 2.64 server group create --policy anti-affinity spread")
	p.says("openstack --os-compute-api-version 2.64 server group list", "spread", "anti-affinity")
	p.run("openstack --os-compute-api-version 2.90 server create --image " + imageID + " --flavor m1.tiny --network blue --key-name laptop --property role=web " +
		"--tag blue --description first --hostname box --security-group default one")
	s := p.boots("one", "compute-1")
	shown := p.show("--os-compute-api-version 2.90 server show one")
	if shown["status"] != "ACTIVE" || shown["key_name"] != "laptop" || shown["description"] != "first" || shown["OS-EXT-SRV-ATTR:hostname"] != "box" {
		t.Errorf("server show: %v", shown)
	}
	if got := p.list("server list --long"); len(got) != 1 || got[0]["Host"] != "compute-1" || got[0]["Flavor Name"] != "m1.tiny" {
		t.Errorf("server list: %v", got)
	}
	for command, task := range map[string]cloud.TaskState{
		"openstack server stop one": cloud.TaskPoweringOff, "openstack server reboot one": cloud.TaskRebooting, "openstack server reboot --hard one": cloud.TaskRebootingHard,
		"nova stop one": cloud.TaskPoweringOff,
	} {
		p.run(command)
		if got := p.server(s.ID).Task; got != task {
			t.Errorf("%s: task %s, want %s", command, got, task)
		}
		p.settle(s.ID)
	}
	p.settle(s.ID, func(s *cloud.Server) { s.VMState = cloud.VMStopped })
	p.fails("openstack server stop one", "while it is in vm_state stopped")
	p.run("nova start one")
	p.settle(s.ID, func(s *cloud.Server) { s.VMState = cloud.VMActive })
	p.says("openstack console log show one", "from the guest")
	p.says("nova console-log --length 1 one", "from the guest")
	p.run("openstack server set --name uno --property a=b one")
	p.run("openstack server unset --property role uno")
	p.run("openstack --os-compute-api-version 2.73 server lock --reason mine uno")
	p.says("openstack --os-compute-api-version 2.73 server show uno", "mine")
	p.run("nova unlock uno")
	p.run("nova update --name one uno")
	p.run("nova meta one set c=d")
	p.run("nova server-tag-add one green")
	p.says("nova server-tag-list one", "green")
	p.says("nova interface-list one", "10.1.0.")
	p.says("nova instance-action-list one", "create", "stop")
	p.says("openstack server event show one "+p.intentless(s), "create")
	p.says("openstack --os-compute-api-version 2.26 server list --tags green", "one")
	p.run("openstack server add security group one default")
	p.run("nova reset-state --active one")
	p.run("nova boot --image " + imageID + " --flavor 1 --nic net-id=" + networkID + " two")
	p.boots("two", "compute-2")
	p.says("nova list --name two", "two")
	p.run("nova delete two")
	p.run("nova force-delete one")
	if got := p.server(s.ID).Task; got != cloud.TaskDeleting {
		t.Errorf("delete: task %s", got)
	}
}

// intentless returns the request id of a server's creation.
func (p *person) intentless(s *cloud.Server) string {
	for _, a := range store.Prefixed(p.store, tables.Actions, tables.ActionKey(s.ID, "")) {
		if a.Name == "create" {
			return a.RequestID
		}
	}
	p.Fatal("nobody created the server")
	return ""
}

func TestStockClientsAdministerTheFleet(t *testing.T) {
	t.Parallel()
	p := newPerson(t)
	p.says("openstack compute service list", "nova-compute", "compute-1", "up", "enabled")
	p.run("openstack compute service set --disable --disable-reason dust compute-1 nova-compute")
	p.says("openstack compute service list --long", "dust", "disabled")
	p.run("openstack compute service set --enable compute-1 nova-compute")
	p.run("openstack --os-compute-api-version 2.53 compute service set --down compute-1 nova-compute")
	p.says("nova service-list", "compute-1", "down")
	p.run("openstack --os-compute-api-version 2.53 compute service set --up compute-1 nova-compute")
	p.says("openstack hypervisor list", "compute-3", "QEMU", "192.0.2.3")
	p.says("openstack --os-compute-api-version 2.53 hypervisor show compute-2", "7002000", "memory_mb")
	p.says("openstack --os-compute-api-version 2.92 hypervisor show compute-2", "load_average")
	p.says("openstack hypervisor stats show", "memory_mb", "24576")
	p.says("nova hypervisor-servers compute", "ID")
	p.says("openstack host show compute-1", "(total)", "8192")
	p.run("openstack aggregate create --zone east rack")
	p.run("openstack aggregate add host rack compute-3")
	p.run("openstack aggregate set --property ssd=true rack")
	p.says("openstack aggregate show rack", "compute-3", "ssd", "east")
	p.says("openstack availability zone list --compute", "east", "nova")
	p.fails("openstack aggregate delete rack", "Host aggregate is not empty")
	p.run("openstack aggregate remove host rack compute-3")
	p.run("openstack aggregate delete rack")
	p.run("openstack flavor create --ram 256 --disk 2 --vcpus 1 --property aggregate_instance_extra_specs:ssd=true --private tiny2")
	p.run("openstack flavor set --project admin tiny2")
	p.says("openstack flavor show tiny2", "ssd", "256")
	p.says("openstack flavor list --all", "m1.xlarge", "tiny2")
	p.run("openstack flavor delete tiny2")
	p.run("openstack quota set --instances 3 --cores 9 admin")
	p.says("openstack quota show admin", "instances", "9")
	p.says("nova quota-show --tenant "+string(p.admin), "cores", "9")
	p.says("openstack limits show --absolute", "maxTotalCores", "9")
	p.run("openstack usage list --start 2026-01-01")
	p.says("openstack extension list --compute", "Keypairs")
	p.says("nova version-list", "2.95")
}
