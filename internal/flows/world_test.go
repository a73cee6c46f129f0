package flows

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostapitest"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/placement"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
	"github.com/godwit-cloud/godwit/internal/workflow"
	"github.com/godwit-cloud/godwit/internal/workflow/workflowtest"
)

// theStore is shared by all tests of the package, one after another: starting an etcd takes longer than most of them.
var theStore *store.Store

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "godwit-flows-")
	if err == nil {
		theStore, err = store.Open(context.Background(), store.Options{DataDir: dir, Tables: tables.All()})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	theStore.Close()
	os.RemoveAll(dir)
	os.Exit(code)
}

// fleetHosts gives flows a fake fleet.
type fleetHosts struct{ *hostapitest.Fleet }

func (f fleetHosts) Host(name cloud.HostName) (hostpb.HostClient, error) { return f.On(name) }

func (f fleetHosts) WaitHost(_ context.Context, name cloud.HostName) (hostpb.HostClient, error) {
	return f.On(name)
}

// world is an untouched cloud of two hosts with one server, and the flows bound to it.
type world struct {
	t      *testing.T
	store  *store.Store
	fleet  *hostapitest.Fleet
	flows  *Flows
	server cloud.Server
	intent cloud.Intent
	lease  *store.Lease // of the hosts' sessions
}

// addHost makes a host of the fleet known, up and empty.
func (w *world) addHost(h cloud.HostName, number int) {
	w.t.Helper()
	facts := w.fleet.Host(h).CurrentFacts()
	w.write(func(tx *store.Tx) error {
		return errors.Join(
			store.Put(tx, tables.Hosts, h, cloud.Host{Name: h, ID: "id" + string(h), ServiceID: "s" + string(h), Number: number}),
			store.PutLease(tx, tables.HostSessions, h, cloud.HostSession{Host: h}, w.lease),
			store.Put(tx, tables.HostReports, h, cloud.HostReport{Host: h, Generation: 1, Seq: 1, VCPUs: 16, RAMMiB: 65536, DiskGiB: 1000, Arch: "x86_64",
				Virtualization: "tcg", MigrationAddress: facts.GetMigrationAddress()}),
		)
	})
}

const (
	serverID = cloud.ServerID("s1")
	hostA    = cloud.HostName("a")
	hostB    = cloud.HostName("b")
)

func wipe[T any, K ~string](tx *store.Tx, t store.Table[T], key func(*T) K) error {
	all, err := store.PeekList(tx, t, "")
	for _, v := range all {
		err = errors.Join(err, store.Delete(tx, t, key(v)))
	}
	return err
}

func wipeAll(tx *store.Tx) error {
	return errors.Join(
		wipe(tx, tables.Servers, func(v *cloud.Server) cloud.ServerID { return v.ID }),
		wipe(tx, tables.Graves, func(v *cloud.Server) cloud.ServerID { return v.ID }),
		wipe(tx, tables.Usages, func(v *cloud.Usage) cloud.HostName { return v.Host }),
		wipe(tx, tables.Hosts, func(v *cloud.Host) cloud.HostName { return v.Name }),
		wipe(tx, tables.HostReports, func(v *cloud.HostReport) cloud.HostName { return v.Host }),
		wipe(tx, tables.Migrations, func(v *cloud.Migration) cloud.MigrationID { return v.ID }),
		wipe(tx, tables.Intents, func(v *cloud.Intent) cloud.IntentID { return v.ID }),
		wipe(tx, tables.Ports, func(v *cloud.Port) cloud.PortID { return v.ID }),
		wipe(tx, tables.ServerGroups, func(v *cloud.ServerGroup) cloud.GroupID { return v.ID }),
		wipe(tx, tables.AddressClaims, func(v *cloud.AddressClaim) string { return tables.AddressKey(v.Subnet, v.Address) }),
		wipe(tx, tables.Attachments, func(v *cloud.Attachment) cloud.AttachmentID { return v.ID }),
		wipe(tx, tables.Decisions, func(v *cloud.Decision) string { return tables.DecisionKey(v.Server, v.Intent) }),
		wipe(tx, tables.Observations, func(v *cloud.ServerObservation) string { return tables.ObservationKey(v.Host, v.Server) }),
		wipe(tx, tables.Actions, func(v *cloud.Action) string { return tables.ActionKey(v.Server, v.RequestID) }),
		wipe(tx, tables.QuotaUsages, func(v *cloud.QuotaUsage) cloud.ProjectID { return v.Project }),
	)
}

// newWorld makes hosts a and b, a network, and a server in the state that the edge leaves when it writes an intent of this kind.
func newWorld(t *testing.T, kind cloud.IntentKind) *world {
	t.Helper()
	w := &world{t: t, store: theStore, fleet: hostapitest.NewFleet(hostA, hostB, "c")} // c is unknown to the cloud until addHost
	w.flows = New(Options{Records: theStore, Hosts: fleetHosts{w.fleet}, Policy: placement.DefaultPolicy(), Doubt: 50 * time.Millisecond})
	w.server = cloud.Server{
		ID: serverID, Project: "p", Name: "vm", Flavor: cloud.Flavor{Name: "small", VCPUs: 1, RAMMiB: 512, RootGiB: 1}, Image: "img", ImageFormat: "qcow2",
		Ports: []cloud.PortID{"port"}, VMState: cloud.VMBuilding, Task: cloud.TaskScheduling, Group: "group",
	}
	w.intent = cloud.Intent{ID: "i1", Kind: kind, Server: serverID, RequestID: "req-1", Project: "p"}
	w.write(wipeAll)
	lease, err := theStore.Lease(context.Background(), 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	w.lease = lease
	t.Cleanup(func() { _ = lease.Release(context.Background()) })
	w.addHost(hostA, 1)
	w.addHost(hostB, 2)
	w.write(func(tx *store.Tx) error {
		return errors.Join(
			store.Put(tx, tables.Networks, "net", cloud.Network{ID: "net", Name: "net", VNI: 1, MTU: 1450, AdminUp: true}),
			store.Put(tx, tables.Subnets, "sub", cloud.Subnet{ID: "sub", Network: "net", CIDR: "10.0.0.0/24"}),
			store.Put(tx, tables.AddressClaims, tables.AddressKey("sub", "10.0.0.5"), cloud.AddressClaim{Subnet: "sub", Address: "10.0.0.5", Port: "port"}),
			store.Put(tx, tables.Ports, "port", cloud.Port{ID: "port", Network: "net", MAC: "fa:16:3e:00:00:01", AdminUp: true, AutoCreated: true,
				DeviceID: string(serverID), DeviceOwner: "compute:nova", FixedIPs: []cloud.FixedIP{{Subnet: "sub", Address: "10.0.0.5"}}, Status: portDown}),
			store.Put(tx, tables.QuotaUsages, "p", cloud.QuotaUsage{Project: "p", Instances: 1, Cores: 1, RAMMiB: 512}),
			store.Put(tx, tables.ServerGroups, "group", cloud.ServerGroup{ID: "group", Policy: cloud.PolicySoftAntiAffinity, Members: []cloud.ServerID{serverID}}),
			store.Put(tx, tables.Actions, tables.ActionKey(serverID, "req-1"), cloud.Action{Server: serverID, RequestID: "req-1", Name: string(kind)}),
			store.Put(tx, tables.Intents, w.intent.ID, w.intent),
		)
	})
	w.saveServer()
	return w
}

// running makes a world whose server runs on host a, then applies change to the server.
func running(t *testing.T, kind cloud.IntentKind, change func(*cloud.Server)) *world {
	t.Helper()
	w := newWorld(t, kind)
	w.server.VMState, w.server.Task, w.server.Host, w.server.Generation, w.server.Power = cloud.VMActive, cloud.TaskNone, hostA, 1, cloud.PowerRunning
	change(&w.server)
	w.saveServer()
	w.write(func(tx *store.Tx) error {
		s := w.server
		group, err := groupIn(tx, "group")
		if err != nil {
			return err
		}
		usage := cloud.Usage{Host: hostA}
		placement.Claim(&usage, group, cloud.Claim{Server: s.ID, Resources: s.Flavor.Resources()})
		return errors.Join(putUsage(tx, usage, group), bindPorts(tx, &s, hostA, portActive))
	})
	spec, err := Spec(w.store.View(), &w.server)
	if err != nil {
		t.Fatal(err)
	}
	w.fleet.Host(hostA).Place(spec, 1)
	return w
}

func (w *world) write(fn func(tx *store.Tx) error) {
	w.t.Helper()
	if _, err := w.store.UpdateVisible(context.Background(), fn); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) saveServer() {
	w.t.Helper()
	w.write(func(tx *store.Tx) error { return store.Put(tx, tables.Servers, serverID, w.server) })
}

// check collects what is not as it should be.
type check struct{ errs []error }

func (c *check) must(ok bool, format string, args ...any) {
	if !ok {
		c.errs = append(c.errs, fmt.Errorf(format, args...))
	}
}

// settled checks what holds after every run: no violation of the protocol, no intent, no server in two places.
func (w *world) settled() *check {
	c := &check{}
	c.must(len(w.fleet.Violations()) == 0, "violations: %v", w.fleet.Violations())
	_, left := store.Lookup(w.store, tables.Intents, w.intent.ID)
	c.must(!left, "the intent is still there")
	c.must(len(w.fleet.Running(serverID)) <= 1, "runs on %v", w.fleet.Running(serverID))
	return c
}

func (w *world) now() cloud.Server {
	s, ok := store.Lookup(w.store, tables.Servers, serverID)
	if !ok {
		return cloud.Server{VMState: cloud.VMDeleted}
	}
	return *s
}

// claims returns the hosts that hold a claim of the server.
func (w *world) claims() []cloud.HostName {
	var out []cloud.HostName
	for _, u := range store.All(w.store, tables.Usages) {
		if _, ok := u.Claims[cloud.ClaimKey(serverID)]; ok {
			out = append(out, u.Host)
		}
	}
	return out
}

func (w *world) placed() []cloud.HostName {
	g, ok := store.Lookup(w.store, tables.ServerGroups, cloud.GroupID("group"))
	if !ok {
		return nil
	}
	return g.Placed[serverID]
}

func (w *world) port() cloud.Port {
	p, ok := store.Lookup(w.store, tables.Ports, cloud.PortID("port"))
	if !ok {
		return cloud.Port{}
	}
	return *p
}

// livesOn checks that the server runs on exactly this host, in the fleet and in every record.
func (c *check) livesOn(w *world, host cloud.HostName) {
	s := w.now()
	c.must(s.VMState == cloud.VMActive && s.Task == cloud.TaskNone && s.Host == host, "server is %s/%q on %q, want active on %s", s.VMState, s.Task, s.Host, host)
	c.must(slices.Equal(w.fleet.Running(serverID), []cloud.HostName{host}), "runs on %v, want %s", w.fleet.Running(serverID), host)
	c.must(len(w.fleet.Leftovers(serverID)) == 1, "hosts keep %v", w.fleet.Leftovers(serverID))
	c.must(slices.Equal(w.claims(), []cloud.HostName{host}), "claims on %v, want %s", w.claims(), host)
	c.must(slices.Equal(w.placed(), []cloud.HostName{host}), "group places it on %v, want %s", w.placed(), host)
	c.must(w.port().BindingHost == host && w.port().Status == portActive, "port is %s on %q", w.port().Status, w.port().BindingHost)
}

func (c *check) err() error { return errors.Join(c.errs...) }

// runCase carries one run out with an engine of its own and returns its record.
func (w *world) run(def *workflow.Definition[cloud.Intent]) workflow.Record {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	e := workflow.NewEngine(&workflowtest.Journal{}, []workflow.AnyDefinition{def}, workflow.Options{BackoffMin: time.Millisecond, BackoffMax: time.Millisecond})
	if err := def.Start(ctx, e, "i1", w.intent); err != nil {
		w.t.Fatal(err)
	}
	rec, err := e.Wait(ctx, "i1")
	if err := errors.Join(err, e.Stop(ctx)); err != nil {
		w.t.Fatal(err)
	}
	return rec
}

// watchedRecords tells when somebody begins to watch.
type watchedRecords struct {
	Records
	once    sync.Once
	watched chan struct{}
}

func (r *watchedRecords) Watch(ctx context.Context, of ...store.AnyTable) <-chan store.Batch {
	ch := r.Records.Watch(ctx, of...)
	r.once.Do(func() { close(r.watched) })
	return ch
}
