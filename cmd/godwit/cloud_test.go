package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/godwit-cloud/godwit/internal/client"
	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/openstack/compute"
	"github.com/godwit-cloud/godwit/internal/openstack/identity"
	"github.com/godwit-cloud/godwit/internal/operator"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// testCloud is a control plane without hosts: real identity, compute and operator APIs on a real store, behind a real listener. What flows would do, tests
// write into the store.
type testCloud struct {
	*testing.T
	store   *store.Store
	server  *httptest.Server
	openrc  string
	project cloud.ProjectID
	streams atomic.Int64 // event streams asked for
}

var epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		return
	}
	time.Local = time.UTC // tables show local times
	os.Exit(m.Run())
}

func newTestCloud(t *testing.T) *testCloud {
	t.Helper()
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	s, err := store.Open(t.Context(), store.Options{DataDir: t.TempDir(), Tables: tables.All(), Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	now := func() time.Time { return epoch }
	c := &testCloud{T: t, store: s}
	ids := identity.New(s, identity.Options{Logger: quiet})
	api := openstack.New(openstack.Options{Auth: ids, Logger: quiet})
	ops := operator.New(operator.Options{Store: s, Version: "test", Logger: quiet})
	api.Mount(ids, ops, compute.New(compute.Options{Store: s, Logger: quiet, Now: now}))
	c.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == operator.Root+"/events" {
			c.streams.Add(1)
		}
		api.ServeHTTP(w, r)
	}))
	t.Cleanup(c.server.Close)
	t.Cleanup(c.server.CloseClientConnections) // streams first
	made, err := identity.Bootstrap(t.Context(), s, identity.BootstrapOptions{PublicURL: c.server.URL, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	c.openrc = made.Openrc
	admin, _ := store.One(s, tables.Projects, tables.ByName, "admin")
	c.project = admin.ID
	clearEnviron(t)
	environ, err := client.Openrc(c.openrc)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range osVariables {
		t.Setenv(name, environ(name))
	}
	return c
}

var osVariables = []string{
	"OS_AUTH_URL", "OS_USERNAME", "OS_PASSWORD", "OS_PROJECT_NAME", "OS_USER_DOMAIN_NAME", "OS_PROJECT_DOMAIN_NAME", "OS_REGION_NAME",
}

// clearEnviron keeps the tester's own credentials and lab out of the test.
func clearEnviron(t *testing.T) {
	t.Helper()
	for _, name := range append([]string{"OS_CLOUD", "OS_TOKEN", "OS_CACERT", "OS_INSECURE", "OS_PROJECT_ID", "OS_TENANT_ID", "OS_USER_ID", "OS_CLIENT_CONFIG_FILE",
		"OS_APPLICATION_CREDENTIAL_SECRET", "OS_USER_DOMAIN_ID", "OS_PROJECT_DOMAIN_ID"}, osVariables...) {
		t.Setenv(name, "")
	}
	t.Setenv(labNameVariable, "no-such-lab")
}

func (c *testCloud) put(fn func(tx *store.Tx) error) {
	c.Helper()
	if _, err := c.store.UpdateVisible(c.Context(), fn); err != nil {
		c.Fatal(err)
	}
}

// id is a fixed UUID, so that golden files stay.
func id(kind, n int) string { return fmt.Sprintf("%08d-0000-4000-8000-%012d", kind, n) }

// hosts makes connected hosts compute-1..n of 8 threads, 16 GiB and 100 GiB.
func (c *testCloud) hosts(n int) {
	c.Helper()
	c.put(func(tx *store.Tx) error {
		for i := 1; i <= n; i++ {
			name := cloud.HostName(fmt.Sprintf("compute-%d", i))
			host := cloud.Host{Name: name, ID: id(1, i), ServiceID: id(2, i), Number: i, Zone: cloud.DefaultZone, Created: epoch, Updated: epoch}
			report := cloud.HostReport{Host: name, Generation: 1, Seq: 1, VCPUs: 8, RAMMiB: 16384, RAMFreeMiB: 9000, DiskGiB: 100, DiskFreeGiB: 80, Arch: "x86_64",
				Virtualization: "tcg", Hypervisor: "QEMU", QEMUVersion: "7.2.0", LibvirtVersion: "9.0.0", MigrationAddress: fmt.Sprintf("10.0.0.%d", i), At: epoch}
			session := cloud.HostSession{Host: name, Endpoint: "server-1", Since: epoch, Seen: epoch}
			for _, err := range []error{
				store.Put(tx, tables.Hosts, name, host), store.Put(tx, tables.HostReports, name, report), store.Put(tx, tables.HostSessions, name, session),
			} {
				if err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// volumeServices makes one that is up, with two back ends, and one that never came back.
func (c *testCloud) volumeServices() {
	c.Helper()
	report := cloud.VolumeReport{Service: "storage-1", Generation: 1, Seq: 1, Version: "test", Engine: "io_uring", At: epoch, Backends: []cloud.VolumeBackend{
		{Name: "main", Kind: "file", Reflink: true, TotalBytes: 100 << 30, FreeBytes: 60 << 30, Volumes: 3},
		{Name: "far", Kind: "gluster", TotalBytes: 500 << 30, FreeBytes: 499 << 30, Error: "the file system does not answer"},
	}}
	c.put(func(tx *store.Tx) error {
		for _, err := range []error{
			store.Put(tx, tables.VolumeServices, "storage-1", cloud.VolumeService{Name: "storage-1", Zone: "nova", Created: epoch, Updated: epoch}),
			store.Put(tx, tables.VolumeReports, "storage-1", report),
			store.Put(tx, tables.VolumeSessions, "storage-1", cloud.HostSession{Host: "storage-1", Endpoint: "server-1", Since: epoch, Seen: epoch}),
			store.Put(tx, tables.VolumeServices, "storage-2", cloud.VolumeService{Name: "storage-2", Zone: "nova", Disabled: true, DisabledReason: "new disks",
				Created: epoch, Updated: epoch}),
		} {
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// guest makes an active server of a project; "" is the administrator's.
func (c *testCloud) guest(n int, name string, host cloud.HostName, project cloud.ProjectID) cloud.Server {
	c.Helper()
	if project == "" {
		project = c.project
	}
	s := cloud.Server{
		ID: cloud.ServerID(id(3, n)), Name: name, Project: project, Host: host, VMState: cloud.VMActive, Power: cloud.PowerRunning,
		Flavor:  cloud.Flavor{ID: "1", Name: "m1.guest", VCPUs: 1, RAMMiB: 256, RootGiB: 1},
		Created: epoch.Add(time.Duration(n) * time.Minute), Updated: epoch.Add(time.Duration(n) * time.Minute),
	}
	c.put(func(tx *store.Tx) error {
		usage, err := store.Get(tx, tables.Usages, host)
		if err != nil && !cloud.Is(err, cloud.KindNotFound) {
			return err
		}
		claims := map[string]cloud.Claim{cloud.ClaimKey(s.ID): {Server: s.ID, Resources: s.Flavor.Resources()}}
		for k, claim := range usage.Claims {
			claims[k] = claim
		}
		if err := store.Put(tx, tables.Usages, host, cloud.Usage{Host: host, Claims: claims}); err != nil {
			return err
		}
		return store.Put(tx, tables.Servers, s.ID, s)
	})
	return s
}

// moved makes a migration that has ended.
func (c *testCloud) moved(s cloud.Server, target cloud.HostName, status cloud.MigrationStatus, problem string) {
	c.Helper()
	c.put(func(tx *store.Tx) error {
		n, err := tables.Next(tx, tables.CountMigrations)
		if err != nil {
			return err
		}
		m := cloud.Migration{ID: cloud.MigrationID(id(4, n)), Number: n, Server: s.ID, Project: s.Project, Type: "live-migration", Asked: cloud.MigrateAuto,
			Kind: cloud.MigrateBlock, Source: s.Host, Target: target, Status: status, Error: problem, Created: epoch.Add(time.Duration(n) * time.Hour)}
		m.Finished = m.Created.Add(5420 * time.Millisecond)
		m.Updated = m.Finished
		if status == cloud.MigrationCompleted {
			m.Totals = totals
		}
		return store.Put(tx, tables.Migrations, m.ID, m)
	})
}

var totals = &cloud.MigrationStats{MemoryTotal: 256 << 20, MemoryProcessed: 100 << 20, DiskTotal: 1 << 30, DiskProcessed: 60 << 20, Setup: time.Second,
	Elapsed: 5 * time.Second, Downtime: 58 * time.Millisecond, DirtyBytesPerSecond: 8 << 20}

// result is what a command did.
type ran struct {
	out, notes string
	code       int
	err        error
}

// run runs a command line in this process, as main would.
func (c *testCloud) run(args ...string) ran {
	c.Helper()
	return runIn(c.Context(), args...)
}

func runIn(ctx context.Context, args ...string) ran {
	began := false
	root := newRoot(&began)
	var out, notes bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&notes)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	r := ran{out: out.String(), notes: notes.String(), err: err}
	if err != nil {
		if !began {
			err = usageError{err}
		}
		r.code = exitCode(err)
	}
	return r
}

// must runs a command that must succeed and returns what it printed.
func (c *testCloud) must(args ...string) string {
	c.Helper()
	r := c.run(args...)
	if r.err != nil || r.notes != "" {
		c.Fatalf("godwit %v: %v\n%s%s", args, r.err, r.out, r.notes)
	}
	return r.out
}

// golden compares with a file of testdata; GODWIT_UPDATE=1 writes it.
func (c *testCloud) golden(name, got string) {
	c.Helper()
	path := filepath.Join("testdata", name+".golden")
	if os.Getenv("GODWIT_UPDATE") != "" {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			c.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		c.Fatalf("%v: run the test with GODWIT_UPDATE=1 and read what it wrote", err)
	}
	if got != string(want) {
		c.Errorf("%s differs. Got:\n%s\nwant:\n%s", path, got, want)
	}
}

// elapsed are the stamps of a watched move, which no two runs have alike.
var elapsed = regexp.MustCompile(`(?m)^ *\d+\.\d\ds  `)

// play answers the next live migration as the flow would: through these statuses, with figures while it runs. before is called before each
// write. It returns when the last is written.
func (c *testCloud) play(end func(*cloud.Migration), before func(cloud.MigrationStatus)) {
	ctx := c.Context()
	var m cloud.Migration
	for range c.store.Watch(ctx, tables.Migrations) {
		if queued := store.By(c.store, tables.Migrations, tables.ByStatus, cloud.MigrationQueued); len(queued) > 0 {
			m = *queued[0]
			break
		}
	}
	write := func(change func()) {
		before(m.Status)
		change()
		if _, err := c.store.UpdateVisible(ctx, func(tx *store.Tx) error { return store.Put(tx, tables.Migrations, m.ID, m) }); err != nil {
			c.Error(err)
		}
	}
	write(func() {
		m.Status, m.Kind = cloud.MigrationPreparing, cloud.MigrateBlock
		if m.Target = m.AskedTarget; m.Target == "" {
			m.Target = "compute-2"
		}
	})
	write(func() { m.Status = cloud.MigrationRunning })
	figures := cloud.MigrationProgress{Migration: m.ID, Server: m.Server, Seq: 1, At: epoch, Stats: cloud.MigrationStats{
		MemoryTotal: 256 << 20, MemoryRemaining: 64 << 20, MemoryBytesPerSecond: 40 << 20, DirtyBytesPerSecond: 8 << 20, DiskTotal: 256 << 20, DiskRemaining: 0}}
	if _, err := c.store.UpdateVisible(ctx, func(tx *store.Tx) error { return store.Put(tx, tables.Progress, m.ID, figures) }); err != nil {
		c.Error(err)
	}
	write(func() {
		m.Finished = m.Created.Add(5420 * time.Millisecond)
		end(&m)
	})
}

func completed(m *cloud.Migration) { m.Status, m.Totals = cloud.MigrationCompleted, totals }

// decided keeps decisions for `why`.
func (c *testCloud) decided(s cloud.Server, purpose string, at time.Time, chosen cloud.HostName, verdicts ...cloud.Verdict) {
	c.Helper()
	d := cloud.Decision{Server: s.ID, Intent: cloud.IntentID(uuid.NewString()), Purpose: purpose, Chosen: chosen, At: at, Verdicts: verdicts}
	c.put(func(tx *store.Tx) error {
		return store.Put(tx, tables.Decisions, tables.DecisionKey(s.ID, d.Intent), d)
	})
}

// healed has a server's guest have failed twice, a minute apart, and its host have died before that.
func (c *testCloud) healed(s cloud.Server) {
	c.Helper()
	at := func(seconds int) time.Time { return epoch.Add(time.Duration(seconds) * time.Second) }
	failure := func(id cloud.NotificationID, kind cloud.GuestFailure, detail string, status cloud.NotificationStatus, lines ...cloud.ProgressDetail) {
		c.put(func(tx *store.Tx) error {
			return store.Put(tx, tables.Notifications, id, cloud.Notification{ID: id, Type: cloud.NotifyVM, Host: s.Host, Server: s.ID, Generated: lines[0].At, ByCluster: true,
				Status: status, Details: lines, Payload: map[string]any{cloud.PayloadFailure: string(kind), cloud.PayloadDetail: detail}})
		})
	}
	failure("n1", cloud.FailureCrashed, "its QEMU process ended without having been asked to", cloud.NotificationFinished,
		cloud.ProgressDetail{At: at(60), Message: "attempt 1: it is restarted on host compute-1", Progress: 0.5}, cloud.ProgressDetail{At: at(61), Message: "it was restarted", Progress: 1})
	failure("n2", cloud.FailurePanicked, "the guest's kernel panicked", cloud.NotificationRunning,
		cloud.ProgressDetail{At: at(120), Message: "attempt 2 follows after a pause of 10s"})
	c.put(func(tx *store.Tx) error {
		return errors.Join(
			store.Put(tx, tables.Healings, s.ID, cloud.Healing{Server: s.ID, Host: s.Host, Failure: cloud.FailurePanicked, Status: cloud.HealWaiting, Seen: at(120), Next: at(130),
				Reason: "attempt 2 follows after a pause of 10s", Notification: "n2", Tries: []cloud.HealAttempt{{At: at(60), Ended: at(61), Failure: cloud.FailureCrashed, Host: s.Host}}}),
			store.Put(tx, tables.Recoveries, "r1", cloud.Recovery{ID: "r1", Host: "compute-2", Status: cloud.RecoveryReturned, Began: epoch, Servers: []cloud.RecoveryServer{
				{Server: s.ID, Outcome: cloud.RecoveryRecovered, Target: s.Host, Began: epoch, Ended: at(2)}}}))
	})
}
