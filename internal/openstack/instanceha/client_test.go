package instanceha_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/openstack/identity"
	"github.com/godwit-cloud/godwit/internal/openstack/instanceha"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

const serverID = "5e000000-0000-4000-8000-000000000001"

// operator is somebody at a terminal with the stock client, against a real identity and instance-ha service. Nobody carries anything out.
type operator struct {
	*testing.T
	store  *store.Store
	openrc string
	url    string // of the API
}

func newOperator(t *testing.T) *operator {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	s, err := store.Open(t.Context(), store.Options{DataDir: t.TempDir(), Tables: tables.All(), Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	keystone := identity.New(s, identity.Options{Logger: quiet})
	api := openstack.New(openstack.Options{Auth: keystone, Logger: quiet})
	api.Mount(keystone, instanceha.New(instanceha.Options{Store: s}))
	server := httptest.NewServer(api)
	t.Cleanup(func() {
		server.Close()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	made, err := identity.Bootstrap(t.Context(), s, identity.BootstrapOptions{PublicURL: server.URL, Dir: filepath.Join(t.TempDir(), "credentials")})
	if err != nil {
		t.Fatal(err)
	}
	o := &operator{T: t, store: s, openrc: made.Openrc, url: server.URL + "/instance-ha/v1"}
	for i, h := range []cloud.HostName{"compute-1", "compute-2"} {
		o.put(func(tx *store.Tx) error {
			return store.Put(tx, tables.Hosts, h, cloud.Host{Name: h, ID: string(h), ServiceID: "service of " + string(h), Number: i + 1})
		})
	}
	return o
}

func (o *operator) put(fn func(tx *store.Tx) error) {
	o.Helper()
	if _, err := o.store.UpdateVisible(o.Context(), fn); err != nil {
		o.Fatal(err)
	}
}

func (o *operator) try(command string) (string, error) {
	out, err := exec.Command("/bin/sh", "-c", `. "$0" && exec openstack `+command, o.openrc).CombinedOutput()
	return string(out), err
}

// run runs a command of the client that prints JSON.
func (o *operator) run(command string, into any) {
	o.Helper()
	out, err := o.try(command + " -f json")
	if err != nil {
		o.Fatalf("%s: %v: %s", command, err, out)
	}
	at := strings.IndexAny(out, "[{") // warnings of the interpreter come first
	if at < 0 || json.Unmarshal([]byte(out[at:]), into) != nil {
		o.Fatalf("%s: %s", command, out)
	}
}

func (o *operator) refused(command, words string) {
	o.Helper()
	if out, err := o.try(command); !strings.Contains(out, words) { // the client ends a refused deletion with success
		o.Errorf("%s: %v: %s, want a refusal with %q", command, err, out, words)
	}
}

func TestStockClientKeepsSegmentsHostsAndNotifications(t *testing.T) {
	o := newOperator(t)
	var segment, host map[string]any
	o.run(`segment create racks auto compute --is_enabled true`, &segment)
	if segment["name"] != "racks" || segment["recovery_method"] != "auto" || segment["is_enabled"] != true {
		t.Errorf("segment %v", segment)
	}
	o.refused(`segment create racks auto compute`, "Failover segment with name racks already exists.")
	id := segment["uuid"].(string)
	o.run(fmt.Sprintf(`segment update %s --recovery_method rh_priority`, id), &segment)
	o.run(fmt.Sprintf(`segment host create compute-1 COMPUTE SSH %s --reserved True`, id), &host)
	if host["name"] != "compute-1" || host["reserved"] != true || host["on_maintenance"] != false {
		t.Errorf("host %v", host)
	}
	if held, ok := store.Lookup(o.store.View(), tables.SegmentHosts, cloud.HostName("compute-1")); !ok || !held.Reserved {
		t.Errorf("record %+v", held)
	}
	o.refused(fmt.Sprintf(`segment host create nowhere COMPUTE SSH %s`, id), "Host with name nowhere could not be found.")
	o.refused(fmt.Sprintf(`segment host create compute-1 COMPUTE SSH %s`, id), "Host with name compute-1 already exists.")
	var hosts, segments []map[string]any
	o.run(fmt.Sprintf(`segment host list %s`, id), &hosts)
	o.run(`segment list`, &segments)
	if len(hosts) != 1 || len(segments) != 1 || segments[0]["recovery_method"] != "rh_priority" {
		t.Errorf("hosts %v, segments %v", hosts, segments)
	}
	payload := fmt.Sprintf(`'{"instance_uuid": "%s", "vir_domain_event": "STOPPED_FAILED", "event": "LIFECYCLE"}'`, serverID)
	var news map[string]any
	o.run(`notification create VM compute-1 2026-11-23T10:00:00 `+payload, &news)
	if news["status"] != "new" || news["source_host_uuid"] != host["uuid"] {
		t.Errorf("notification %v", news)
	}
	o.refused(`notification create VM compute-1 2026-11-23T10:00:00 `+payload, "Notification received from host compute-1 of  type 'VM' is duplicate.")
	o.refused(`notification create VM compute-2 2026-11-23T10:00:00 `+payload, "Host with name compute-2 could not be found.")
	o.refused(`notification create COMPUTE_HOST compute-1 2026-11-23T10:00:00 '{"event": "GONE"}'`, "is not one of")
	o.refused(fmt.Sprintf(`segment delete %s`, id), "in-use to process notifications")
	o.put(func(tx *store.Tx) error {
		n, err := store.Get(tx, tables.Notifications, cloud.NotificationID(news["notification_uuid"].(string)))
		if err != nil {
			return err
		}
		n.Note(cloud.NotificationFinished, "it was restarted", 1, time.Now())
		return store.Put(tx, tables.Notifications, n.ID, n)
	})
	o.run(`notification show `+news["notification_uuid"].(string), &news)
	if news["status"] != "finished" || !strings.Contains(fmt.Sprint(news["recovery_workflow_details"]), "it was restarted") {
		t.Errorf("notification %v", news)
	}
	o.run(fmt.Sprintf(`segment host update %s %s --on_maintenance True`, id, host["uuid"]), &host)
	o.refused(`notification create VM compute-1 2026-11-23T11:00:00 `+payload, "Notification received from host compute-1 of type 'VM' is ignored as the host is already under maintenance.")
	if out, err := o.try(fmt.Sprintf(`segment host delete %s %s`, id, host["uuid"])); err != nil {
		t.Error(out)
	}
	if out, err := o.try(`segment delete ` + id); err != nil {
		t.Error(out)
	}
	if n := store.Count(o.store.View(), tables.Segments) + store.Count(o.store.View(), tables.SegmentHosts); n != 0 {
		t.Errorf("%d records are left", n)
	}
}

// TestStockClientTellsOfAHostAndSeesItRecovered: the news is new, then follows the recovery; the host is on maintenance, and further news of it refused, until a person says
// otherwise, whose word then is nobody else's.
func TestStockClientTellsOfAHostAndSeesItRecovered(t *testing.T) {
	o := newOperator(t)
	var segment, host, news map[string]any
	o.run(`segment create racks auto compute`, &segment)
	id := segment["uuid"].(string)
	o.run(fmt.Sprintf(`segment host create compute-1 COMPUTE SSH %s`, id), &host)
	const stopped = `notification create COMPUTE_HOST compute-1 2026-11-23T10:00:00 '{"event": "STOPPED", "cluster_status": "OFFLINE", "host_status": "NORMAL"}'`
	o.run(stopped, &news)
	if news["status"] != "new" || news["source_host_uuid"] != host["uuid"] {
		t.Errorf("notification %v", news)
	}
	o.put(func(tx *store.Tx) error { // what control does
		n, err := store.Get(tx, tables.Notifications, cloud.NotificationID(news["notification_uuid"].(string)))
		if err != nil {
			return err
		}
		n.Recovery = "r"
		n.Note(cloud.NotificationFinished, "done: 1 of 1 servers run elsewhere", 1, time.Now())
		m, err := store.Get(tx, tables.SegmentHosts, cloud.HostName("compute-1"))
		m.Maintenance, m.Recovering = true, "r"
		return errors.Join(err, store.Put(tx, tables.Notifications, n.ID, n), store.Put(tx, tables.SegmentHosts, m.Name, m))
	})
	o.run(`notification show `+news["notification_uuid"].(string), &news)
	o.run(fmt.Sprintf(`segment host show %s %s`, id, host["uuid"]), &host)
	if news["status"] != "finished" || !strings.Contains(fmt.Sprint(news["recovery_workflow_details"]), "1 of 1 servers run elsewhere") || host["on_maintenance"] != true {
		t.Errorf("notification %v, host %v", news, host)
	}
	o.refused(stopped, "is ignored as the host is already under maintenance.")
	o.run(fmt.Sprintf(`segment host update %s %s --on_maintenance True`, id, host["uuid"]), &host)
	if held, _ := store.Lookup(o.store.View(), tables.SegmentHosts, cloud.HostName("compute-1")); !held.Maintenance || held.Recovering != "" {
		t.Errorf("a person's maintenance: %+v", held)
	}
}

// get asks the API itself: Debian's client knows no VM moves.
func (o *operator) get(token, version, path string) (code int, body map[string]any) {
	o.Helper()
	req, err := http.NewRequestWithContext(o.Context(), http.MethodGet, o.url+path, nil)
	if err != nil {
		o.Fatal(err)
	}
	req.Header.Set("X-Auth-Token", token)
	req.Header.Set("OpenStack-API-Version", "instance-ha "+version)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		o.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&body); err != nil {
		o.Fatalf("%s: %v", path, err)
	}
	return resp.StatusCode, body
}

func TestVMMovesOfARecoveredHostAreShownFrom13On(t *testing.T) {
	o := newOperator(t)
	began := time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)
	const host, vm, migration = "11111111-0000-4000-8000-000000000000", "22222222-0000-4000-8000-000000000000", "33333333-0000-4000-8000-000000000000"
	o.put(func(tx *store.Tx) error {
		rec := cloud.Recovery{ID: "r", Host: "compute-1", Status: cloud.RecoveryRunning, Began: began, Updated: began, Servers: []cloud.RecoveryServer{
			{Server: serverID, Outcome: cloud.RecoveryRecovered, Target: "compute-2", Migration: migration, Began: began, Ended: began.Add(2 * time.Second)},
			{Server: "5e000000-0000-4000-8000-000000000002", Outcome: cloud.RecoveryLeft, Reason: "its disk is on host compute-1 alone"},
			{Server: "5e000000-0000-4000-8000-000000000003", Outcome: cloud.RecoveryMoving, Target: "compute-2"}}}
		note := cloud.Notification{ID: host, Type: cloud.NotifyHost, Host: "compute-1", Recovery: "r", ByCluster: true, Status: cloud.NotificationRunning, Created: began}
		return errors.Join(store.Put(tx, tables.Recoveries, rec.ID, rec), store.Put(tx, tables.Notifications, note.ID, note),
			store.Put(tx, tables.Notifications, vm, cloud.Notification{ID: vm, Type: cloud.NotifyVM, Host: "compute-1", Server: serverID, Created: began}))
	})
	out, err := o.try("token issue -f value -c id")
	if err != nil {
		t.Fatal(out)
	}
	lines := strings.Fields(out)
	token := lines[len(lines)-1]
	code, body := o.get(token, "1.3", "/notifications/"+host+"/vmoves")
	moves, _ := body["vmoves"].([]any)
	if code != http.StatusOK || len(moves) != 3 {
		t.Fatalf("%d %v", code, body)
	}
	first := moves[0].(map[string]any)
	for field, want := range map[string]any{"uuid": migration, "notification_uuid": host, "server_id": serverID, "type": "evacuation", "source_host": "compute-1", "dest_host": "compute-2",
		"status": "succeeded", "start_time": "2026-11-23T10:00:00.000000", "end_time": "2026-11-23T10:00:02.000000"} {
		if first[field] != want {
			t.Errorf("%s is %v, want %v", field, first[field], want)
		}
	}
	if _, body := o.get(token, "1.3", "/notifications/"+host+"/vmoves?status=ongoing"); len(body["vmoves"].([]any)) != 1 {
		t.Errorf("ongoing moves: %v", body)
	}
	if _, body := o.get(token, "1.3", "/notifications/"+host+"/vmoves?status=ignored"); !strings.Contains(fmt.Sprint(body), "disk is on host compute-1 alone") {
		t.Errorf("ignored moves: %v", body)
	}
	if code, body := o.get(token, "1.3", "/notifications/"+host+"/vmoves/"+migration); code != http.StatusOK || body["vmove"].(map[string]any)["server_id"] != serverID {
		t.Errorf("one move: %d %v", code, body)
	}
	for path, refusal := range map[string]struct {
		version string
		code    int
		words   string
	}{
		"/notifications/" + host + "/vmoves":       {"1.2", http.StatusNotFound, ""},
		"/notifications/" + vm + "/vmoves":         {"1.3", http.StatusBadRequest, "without vmoves due to unsupported type"},
		"/notifications/" + host + "/vmoves/" + vm: {"1.3", http.StatusNotFound, "No vm move with id " + vm},
		"/notifications/" + migration + "/vmoves":  {"1.3", http.StatusNotFound, "No notification with id " + migration},
	} {
		if code, body := o.get(token, refusal.version, path); code != refusal.code || !strings.Contains(fmt.Sprint(body), refusal.words) {
			t.Errorf("%s %s: %d %v", refusal.version, path, code, body)
		}
	}
}
