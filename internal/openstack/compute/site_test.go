package compute

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/ipam"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// tokens lets each test user in by name: the token is the caller.
type tokens map[string]*openstack.Caller

func (t tokens) Authenticate(_ context.Context, token string) (*openstack.Caller, error) {
	c, ok := t[token]
	if !ok {
		return nil, cloud.Errorf(cloud.KindUnauthenticated, "unknown token")
	}
	return c, nil
}

const (
	adminProject = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	annProject   = "11111111111111111111111111111111"
	bobProject   = "22222222222222222222222222222222"
	imageID      = "9a000000-0000-4000-8000-000000000001"
	networkID    = "9b000000-0000-4000-8000-000000000001"
	subnetID     = "9c000000-0000-4000-8000-000000000001"
)

var callers = tokens{
	"admin": {User: "admin", Project: adminProject, Roles: openstack.ExpandRoles([]string{openstack.RoleAdmin})},
	"ann":   {User: "ann", Project: annProject, Roles: openstack.ExpandRoles([]string{openstack.RoleMember})},
	"bob":   {User: "bob", Project: bobProject, Roles: openstack.ExpandRoles([]string{openstack.RoleMember})},
	"ray":   {User: "ray", Project: annProject, Roles: []string{openstack.RoleReader}},
}

// noon is the time of everything that a test puts in.
var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

// site is a compute API with a real store behind it: three hosts, an image, a network, the usual flavors.
type site struct {
	testing.TB
	store   *store.Store
	url     string
	lease   *store.Lease
	console *fakeConsole
	ticks   atomic.Int64
}

// clock is an hour after noon, and a millisecond later at each look.
func (w *site) clock() time.Time {
	return noon.Add(time.Hour + time.Duration(w.ticks.Add(1))*time.Millisecond)
}

// fakeConsole is a host's console.
type fakeConsole struct {
	text string
	err  error
}

func (f *fakeConsole) ReadConsole(_ context.Context, _ cloud.HostName, _ cloud.ServerID, lines int) ([]byte, error) {
	if f.err != nil {
		return nil, f.err
	}
	all := strings.Split(strings.TrimSuffix(f.text, "\n"), "\n")
	if lines > 0 && lines < len(all) {
		all = all[len(all)-lines:]
	}
	return []byte(strings.Join(all, "\n") + "\n"), nil
}

func newSite(t testing.TB, change ...func(*Options)) *site {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	s, err := store.Open(context.Background(), store.Options{DataDir: t.TempDir(), Tables: tables.All(), Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	console := &fakeConsole{}
	w := &site{TB: t, store: s, console: console}
	api := openstack.New(openstack.Options{Auth: callers, Logger: quiet})
	o := Options{Store: s, Logger: quiet, Console: console, Now: w.clock}
	for _, c := range change {
		c(&o)
	}
	api.Mount(New(o))
	server := httptest.NewServer(api)
	t.Cleanup(func() {
		server.Close()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	w.url = server.URL
	w.seed()
	return w
}

// change runs fn in a transaction and waits until the replica shows it.
func (w *site) change(fn func(tx *store.Tx) error) {
	w.Helper()
	if _, err := w.store.UpdateVisible(context.Background(), fn); err != nil {
		w.Fatal(err)
	}
}

func put[T any, K ~string](w *site, t store.Table[T], key K, v T) {
	w.Helper()
	w.change(func(tx *store.Tx) error { return store.Put(tx, t, key, v) })
}

func (w *site) seed() {
	if err := Bootstrap(context.Background(), w.store, noon); err != nil {
		w.Fatal(err)
	}
	var err error
	if w.lease, err = w.store.Lease(context.Background(), time.Minute); err != nil {
		w.Fatal(err)
	}
	w.change(func(tx *store.Tx) error {
		var problems []error
		for _, p := range []cloud.ProjectID{adminProject, annProject, bobProject} {
			problems = append(problems, store.Put(tx, tables.Projects, p, cloud.Project{ID: p, Domain: "default", Name: string(p[:3]), Enabled: true}))
		}
		for i := 1; i <= 3; i++ {
			problems = append(problems, w.addHost(tx, i))
		}
		problems = append(problems,
			store.Put(tx, tables.Images, cloud.ImageID(imageID), cloud.Image{
				ID: imageID, Name: "guest", Owner: adminProject, Visibility: "public", DiskFormat: "qcow2", ContainerFormat: "bare",
				Status: cloud.ImageActive, SizeBytes: 300 << 20, VirtualBytes: 1 << 30, Hash: strings.Repeat("ab", 64), Created: noon,
			}),
			store.Put(tx, tables.Networks, cloud.NetworkID(networkID), cloud.Network{
				ID: networkID, Name: "blue", Project: annProject, VNI: 1, MTU: 1450, AdminUp: true, Shared: true, PortSecurity: true, Created: noon,
			}),
			ipam.AddSubnet(tx, cloud.Subnet{
				ID: subnetID, Name: "blue4", Network: networkID, Project: annProject, IPVersion: 4, CIDR: "10.1.0.0/24", Gateway: "10.1.0.1",
				Pools: []cloud.AddressRange{{Start: "10.1.0.10", End: "10.1.0.200"}}, Created: noon,
			}),
		)
		return errors.Join(problems...)
	})
}

// hostName names the i-th host.
func hostNameOf(i int) cloud.HostName { return cloud.HostName(fmt.Sprintf("compute-%d", i)) }

func (w *site) addHost(tx *store.Tx, i int) error {
	name := hostNameOf(i)
	return errors.Join(
		store.Put(tx, tables.Hosts, name, cloud.Host{
			Name: name, ID: fmt.Sprintf("d0000000-0000-4000-8000-%012d", i), ServiceID: fmt.Sprintf("e0000000-0000-4000-8000-%012d", i), Number: i,
			Zone: cloud.DefaultZone, Created: noon, Updated: noon,
		}),
		store.Put(tx, tables.HostReports, name, cloud.HostReport{
			Host: name, Generation: 1, Seq: 1, LibvirtVersion: "9.0.0", QEMUVersion: "7.2.0", Hypervisor: "QEMU", Virtualization: "tcg", Arch: "x86_64",
			CPUModels: []string{"qemu64"}, CPUInfo: `{"arch": "x86_64", "model": "qemu64"}`, VCPUs: 4, RAMMiB: 8192, RAMFreeMiB: 7000, DiskGiB: 100, DiskFreeGiB: 90,
			MigrationAddress: fmt.Sprintf("192.0.2.%d", i), UptimeSeconds: 93784, Load: [3]float64{0.5, 0.25, 0.1}, At: noon,
		}),
		store.PutLease(tx, tables.HostSessions, name, cloud.HostSession{Host: name, Since: noon, Seen: noon}, w.lease),
	)
}

// down takes a host's session away.
func (w *site) down(host cloud.HostName) {
	w.Helper()
	w.change(func(tx *store.Tx) error { return store.Delete(tx, tables.HostSessions, host) })
}

// reply is an answer.
type reply struct {
	status int
	header http.Header
	text   []byte
	body   map[string]any
}

// at walks into the body: at("server", "id").
func (r reply) at(path ...string) any {
	var v any = r.body
	for _, p := range path {
		m, _ := v.(map[string]any)
		v = m[p]
	}
	return v
}

func (r reply) str(path ...string) string { return fmt.Sprint(r.at(path...)) }

// list returns the items of a list.
func (r reply) list(name string) []map[string]any {
	items, _ := r.body[name].([]any)
	out := make([]map[string]any, len(items))
	for i := range items {
		out[i], _ = items[i].(map[string]any)
	}
	return out
}

// fault returns the message of a fault, whatever it is wrapped in.
func (r reply) fault() string {
	for _, v := range r.body {
		if m, ok := v.(map[string]any); ok {
			return fmt.Sprint(m["message"])
		}
	}
	return ""
}

// send makes one request under microversion 2.minor.
func (w *site) send(as string, minor int, method, path string, body any) reply {
	w.Helper()
	var in io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		in = strings.NewReader(b)
	default:
		text, err := json.Marshal(b)
		if err != nil {
			w.Fatal(err)
		}
		in = bytes.NewReader(text)
	}
	req, err := http.NewRequest(method, w.url+"/compute/v2.1"+path, in)
	if err != nil {
		w.Fatal(err)
	}
	req.Header.Set("X-Auth-Token", as)
	if minor > 0 {
		req.Header.Set("X-OpenStack-Nova-API-Version", fmt.Sprintf("2.%d", minor))
	}
	return w.do(req)
}

func (w *site) do(req *http.Request) reply {
	w.Helper()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		w.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	out := reply{status: resp.StatusCode, header: resp.Header}
	if out.text, err = io.ReadAll(resp.Body); err != nil {
		w.Fatal(err)
	}
	if len(out.text) > 0 {
		if err := json.Unmarshal(out.text, &out.body); err != nil {
			w.Fatalf("%s %s: %q is not JSON: %v", req.Method, req.URL, out.text, err)
		}
	}
	return out
}

// want is send that fails the test unless the answer has the status.
func (w *site) want(status int, as string, minor int, method, path string, body any) reply {
	w.Helper()
	r := w.send(as, minor, method, path, body)
	if r.status != status {
		w.Fatalf("%s %s as %s at 2.%d: %d %s, want %d", method, path, as, minor, r.status, r.text, status)
	}
	return r
}

// refused fails the test unless the answer is the status with a message that contains the text.
func (w *site) refused(status int, message, as string, minor int, method, path string, body any) {
	w.Helper()
	r := w.send(as, minor, method, path, body)
	if r.status != status || !strings.Contains(r.fault(), message) {
		w.Errorf("%s %s as %s at 2.%d: %d %s\nwant %d with %q", method, path, as, minor, r.status, r.text, status, message)
	}
}

type m = map[string]any

// serverNumber makes ids of put-in servers.
func serverID(i int) cloud.ServerID {
	return cloud.ServerID(fmt.Sprintf("f0000000-0000-4000-8000-%012d", i))
}

// addServer puts a running server of ann's on a host, as if it had booted there.
func (w *site) addServer(i int, host cloud.HostName, change ...func(*cloud.Server)) *cloud.Server {
	w.Helper()
	id := serverID(i)
	s := cloud.Server{
		ID: id, Project: annProject, User: "ann", Name: fmt.Sprintf("vm-%d", i), Hostname: fmt.Sprintf("vm-%d", i), Image: imageID, ImageFormat: "qcow2",
		Metadata: map[string]string{"role": "web"}, VMState: cloud.VMActive, Power: cloud.PowerRunning, Host: host, Generation: 1,
		Reservation: "r-00000001", Ports: []cloud.PortID{cloud.PortID("b" + string(id[1:]))},
		Created: noon.Add(time.Duration(i) * time.Second), Updated: noon.Add(time.Duration(i) * time.Second), Launched: noon.Add(time.Duration(i) * time.Second),
	}
	w.change(func(tx *store.Tx) error {
		flavor, err := store.Get(tx, tables.Flavors, "1")
		if err != nil {
			return err
		}
		flavor.ExtraSpecs = map[string]string{"hw:cpu_policy": "shared"}
		s.Flavor = flavor
		for _, c := range change {
			c(&s)
		}
		group, err := ipam.DefaultGroup(tx, s.Project, noon)
		if err != nil {
			return err
		}
		port := cloud.Port{
			ID: s.Ports[0], Network: networkID, Project: s.Project, MAC: fmt.Sprintf("fa:16:3e:00:%02x:%02x", i>>8, i&255), AdminUp: true, PortSecurity: true,
			FixedIPs: []cloud.FixedIP{{Subnet: subnetID, Address: fmt.Sprintf("10.1.%d.%d", i>>8, i&255)}}, DeviceID: string(id), DeviceOwner: "compute:nova",
			SecurityGroups: []cloud.SecurityGroupID{group.ID}, Status: "ACTIVE", BindingHost: host, AutoCreated: true, Created: noon, Updated: noon,
		}
		return errors.Join(store.Put(tx, tables.Ports, port.ID, port), store.Put(tx, tables.Servers, id, s))
	})
	return &s
}

// server reads a server's record.
func (w *site) server(id cloud.ServerID) *cloud.Server {
	w.Helper()
	s, ok := store.Lookup(w.store, tables.Servers, id)
	if !ok {
		w.Fatalf("server %s is gone", id)
	}
	return s
}

// settle plays the flow that finished a server's intent: the intent goes, the task too.
func (w *site) settle(id cloud.ServerID, change ...func(*cloud.Server)) {
	w.Helper()
	w.change(func(tx *store.Tx) error {
		for _, i := range store.By(w.store, tables.Intents, tables.ByServer, id) {
			if err := store.Delete(tx, tables.Intents, i.ID); err != nil {
				return err
			}
		}
		s, err := store.Get(tx, tables.Servers, id)
		if err != nil {
			return err
		}
		s.Task = cloud.TaskNone
		for _, c := range change {
			c(&s)
		}
		return store.Put(tx, tables.Servers, id, s)
	})
}

// intents returns what is asked of a server and not done.
func (w *site) intents(id cloud.ServerID) []*cloud.Intent {
	return store.By(w.store, tables.Intents, tables.ByServer, id)
}
