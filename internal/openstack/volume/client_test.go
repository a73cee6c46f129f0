package volume_test

import (
	"context"
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
	"github.com/godwit-cloud/godwit/internal/control"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostapitest"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/openstack/identity"
	"github.com/godwit-cloud/godwit/internal/openstack/image"
	"github.com/godwit-cloud/godwit/internal/openstack/volume"
	"github.com/godwit-cloud/godwit/internal/placement"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

const storage = cloud.HostName("storage-1")

// settleMax bounds every wait; only a bug reaches it.
const settleMax = time.Minute

// person is somebody at a terminal with the stock clients and the administrator's openrc, against real identity, image and volume services and a
// real control with its flows. Only the volume service is a fake.
type person struct {
	*testing.T
	store        *store.Store
	fleet        *hostapitest.Fleet
	files        string // image data
	openrc, home string
}

// fleetHosts gives control a fake fleet without hosts.
type fleetHosts struct{ *hostapitest.Fleet }

func (f fleetHosts) Host(name cloud.HostName) (hostpb.HostClient, error) { return f.On(name) }

func (f fleetHosts) WaitHost(_ context.Context, name cloud.HostName) (hostpb.HostClient, error) {
	return f.On(name)
}

func newPerson(t *testing.T) *person {
	t.Helper()
	for _, client := range []string{"openstack", "cinder"} {
		if _, err := exec.LookPath(client); err != nil {
			t.Fatalf("the stock clients are part of this test: scripts/install-lab-deps.sh installs them (packages python3-openstackclient, python3-cinderclient): %v", err)
		}
	}
	quiet := slog.New(slog.DiscardHandler)
	s, err := store.Open(t.Context(), store.Options{DataDir: t.TempDir(), Tables: tables.All(), Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	p := &person{T: t, store: s, fleet: hostapitest.NewFleet(), files: t.TempDir(), home: t.TempDir()}
	p.fleet.AddVolumes(storage, "fast", "slow")
	files, err := image.OpenFiles(p.files)
	if err != nil {
		t.Fatal(err)
	}
	keystone, glance := identity.New(s, identity.Options{Logger: quiet}), image.New(s, files, image.Options{Logger: quiet})
	api := openstack.New(openstack.Options{Auth: keystone, Logger: quiet})
	api.Mount(keystone, glance, volume.New(volume.Options{Store: s, Logger: quiet}))
	server := httptest.NewServer(api)
	made, err := identity.Bootstrap(t.Context(), s, identity.BootstrapOptions{PublicURL: server.URL, Dir: filepath.Join(t.TempDir(), "credentials")})
	if err != nil {
		t.Fatal(err)
	}
	if err := volume.Bootstrap(t.Context(), s, time.Now()); err != nil {
		t.Fatal(err)
	}
	p.openrc = made.Openrc
	p.connectStorage()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { // waited for in the clean-up
		ended <- control.New(control.Options{Store: s, Hosts: fleetHosts{p.fleet}, Volumes: p.fleet, Images: glance, Name: "test", Policy: placement.DefaultPolicy(), Logger: quiet}).Run(ctx)
	}()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		server.Close()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if v := p.fleet.Violations(); len(v) > 0 {
			t.Errorf("the volume service was misused: %v", v)
		}
	})
	return p
}

// connectStorage writes what control would write of the volume service's session.
func (p *person) connectStorage() {
	p.Helper()
	lease, err := p.store.Lease(p.Context(), time.Minute)
	if err != nil {
		p.Fatal(err)
	}
	report := cloud.VolumeReport{Service: storage, Generation: 1, Seq: 1, At: time.Now().UTC()}
	for _, name := range []string{"fast", "slow"} {
		report.Backends = append(report.Backends, cloud.VolumeBackend{Name: name, Kind: "file", Reflink: true, TotalBytes: 1 << 40, FreeBytes: 1 << 40})
	}
	if _, err := p.store.UpdateVisible(p.Context(), func(tx *store.Tx) error {
		if err := store.Put(tx, tables.VolumeServices, storage, cloud.VolumeService{Name: storage, Zone: cloud.DefaultZone, Created: report.At}); err != nil {
			return err
		}
		if err := store.Put(tx, tables.VolumeReports, storage, report); err != nil {
			return err
		}
		return store.PutLease(tx, tables.VolumeSessions, storage, cloud.HostSession{Host: storage, Since: report.At, Seen: report.At}, lease)
	}); err != nil {
		p.Fatal(err)
	}
}

// try runs a client's command line and returns what it printed.
func (p *person) try(command string) (string, error) {
	cmd := exec.Command("/bin/sh", "-c", `. "$0" && exec `+command, p.openrc)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + p.home, "LC_ALL=C.UTF-8", "PYTHONWARNINGS=ignore"}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// says runs a command whose output must contain the texts.
func (p *person) says(command string, texts ...string) {
	p.Helper()
	out, err := p.try(command)
	if err != nil {
		p.Fatalf("%s: %v\n%s", command, err, out)
	}
	for _, text := range texts {
		if !strings.Contains(out, text) {
			p.Errorf("%s: does not say %q:\n%s", command, text, out)
		}
	}
}

// fails runs a command that must fail with the text in its output.
func (p *person) fails(command, text string) {
	p.Helper()
	if out, err := p.try(command); err == nil || !strings.Contains(out, text) {
		p.Errorf("%s: %v, output does not say %q:\n%s", command, err, text, out)
	}
}

// named waits until the only volume of the name is as want says, and returns it.
func (p *person) named(name string, want func(v *cloud.Volume) bool) *cloud.Volume {
	p.Helper()
	ctx, cancel := context.WithTimeout(p.Context(), settleMax)
	defer cancel()
	changed := p.store.Watch(ctx, tables.Volumes)
	for {
		v, ok := store.One(p.store, tables.Volumes, tables.ByName, name)
		if ok && want(v) {
			return v
		}
		select {
		case <-changed:
		case <-ctx.Done():
			p.Fatalf("volume %s is %+v", name, v)
		}
	}
}

func is(status cloud.VolumeStatus) func(*cloud.Volume) bool {
	return func(v *cloud.Volume) bool { return v.Status == status }
}

// gone waits until no volume, snapshot or intent is left.
func (p *person) gone() {
	p.Helper()
	ctx, cancel := context.WithTimeout(p.Context(), settleMax)
	defer cancel()
	changed := p.store.Watch(ctx, tables.Volumes, tables.VolumeSnapshots, tables.Intents)
	for store.Count(p.store, tables.Volumes)+store.Count(p.store, tables.VolumeSnapshots)+store.Count(p.store, tables.Intents) > 0 {
		select {
		case <-changed:
		case <-ctx.Done():
			p.Fatalf("still there: %+v", store.All(p.store, tables.Volumes))
		}
	}
}

func TestStockCinderClientRunsVolumes(t *testing.T) {
	p := newPerson(t)
	p.says("cinder create --name data --metadata tier=gold --description 'for the shop' 2", "for the shop")
	data := p.named("data", is(cloud.VolumeAvailable))
	p.says("cinder list", "data", "available")
	p.says("cinder show data", string(data.ID), "storage-1@", "__DEFAULT__")
	p.says("cinder snapshot-create --name before data", "before")
	p.says("cinder create --snapshot-id " + p.snapshotOf(data.ID) + " --name copy")
	copied := p.named("copy", is(cloud.VolumeAvailable))
	if copied.SizeGiB != 2 || copied.Backend != data.Backend {
		t.Errorf("copy is %+v", copied)
	}
	p.says("cinder revert-to-snapshot before")
	p.named("data", is(cloud.VolumeAvailable))
	p.fails("cinder delete data", "have snapshots")
	p.says("cinder extend data 5")
	p.named("data", func(v *cloud.Volume) bool { return v.SizeGiB == 5 && v.Status == cloud.VolumeAvailable })
	p.says("cinder type-create quick")
	p.says("cinder type-key quick set volume_backend_name=slow godwit:iops_max=500")
	p.says("cinder retype --migration-policy on-demand copy quick")
	p.named("copy", func(v *cloud.Volume) bool { return v.Backend == "slow" && v.Status == cloud.VolumeAvailable })
	p.fails("cinder retype data quick", "Retype requires migration but is not allowed")
	p.says("cinder service-list", "storage-1", "enabled", "up")
	p.says("cinder get-pools --detail", "storage-1@fast#fast", "nbd")
	p.fails("cinder backup-create data", "Backups are not supported")
	p.says("cinder metadata data set a=b")
	p.says("cinder metadata-show data", "tier", "gold", "a")
	p.says("cinder service-disable storage-1 cinder-volume", "disabled")
	p.says("cinder create --name nowhere 1")
	p.named("nowhere", is(cloud.VolumeError))
	p.says("cinder message-list", "No valid backend was found", "the service is disabled")
	p.says("cinder service-enable storage-1 cinder-volume", "enabled")
	p.says("cinder delete nowhere copy")
	p.says("cinder delete --cascade data")
	p.gone()
	if left := p.fleet.VolumeLeftovers(data.ID); len(left) > 0 {
		t.Errorf("the service keeps %v", left)
	}
}

// snapshotOf waits until the volume's only snapshot is available.
func (p *person) snapshotOf(id cloud.VolumeID) string {
	p.Helper()
	ctx, cancel := context.WithTimeout(p.Context(), settleMax)
	defer cancel()
	changed := p.store.Watch(ctx, tables.VolumeSnapshots)
	for {
		if s, ok := store.One(p.store, tables.VolumeSnapshots, tables.ByVolume, id); ok && s.Status == cloud.SnapshotAvailable {
			return string(s.ID)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			p.Fatal("no snapshot became available")
		}
	}
}

func TestStockOpenstackClientRunsVolumes(t *testing.T) {
	p := newPerson(t)
	data := filepath.Join(t.TempDir(), "guest.raw")
	if err := os.WriteFile(data, []byte(strings.Repeat("boot", 1024)), 0o600); err != nil {
		t.Fatal(err)
	}
	p.says("openstack image create --disk-format raw --container-format bare --file "+data+" guest", "guest")
	p.says("openstack volume create --size 1 --image guest --bootable root", "root")
	root := p.named("root", is(cloud.VolumeAvailable))
	if !root.Bootable || !strings.HasPrefix(string(p.fleet.VolumeHost(storage).Content(root.ID)), "image:"+string(root.SourceImage)) {
		t.Errorf("root is %+v", root)
	}
	p.says("openstack volume create --source root --size 2 twin", "twin")
	p.named("twin", is(cloud.VolumeAvailable))
	p.says("openstack volume snapshot create --volume root morning", "morning")
	p.snapshotOf(root.ID)
	p.says("openstack volume snapshot list --volume root", "morning", "available")
	p.says("openstack volume set --property a=b --name trunk root")
	p.says("openstack volume show trunk", "a='b'", "guest")
	p.says("openstack image create --volume trunk fromvolume", "fromvolume")
	p.named("trunk", is(cloud.VolumeAvailable))
	p.says("openstack image show fromvolume", "active", fmt.Sprint(1<<30))
	p.says("openstack volume set --size 3 trunk")
	p.named("trunk", func(v *cloud.Volume) bool { return v.SizeGiB == 3 && v.Status == cloud.VolumeAvailable })
	p.says("openstack volume type create --property multiattach='<is> True' shared", "shared")
	p.says("openstack quota set --volumes 2 admin")
	p.fails("openstack volume create --size 1 third", "Maximum number of volumes allowed (2) exceeded")
	p.fails("openstack volume transfer request create trunk", "not supported")
	p.fails("openstack volume show nothing", "No volume with a name or ID of 'nothing' exists")
	p.says("openstack volume snapshot delete morning")
	p.says("openstack volume delete --purge trunk twin")
	p.gone()
	if u, _ := store.Lookup(p.store, tables.VolumeUsages, root.Project); u == nil || u.Volumes != 0 || u.Snapshots != 0 || u.GiB != 0 {
		t.Errorf("quota of what is deleted is not given back: %+v", u)
	}
}
