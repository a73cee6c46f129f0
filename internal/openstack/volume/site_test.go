package volume

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
	nothing      = "0e0e0e0e-0000-4000-8000-00000000000e"
	serverID     = "5e000000-0000-4000-8000-000000000001"
	storage      = cloud.HostName("storage-1")
)

var callers = tokens{
	"admin": {User: "admin", Project: adminProject, Roles: openstack.ExpandRoles([]string{openstack.RoleAdmin})},
	"ann":   {User: "ann", Project: annProject, Roles: openstack.ExpandRoles([]string{openstack.RoleMember})},
	"bob":   {User: "bob", Project: bobProject, Roles: openstack.ExpandRoles([]string{openstack.RoleMember})},
	"ray":   {User: "ray", Project: annProject, Roles: []string{openstack.RoleReader}},
	"nemo":  {User: "nemo", Domain: "default", Roles: []string{openstack.RoleMember}},
}

// noon is the time of everything that a test puts in.
var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

// m is an object of a body.
type m = map[string]any

// site is a volume API with a real store behind it: one volume service with the back ends fast and slow, an image, the types default, gold and
// shared. Nobody carries intents out; a test plays the flows.
type site struct {
	testing.TB
	store *store.Store
	url   string
	ticks atomic.Int64
}

// clock is an hour after noon, and a millisecond later at each look.
func (w *site) clock() time.Time {
	return noon.Add(time.Hour + time.Duration(w.ticks.Add(1))*time.Millisecond)
}

func newSite(t testing.TB) *site {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	s, err := store.Open(context.Background(), store.Options{DataDir: t.TempDir(), Tables: tables.All(), Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	w := &site{TB: t, store: s}
	api := openstack.New(openstack.Options{Auth: callers, Logger: quiet})
	api.Mount(New(Options{Store: s, Logger: quiet, Now: w.clock}))
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
	for range 2 { // a second start changes nothing
		if err := Bootstrap(context.Background(), w.store, noon); err != nil {
			w.Fatal(err)
		}
	}
	lease, err := w.store.Lease(context.Background(), time.Minute)
	if err != nil {
		w.Fatal(err)
	}
	w.change(func(tx *store.Tx) error {
		var problems []error
		for _, p := range []cloud.ProjectID{adminProject, annProject, bobProject} {
			problems = append(problems, store.Put(tx, tables.Projects, p, cloud.Project{ID: p, Domain: "default", Name: string(p[:3]), Enabled: true}))
		}
		for _, t := range []cloud.VolumeType{
			{ID: "7a000000-0000-4000-8000-000000000001", Name: "gold", Public: true, ExtraSpecs: map[string]string{cloud.SpecBackend: "slow", cloud.SpecIOPSMax: "500"}},
			{ID: "7a000000-0000-4000-8000-000000000002", Name: "shared", Public: true, ExtraSpecs: map[string]string{cloud.SpecMultiattach: "<is> True"}},
			{ID: "7a000000-0000-4000-8000-000000000003", Name: "secret", Access: []cloud.ProjectID{bobProject}},
		} {
			t.Created = noon
			problems = append(problems, store.Put(tx, tables.VolumeTypes, t.ID, t))
		}
		return errors.Join(append(problems,
			store.Put(tx, tables.Images, cloud.ImageID(imageID), cloud.Image{
				ID: imageID, Name: "guest", Owner: adminProject, Visibility: "public", DiskFormat: "qcow2", ContainerFormat: "bare",
				Status: cloud.ImageActive, SizeBytes: 300 << 20, VirtualBytes: 1 << 30, Hash: strings.Repeat("ab", 64), MD5: "0123", Created: noon,
			}),
			store.Put(tx, tables.VolumeServices, storage, cloud.VolumeService{Name: storage, Zone: cloud.DefaultZone, Created: noon, Updated: noon}),
			store.Put(tx, tables.VolumeReports, storage, cloud.VolumeReport{Service: storage, Generation: 1, Seq: 1, Version: "1", Engine: "io_uring", At: noon,
				Backends: []cloud.VolumeBackend{{Name: "fast", Kind: "file", Reflink: true, TotalBytes: 100 << 30, FreeBytes: 50 << 30}, {Name: "slow", Kind: "file", TotalBytes: 1 << 40, FreeBytes: 1 << 40}}}),
			store.PutLease(tx, tables.VolumeSessions, storage, cloud.HostSession{Host: storage, Since: noon, Seen: noon}, lease),
		)...)
	})
}

// reply is an answer.
type reply struct {
	status int
	header http.Header
	text   []byte
	body   map[string]any
}

// at walks into the body: at("volume", "id").
func (r reply) at(path ...string) any {
	var v any = r.body
	for _, p := range path {
		o, _ := v.(map[string]any)
		v = o[p]
	}
	return v
}

func (r reply) str(path ...string) string { return fmt.Sprint(r.at(path...)) }

// message is the fault's text.
func (r reply) message() string {
	for _, fault := range r.body {
		if o, ok := fault.(map[string]any); ok {
			return fmt.Sprint(o["message"])
		}
	}
	return ""
}

// do makes a request as who ("ann", or "ann@3.27" for a microversion).
func (w *site) do(who, method, path string, body any, header ...string) reply {
	w.Helper()
	var text []byte
	switch b := body.(type) {
	case nil:
	case string:
		text = []byte(b)
	default:
		var err error
		if text, err = json.Marshal(b); err != nil {
			w.Fatal(err)
		}
	}
	name, version, _ := strings.Cut(who, "@")
	request, err := http.NewRequest(method, w.url+"/volume"+path, bytes.NewReader(text))
	if err != nil {
		w.Fatal(err)
	}
	if name != "" {
		request.Header.Set("X-Auth-Token", name)
	}
	if version != "" {
		request.Header.Set("OpenStack-API-Version", "volume "+version)
	}
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		w.Fatal(err)
	}
	defer response.Body.Close()
	out := reply{status: response.StatusCode, header: response.Header}
	if out.text, err = io.ReadAll(response.Body); err != nil {
		w.Fatal(err)
	}
	if len(out.text) > 0 {
		if err := json.Unmarshal(out.text, &out.body); err != nil {
			w.Fatalf("%s %s: %q is no JSON object: %v", method, path, out.text, err)
		}
	}
	return out
}

// want is do that must give the status.
func (w *site) want(status int, who, method, path string, body any) reply {
	w.Helper()
	r := w.do(who, method, path, body)
	if r.status != status {
		w.Fatalf("%s %s %s %v: status %d, want %d: %s", who, method, path, body, r.status, status, r.text)
	}
	return r
}

// refused is want with a text in the fault's message.
func (w *site) refused(status int, text, who, method, path string, body any) {
	w.Helper()
	r := w.do(who, method, path, body)
	if r.status != status || !strings.Contains(r.message(), text) {
		w.Errorf("%s %s %s %v: status %d %q, want %d %q", who, method, path, body, r.status, r.message(), status, text)
	}
}

// volume puts a volume in, as the flows would leave it.
func (w *site) volume(change ...func(*cloud.Volume)) cloud.Volume {
	w.Helper()
	v := cloud.Volume{
		ID: cloud.VolumeID(newID()), Project: annProject, User: "ann", Name: "data", SizeGiB: 2, Status: cloud.VolumeAvailable, Zone: cloud.DefaultZone,
		Service: storage, Backend: "fast", Generation: 1, Created: w.clock(), Updated: noon, Type: w.defaultType(),
	}
	for _, c := range change {
		c(&v)
	}
	put(w, tables.Volumes, v.ID, v)
	return v
}

func (w *site) defaultType() cloud.VolumeTypeID {
	t, ok := store.One(w.store, tables.VolumeTypes, tables.ByName, cloud.DefaultVolumeType)
	if !ok {
		w.Fatal("there is no default type")
	}
	return t.ID
}

func (w *site) stored(id cloud.VolumeID) cloud.Volume {
	w.Helper()
	v, ok := store.Lookup(w.store, tables.Volumes, id)
	if !ok {
		w.Fatalf("volume %s is gone", id)
	}
	return *v
}

// intents returns the intents there are, oldest first.
func (w *site) intents() []*cloud.Intent { return store.All(w.store, tables.Intents) }

// takeIntent returns the only intent and removes it.
func (w *site) takeIntent(kind cloud.IntentKind) cloud.Intent {
	w.Helper()
	all := w.intents()
	if len(all) != 1 || all[0].Kind != kind || all[0].RequestID == "" {
		w.Fatalf("intents %+v, want one %s", all, kind)
	}
	i := *all[0]
	w.change(func(tx *store.Tx) error { return store.Delete(tx, tables.Intents, i.ID) })
	return i
}
