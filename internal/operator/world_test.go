package operator

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// world is the operator API on a real embedded store, behind a real listener.
type world struct {
	*testing.T
	store   *store.Store
	service *Service
	server  *httptest.Server
}

// callers answers for three tokens.
type callers map[string]*openstack.Caller

func (c callers) Authenticate(_ context.Context, token string) (*openstack.Caller, error) {
	if found := c[token]; found != nil {
		return found, nil
	}
	return nil, cloud.Errorf(cloud.KindUnauthenticated, "no such token")
}

var epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const (
	adminToken  = "admin-token"
	memberToken = "member-token"
	brief       = "brief-token" // an administrator's, and soon to expire
)

// briefly is how long the brief token is valid: longer than it takes to connect.
const briefly = time.Second

func newWorld(t *testing.T) *world {
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
	w := &world{T: t, store: s, service: New(Options{Store: s, Version: "1.2.3", Logger: quiet, Now: func() time.Time { return epoch }})}
	api := openstack.New(openstack.Options{Logger: quiet, Auth: callers{
		adminToken:  {Roles: openstack.ExpandRoles([]string{openstack.RoleAdmin})},
		memberToken: {Roles: openstack.ExpandRoles([]string{openstack.RoleMember})},
		brief:       {Roles: openstack.ExpandRoles([]string{openstack.RoleAdmin}), Expires: epoch.Add(briefly)},
	}})
	api.Mount(w.service)
	w.server = httptest.NewUnstartedServer(api)
	w.server.Config.ConnState = func(c net.Conn, state http.ConnState) {
		if state == http.StateNew { // so that a client that does not read is felt soon
			if err := c.(*net.TCPConn).SetWriteBuffer(4 << 10); err != nil {
				t.Error(err)
			}
		}
	}
	w.server.Start()
	t.Cleanup(w.server.Close)
	t.Cleanup(w.service.streams.stop) // before the listener, which waits for requests
	return w
}

// put writes records in one transaction and returns when reads show them.
func (w *world) put(fn func(tx *store.Tx) error) {
	w.Helper()
	if _, err := w.store.UpdateVisible(w.Context(), fn); err != nil {
		w.Fatal(err)
	}
}

// hosts makes connected hosts of 8 threads, 16 GiB and 100 GiB.
func (w *world) hosts(names ...cloud.HostName) {
	w.Helper()
	w.put(func(tx *store.Tx) error {
		for i, name := range names {
			number := i + 1
			host := cloud.Host{Name: name, ID: uuid.NewString(), ServiceID: uuid.NewString(), Number: number, Zone: cloud.DefaultZone, Created: epoch}
			report := cloud.HostReport{Host: name, Generation: 1, Seq: 1, VCPUs: 8, RAMMiB: 16384, RAMFreeMiB: 9000, DiskGiB: 100, DiskFreeGiB: 80, Arch: "x86_64",
				Virtualization: "tcg", Hypervisor: "QEMU", QEMUVersion: "7.2.0", LibvirtVersion: "9.0.0", MigrationAddress: fmt.Sprintf("10.0.0.%d", number), At: epoch}
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

// guest makes an active server on a host.
func (w *world) guest(name string, host cloud.HostName) cloud.Server {
	w.Helper()
	s := cloud.Server{
		ID: cloud.ServerID(uuid.NewString()), Name: name, Project: "p", Host: host, VMState: cloud.VMActive, Power: cloud.PowerRunning,
		Flavor: cloud.Flavor{ID: "1", VCPUs: 1, RAMMiB: 256, RootGiB: 1}, Created: epoch, Updated: epoch,
	}
	w.put(func(tx *store.Tx) error {
		usage, err := store.Get(tx, tables.Usages, host)
		if err != nil && !cloud.Is(err, cloud.KindNotFound) {
			return err
		}
		usage.Host = host
		claims := map[string]cloud.Claim{cloud.ClaimKey(s.ID): {Server: s.ID, Resources: s.Flavor.Resources()}}
		for k, c := range usage.Claims {
			claims[k] = c
		}
		usage.Claims = claims
		if err := store.Put(tx, tables.Usages, host, usage); err != nil {
			return err
		}
		return store.Put(tx, tables.Servers, s.ID, s)
	})
	return s
}

// move makes a migration record.
func (w *world) move(number int, s cloud.Server, target cloud.HostName, status cloud.MigrationStatus) cloud.Migration {
	w.Helper()
	m := cloud.Migration{
		ID: cloud.MigrationID(uuid.NewString()), Number: number, Server: s.ID, Type: "live-migration", Asked: cloud.MigrateAuto, Kind: cloud.MigrateBlock,
		Source: s.Host, Target: target, Status: status, Created: epoch.Add(time.Duration(number) * time.Minute),
	}
	m.Updated = m.Created
	if status == cloud.MigrationCompleted {
		m.Finished = m.Created.Add(5 * time.Second)
		m.Totals = &cloud.MigrationStats{MemoryProcessed: 100 << 20, DiskProcessed: 60 << 20, Setup: time.Second, Elapsed: 4 * time.Second,
			Downtime: 50 * time.Millisecond, DirtyBytesPerSecond: 8 << 20}
	}
	w.save(m)
	return m
}

func (w *world) save(m cloud.Migration) {
	w.Helper()
	w.put(func(tx *store.Tx) error { return store.Put(tx, tables.Migrations, m.ID, m) })
}

func (w *world) saveServer(s cloud.Server) {
	w.Helper()
	w.put(func(tx *store.Tx) error { return store.Put(tx, tables.Servers, s.ID, s) })
}

// call makes a request and returns the status and the body.
func (w *world) call(method, path, token, body string) (int, []byte) {
	w.Helper()
	req, err := http.NewRequestWithContext(w.Context(), method, w.server.URL+path, bytes.NewReader([]byte(body)))
	if err != nil {
		w.Fatal(err)
	}
	req.Header.Set("X-Auth-Token", token)
	resp, err := w.server.Client().Do(req)
	if err != nil {
		w.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		w.Fatal(err)
	}
	return resp.StatusCode, text
}

// get decodes the answer to an administrator's GET.
func get[T any](w *world, path string) T {
	w.Helper()
	return ask[T](w, http.MethodGet, path, "")
}

func ask[T any](w *world, method, path, body string) T {
	w.Helper()
	code, text := w.call(method, path, adminToken, body)
	if code != http.StatusOK {
		w.Fatalf("%s %s: %d %s", method, path, code, text)
	}
	var out T
	if err := json.Unmarshal(text, &out); err != nil {
		w.Fatalf("%s: %s: %v", path, text, err)
	}
	return out
}

// fault is a refusal as clients decode it.
type fault struct {
	Error struct {
		Code      int
		Kind      string
		Message   string
		RequestID string `json:"request_id"`
	}
}

// refused insists on a refusal and returns it.
func (w *world) refused(code int, method, path, token, body string) fault {
	w.Helper()
	got, text := w.call(method, path, token, body)
	var out fault
	if err := json.Unmarshal(text, &out); err != nil {
		w.Fatalf("%s %s: %d %q: %v", method, path, got, text, err)
	}
	if got != code || out.Error.Code != code || out.Error.Message == "" {
		w.Fatalf("%s %s: got %d %s, want %d with a message", method, path, got, text, code)
	}
	return out
}

// event is one server-sent event; a comment has only text.
type event struct {
	id, name, data, comment string
}

// eventStream reads events.
type eventStream struct {
	*testing.T
	lines *bufio.Scanner
	body  io.Closer
}

// listen opens a stream and insists on a 200.
func (w *world) listen(query, token string) *eventStream {
	w.Helper()
	req, err := http.NewRequestWithContext(w.Context(), http.MethodGet, w.server.URL+"/godwit/v1/events"+query, nil)
	if err != nil {
		w.Fatal(err)
	}
	req.Header.Set("X-Auth-Token", token)
	resp, err := w.server.Client().Do(req)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" {
		w.Fatalf("events: %s %s", resp.Status, resp.Header)
	}
	return newEventStream(w.T, resp.Body)
}

func newEventStream(t *testing.T, body io.ReadCloser) *eventStream {
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, 1<<20)
	return &eventStream{T: t, lines: lines, body: body}
}

// next returns the next event or comment; false at the end of the stream.
func (s *eventStream) next() (event, bool) {
	s.Helper()
	var e event
	for s.lines.Scan() {
		line := s.lines.Text()
		if line == "" {
			return e, true
		}
		name, value, _ := strings.Cut(line, ": ")
		switch name {
		case "id":
			e.id = value
		case "event":
			e.name = value
		case "data":
			e.data = value
		case "":
			e.comment = value
		default:
			s.Fatalf("not a line of an event: %q", line)
		}
	}
	return e, false
}

// until returns the events up to and including the first with this name.
func (s *eventStream) until(name string) []event {
	s.Helper()
	var out []event
	for {
		e, ok := s.next()
		if !ok {
			s.Fatalf("the stream ended before %q; before it came %v", name, out)
		}
		out = append(out, e)
		if e.name == name {
			return out
		}
	}
}

func decode[T any](s *eventStream, e event) T {
	s.Helper()
	var out T
	if err := json.Unmarshal([]byte(e.data), &out); err != nil {
		s.Fatalf("%v: %v", e, err)
	}
	return out
}

func names(events []event) string {
	var out []string
	for _, e := range events {
		out = append(out, e.name)
	}
	return strings.Join(out, " ")
}
