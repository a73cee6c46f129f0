package compute

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// newServer is the least body that creates a server.
func newServer(change m) m {
	s := m{"name": "vm", "imageRef": imageID, "flavorRef": "1", "networks": "auto"}
	for k, v := range change {
		if v == nil {
			delete(s, k)
		} else {
			s[k] = v
		}
	}
	return m{"server": s}
}

func TestCreateWritesServerPortIntentActionAndQuotaAtOnce(t *testing.T) {
	w := newSite(t)
	r := w.want(202, "ann", 95, "POST", "/servers", newServer(m{
		"name": "My vm.1", "metadata": m{"role": "web"}, "tags": []string{"blue"}, "description": "mine", "user_data": base64.StdEncoding.EncodeToString([]byte("#!")),
		"config_drive": true, "networks": []m{{"uuid": networkID, "fixed_ip": "10.1.0.77", "tag": "uplink"}}, "OS-DCF:diskConfig": "AUTO", "accessIPv4": "192.0.2.9",
	}))
	id := cloud.ServerID(r.str("server", "id"))
	if want := w.url + "/compute/v2.1/servers/" + string(id); r.header.Get("Location") != want {
		t.Errorf("Location %q, want %q", r.header.Get("Location"), want)
	}
	if r.str("server", "OS-DCF:diskConfig") != "AUTO" || r.str("server", "security_groups") != "[map[name:default]]" {
		t.Errorf("answer %s", r.text)
	}
	s := w.server(id)
	if s.VMState != cloud.VMBuilding || s.Task != cloud.TaskScheduling || s.Project != annProject || s.User != "ann" || s.Hostname != "my-vm-1" ||
		s.Flavor.Name != "m1.tiny" || s.ImageHash == "" || s.ImageVirtualBytes != 1<<30 || !s.ConfigDrive || s.Description != "mine" || s.Tags[0] != "blue" {
		t.Errorf("server %+v", s)
	}
	p, ok := store.Lookup(w.store, tables.Ports, s.Ports[0])
	if !ok || p.FixedIPs[0].Address != "10.1.0.77" || p.DeviceID != string(id) || p.DeviceOwner != "compute:nova" || !p.AutoCreated || len(p.SecurityGroups) != 1 {
		t.Errorf("port %+v", p)
	}
	if s.PortTags[p.ID] != "uplink" {
		t.Errorf("tags of ports: %v", s.PortTags)
	}
	intents := w.intents(id)
	if len(intents) != 1 || intents[0].Kind != cloud.IntentBoot || intents[0].RequestID != r.header.Get("X-Compute-Request-Id") || intents[0].User != "ann" {
		t.Errorf("intents %+v", intents)
	}
	if a, ok := store.Lookup(w.store, tables.Actions, tables.ActionKey(id, intents[0].RequestID)); !ok || a.Name != "create" {
		t.Errorf("action %+v", a)
	}
	if u, _ := store.Lookup(w.store, tables.QuotaUsages, cloud.ProjectID(annProject)); u == nil || u.Instances != 1 || u.Cores != 1 || u.RAMMiB != 512 {
		t.Errorf("usage %+v", u)
	}
	shown := w.want(200, "ann", 95, "GET", "/servers/"+string(id), nil)
	if shown.str("server", "status") != "BUILD" || shown.str("server", "addresses") != "map[]" {
		t.Errorf("read after write: %s", shown.text)
	}
}

func TestMultiCreateNumbersNamesAndStopsAtTheQuota(t *testing.T) {
	w := newSite(t)
	r := w.want(202, "ann", 1, "POST", "/servers", newServer(m{"networks": nil, "min_count": 2, "max_count": "30", "return_reservation_id": "True"}))
	servers := store.By(w.store, tables.Servers, tables.ByReservation, r.str("reservation_id"))
	var names []string
	for _, s := range servers {
		names = append(names, s.Name+"/"+s.Hostname)
	}
	slices.Sort(names)
	if len(servers) != 10 || names[0] != "vm-1/vm-1" || names[1] != "vm-10/vm-10" {
		t.Errorf("%d servers %v, want the quota's 10", len(servers), names)
	}
	w.refused(403, "Quota exceeded for instances: Requested 1, but already used 10 of 10 instances", "ann", 1, "POST", "/servers", newServer(m{"networks": nil}))
	w.want(200, "admin", 57, "PUT", "/os-quota-sets/"+annProject, m{"quota_set": m{"instances": -1}})
	w.refused(403, "Quota exceeded for cores, ram: Requested 24, 49152, but already used 10, 5120 of 20, 51200 cores, ram", "ann", 1, "POST", "/servers",
		newServer(m{"networks": nil, "flavorRef": 5, "min_count": 3}))
	w.want(202, "bob", 1, "POST", "/servers", newServer(m{"networks": nil}))
}

func TestConcurrentBootsNeverExceedTheQuota(t *testing.T) {
	w := newSite(t)
	w.want(200, "admin", 57, "PUT", "/os-quota-sets/"+annProject, m{"quota_set": m{"instances": 3}})
	var wg sync.WaitGroup
	codes := make([]int, 12)
	for i := range codes {
		wg.Go(func() { codes[i] = w.send("ann", 95, "POST", "/servers", newServer(nil)).status })
	}
	wg.Wait()
	made := 0
	for _, code := range codes {
		switch code {
		case 202:
			made++
		case 403:
		default:
			t.Errorf("status %d", code)
		}
	}
	u, _ := store.Lookup(w.store, tables.QuotaUsages, cloud.ProjectID(annProject))
	if n := len(store.By(w.store, tables.Servers, tables.ByProject, annProject)); made != 3 || n != 3 || u.Instances != 3 {
		t.Errorf("%d accepted, %d there, %d counted; the quota is 3", made, n, u.Instances)
	}
}

func TestCreateRefusesWhatItCannotDo(t *testing.T) {
	w := newSite(t)
	put(w, tables.Images, cloud.ImageID("9a000000-0000-4000-8000-000000000002"), cloud.Image{ID: "9a000000-0000-4000-8000-000000000002", Owner: bobProject, Visibility: "private", Status: cloud.ImageActive})
	put(w, tables.Images, cloud.ImageID("9a000000-0000-4000-8000-000000000003"), cloud.Image{ID: "9a000000-0000-4000-8000-000000000003", Visibility: "public", Status: cloud.ImageQueued})
	put(w, tables.Images, cloud.ImageID("9a000000-0000-4000-8000-000000000004"), cloud.Image{ID: "9a000000-0000-4000-8000-000000000004", Visibility: "public", Status: cloud.ImageActive, VirtualBytes: 2 << 30})
	put(w, tables.Images, cloud.ImageID("9a000000-0000-4000-8000-000000000005"), cloud.Image{ID: "9a000000-0000-4000-8000-000000000005", Visibility: "public", Status: cloud.ImageActive, MinRAMMiB: 4096})
	put(w, tables.Flavors, cloud.FlavorID("z"), cloud.Flavor{ID: "z", Name: "zero", VCPUs: 1, RAMMiB: 64, Public: true})
	put(w, tables.Flavors, cloud.FlavorID("s"), cloud.Flavor{ID: "s", Name: "secret", VCPUs: 1, RAMMiB: 64, RootGiB: 1})
	used := w.addServer(1, "compute-1")
	other := func(n int) string { return fmt.Sprintf("9a000000-0000-4000-8000-%012d", n) }
	for _, c := range []struct {
		minor   int
		change  m
		status  int
		message string
	}{
		{1, m{"name": nil}, 400, "Invalid input for field/attribute server. Value: {"},
		{1, m{"name": nil}, 400, "'name' is a required property"},
		{1, m{"name": ""}, 400, "Invalid input for field/attribute name. Value: . '' is too short"},
		{1, m{"name": 5}, 400, "Invalid input for field/attribute name. Value: 5. 5 is not of type 'string'"},
		{1, m{"name": " x"}, 400, "An invalid 'name' value was provided. The name must be: printable characters. Can not start or end with whitespace."},
		{1, m{"bogus": 1}, 400, "Additional properties are not allowed ('bogus' was unexpected)"},
		{1, m{"flavorRef": nil}, 400, "'flavorRef' is a required property"},
		{1, m{"flavorRef": "none", "networks": nil}, 400, "Flavor none could not be found."},
		{1, m{"flavorRef": "s", "networks": nil}, 400, "Flavor s could not be found."},
		{1, m{"flavorRef": "z", "networks": nil}, 403, "Only volume-backed servers are allowed for flavors with zero disk."},
		{1, m{"imageRef": nil, "networks": nil}, 400, "Missing imageRef attribute"},
		{1, m{"imageRef": "guest"}, 400, "Invalid input for field/attribute imageRef"},
		{95, m{"imageRef": other(9)}, 400, "Can not find requested image"},
		{95, m{"imageRef": other(2)}, 400, "Can not find requested image"},
		{95, m{"imageRef": other(3)}, 400, "is not active."},
		{95, m{"imageRef": other(4)}, 400, "Flavor's disk is too small for requested image. Flavor disk is 1073741824 bytes, image is 2147483648 bytes."},
		{95, m{"imageRef": other(5)}, 400, "Flavor's memory is too small for requested image."},
		{95, m{"key_name": "none"}, 400, "Invalid key_name provided."},
		{36, m{"networks": "auto"}, 400, "'auto' is not of type 'array'"},
		{37, m{"networks": nil}, 400, "'networks' is a required property"},
		{37, m{"networks": "some"}, 400, "is not valid under any of the given schemas"},
		{37, m{"networks": []m{{"uuid": "blue"}}}, 400, "'blue' is not a 'uuid'"},
		{36, m{"networks": []m{{"uuid": "blue"}}}, 400, "Bad networks format: network uuid is not in proper format (blue)"},
		{37, m{"networks": []m{{"uuid": networkID, "tag": "x"}}}, 400, "('tag' was unexpected)"},
		{31, m{"networks": []m{{"uuid": networkID, "tag": "x"}}}, 400, "('tag' was unexpected)"},
		{95, m{"networks": []m{{}}}, 400, "Bad network format: missing 'uuid'"},
		{95, m{"networks": []m{{"uuid": other(1)}}}, 400, "could not be found."},
		{95, m{"networks": []m{{"port": other(1)}}}, 400, "Port id " + other(1) + " could not be found."},
		{95, m{"networks": []m{{"port": string(used.Ports[0])}}}, 409, "is still in use."},
		{95, m{"networks": []m{{"uuid": networkID, "fixed_ip": "10.9.9.9"}}}, 400, "is not a valid IP"},
		{95, m{"networks": []m{{"uuid": networkID, "fixed_ip": "10.1.0.50"}}, "max_count": 2}, 400, "max_count cannot be greater than 1 if an fixed_ip is specified."},
		{95, m{"security_groups": []m{{"name": "none"}}}, 400, "Security group none not found."},
		{95, m{"availability_zone": "mars"}, 400, "The requested availability zone is not available"},
		{95, m{"availability_zone": "nova:compute-1"}, 403, "os_compute_api:servers:create:forced_host"},
		{74, m{"host": "compute-1"}, 403, "os_compute_api:servers:create:requested_destination"},
		{73, m{"host": "compute-1"}, 400, "('host' was unexpected)"},
		{95, m{"adminPass": "x"}, 400, "adminPass"},
		{56, m{"personality": []m{{"path": "/x", "contents": "eA=="}}}, 400, "personality"},
		{57, m{"personality": []m{}}, 400, "('personality' was unexpected)"},
		{95, m{"user_data": "***"}, 400, "'***' is not a 'base64'"},
		{95, m{"min_count": 3, "max_count": 2}, 400, "min_count must be <= max_count"},
		{95, m{"min_count": 0}, 400, "0 is less than the minimum of 1"},
		{95, m{"min_count": 101}, 400, "at most 100"},
		{95, m{"trusted_image_certificates": []string{"x"}}, 400, "certificate"},
		{95, m{"block_device_mapping_v2": []m{{"source_type": "volume", "destination_type": "volume", "uuid": other(1), "boot_index": 0}}}, 400, "failed to get volume"},
		{95, m{"block_device_mapping": []m{{"volume_id": other(1)}}}, 400, "failed to get volume"},
		{95, m{"block_device_mapping_v2": []m{{"source_type": "blank", "destination_type": "local"}}}, 400, "one local disk"},
		{51, m{"tags": []string{"x"}}, 400, "('tags' was unexpected)"},
		{95, m{"tags": []string{"a,b"}}, 400, "does not match"},
		{18, m{"description": "x", "networks": nil}, 400, "('description' was unexpected)"},
		{89, m{"hostname": "x1"}, 400, "('hostname' was unexpected)"},
		{93, m{"hostname": "a.b"}, 400, "does not match"},
		{95, m{"config_drive": "maybe"}, 400, "'maybe' is not one of [True, 'True'"},
		{95, m{"metadata": m{"a/b": "c"}}, 400, "does not match any of the regexes"},
	} {
		w.refused(c.status, c.message, "ann", c.minor, "POST", "/servers", newServer(c.change))
	}
	w.refused(400, "Scheduler hint 'same_host' is not supported.", "ann", 95, "POST", "/servers", m{"server": newServer(nil)["server"], "os:scheduler_hints": m{"same_host": other(1)}})
	w.refused(400, "Instance group "+other(1)+" could not be found.", "ann", 95, "POST", "/servers", m{"server": newServer(nil)["server"], "os:scheduler_hints": m{"group": other(1)}})
	w.refused(403, "Policy doesn't allow os_compute_api:servers:create to be performed.", "ray", 95, "POST", "/servers", newServer(nil))
	if n := store.Count(w.store, tables.Servers); n != 1 {
		t.Errorf("%d servers after refusals only", n)
	}
	if u, ok := store.Lookup(w.store, tables.QuotaUsages, cloud.ProjectID(annProject)); ok && u.Instances != 0 {
		t.Errorf("refusals took quota: %+v", u)
	}
}

func TestCreateAcceptsItsForms(t *testing.T) {
	w := newSite(t)
	w.want(200, "admin", 57, "PUT", "/os-quota-sets/"+annProject, m{"quota_set": m{"instances": -1, "cores": -1, "ram": -1}})
	w.want(201, "ann", 2, "POST", "/os-keypairs", m{"keypair": m{"name": "laptop"}})
	group := w.want(200, "ann", 95, "POST", "/os-server-groups", m{"server_group": m{"name": "g", "policy": "affinity"}}).str("server_group", "id")
	for _, c := range []struct {
		as     string
		minor  int
		change m
	}{
		{"ann", 1, m{"networks": nil}},
		{"ann", 1, m{"networks": []m{}, "flavorRef": 1, "key_name": "laptop"}},
		{"ann", 32, m{"networks": []m{{"uuid": networkID, "tag": "x"}}}},
		{"ann", 37, m{"networks": "none"}},
		{"ann", 42, m{"networks": []m{{"uuid": networkID, "port": nil}}}},
		{"ann", 94, m{"hostname": "a.example.org"}},
		{"ann", 95, m{"trusted_image_certificates": nil, "security_groups": []m{{"name": "default"}}, "availability_zone": "nova"}},
		{"ann", 95, m{"block_device_mapping_v2": []m{{"uuid": imageID, "source_type": "image", "destination_type": "local", "boot_index": 0, "delete_on_termination": true}}}},
		{"ann", 95, m{"flavorRef": "http://somewhere/flavors/1"}},
		{"admin", 1, m{"availability_zone": "nova:compute-2", "networks": []m{{"uuid": networkID}}}},
		{"admin", 95, m{"host": "compute-2", "hypervisor_hostname": "compute-2"}},
	} {
		if c.as == "ann" && c.change["security_groups"] != nil {
			w.want(202, "ann", 1, "POST", "/servers", newServer(m{"networks": nil})) // the group default exists from the first port on
		}
		r := w.want(202, c.as, c.minor, "POST", "/servers", newServer(c.change))
		s := w.server(cloud.ServerID(r.str("server", "id")))
		if c.as == "admin" && s.ForcedHost != "compute-2" {
			t.Errorf("%v: forced host %q", c.change, s.ForcedHost)
		}
		if c.change["networks"] == "none" && len(s.Ports) != 0 {
			t.Errorf("ports %v although none were wanted", s.Ports)
		}
	}
	r := w.want(202, "ann", 95, "POST", "/servers", m{"server": newServer(nil)["server"], "os:scheduler_hints": m{"group": group}})
	if g, _ := store.Lookup(w.store, tables.ServerGroups, cloud.GroupID(group)); len(g.Members) != 1 || string(g.Members[0]) != r.str("server", "id") {
		t.Errorf("members %v", g.Members)
	}
	put(w, tables.Networks, cloud.NetworkID("n2"), cloud.Network{ID: "n2", Name: "red", Project: annProject, VNI: 2, AdminUp: true, Subnets: []cloud.SubnetID{"s2"}})
	put(w, tables.Subnets, cloud.SubnetID("s2"), cloud.Subnet{ID: "s2", Network: "n2", Project: annProject, IPVersion: 4, CIDR: "10.2.0.0/24"})
	w.refused(409, "Multiple possible networks found, use a Network ID to be more specific.", "ann", 95, "POST", "/servers", newServer(nil))
}

func TestExistingPortIsAttachedAndStaysItsOwners(t *testing.T) {
	w := newSite(t)
	s := w.addServer(1, "compute-1")
	port := s.Ports[0]
	w.change(func(tx *store.Tx) error {
		p, err := store.Get(tx, tables.Ports, port)
		p.DeviceID, p.DeviceOwner, p.AutoCreated = "", "", false
		return errors.Join(err, store.Put(tx, tables.Ports, port, p))
	})
	r := w.want(202, "ann", 95, "POST", "/servers", newServer(m{"networks": []m{{"port": string(port)}}}))
	if p, _ := store.Lookup(w.store, tables.Ports, port); p.DeviceID != r.str("server", "id") || p.AutoCreated {
		t.Errorf("port %+v", p)
	}
	w.refused(409, "is still in use", "ann", 95, "POST", "/servers", newServer(m{"networks": []m{{"port": string(port)}}}))
	w.refused(400, "could not be found", "bob", 95, "POST", "/servers", newServer(m{"networks": []m{{"port": string(port)}}}))
}

func TestPowerActionsSetTaskAndPlaceOneIntent(t *testing.T) {
	w := newSite(t)
	s := w.addServer(1, "compute-1")
	path := "/servers/" + string(s.ID) + "/action"
	for _, c := range []struct {
		body   m
		task   cloud.TaskState
		kind   cloud.IntentKind
		hard   bool
		action string
		after  cloud.VMState
		status string
	}{
		{m{"os-stop": nil}, cloud.TaskPoweringOff, cloud.IntentStop, false, "stop", cloud.VMStopped, "ACTIVE"},
		{m{"os-start": nil}, cloud.TaskPoweringOn, cloud.IntentStart, false, "start", cloud.VMActive, "SHUTOFF"},
		{m{"reboot": m{"type": "SOFT"}}, cloud.TaskRebooting, cloud.IntentReboot, false, "reboot", cloud.VMActive, "REBOOT"},
		{m{"reboot": m{"type": "Hard"}}, cloud.TaskRebootingHard, cloud.IntentReboot, true, "reboot", cloud.VMActive, "HARD_REBOOT"},
	} {
		r := w.want(202, "ann", 1, "POST", path, c.body)
		if len(r.text) != 0 {
			t.Errorf("%v: body %s", c.body, r.text)
		}
		got, intents := w.server(s.ID), w.intents(s.ID)
		if got.Task != c.task || len(intents) != 1 || intents[0].Kind != c.kind || intents[0].Hard != c.hard {
			t.Errorf("%v: task %s, intents %+v", c.body, got.Task, intents)
		}
		if a, ok := store.Lookup(w.store, tables.Actions, tables.ActionKey(s.ID, r.header.Get("X-Compute-Request-Id"))); !ok || a.Name != c.action {
			t.Errorf("%v: action %+v", c.body, a)
		}
		if shown := w.want(200, "ann", 1, "GET", "/servers/"+string(s.ID), nil).str("server", "status"); shown != c.status {
			t.Errorf("%v: status %s, want %s", c.body, shown, c.status)
		}
		if c.task != cloud.TaskRebooting { // hard reboots are allowed while rebooting
			w.refused(409, fmt.Sprintf("Cannot 'os-migrateLive' instance %s while it is in", s.ID), "admin", 25, "POST", path, m{"os-migrateLive": m{"host": nil, "block_migration": true}})
		}
		w.settle(s.ID, func(s *cloud.Server) { s.VMState = c.after })
	}
	w.refused(409, fmt.Sprintf("Cannot 'start' instance %s while it is in vm_state active", s.ID), "ann", 1, "POST", path, m{"os-start": nil})
	w.refused(400, "'WARM' is not one of ['HARD', 'Hard', 'hard', 'SOFT', 'Soft', 'soft']", "ann", 1, "POST", path, m{"reboot": m{"type": "WARM"}})
	w.refused(400, "'type' is a required property", "ann", 1, "POST", path, m{"reboot": m{}})
	w.settle(s.ID, func(s *cloud.Server) { s.VMState = cloud.VMBuilding })
	w.refused(409, fmt.Sprintf("Cannot 'reboot' instance %s while it is in vm_state building", s.ID), "ann", 1, "POST", path, m{"reboot": m{"type": "HARD"}})
}

func TestForeignServersDoNotExist(t *testing.T) {
	w := newSite(t)
	s := w.addServer(1, "compute-1")
	message := fmt.Sprintf("Instance %s could not be found.", s.ID)
	base := "/servers/" + string(s.ID)
	for path, body := range map[string]any{
		"GET ": nil, "DELETE ": nil, "PUT ": m{"server": m{"name": "x"}}, "POST /action": m{"os-stop": nil}, "GET /metadata": nil, "GET /ips": nil,
		"GET /os-instance-actions": nil, "GET /os-interface": nil, "GET /migrations": nil, "GET /tags": nil, "GET /os-security-groups": nil,
		"POST /metadata": m{"metadata": m{"a": "b"}}, "PUT /tags": m{"tags": []string{}}, "GET /os-volume_attachments": nil, "GET /topology": nil,
	} {
		method, tail, _ := strings.Cut(path, " ")
		w.refused(404, message, "bob", 95, method, base+tail, body)
	}
	w.refused(404, message, "bob", 95, "POST", base+"/action", m{"os-migrateLive": m{"host": nil, "block_migration": "auto"}})
	if r := w.want(200, "bob", 95, "GET", "/servers", nil); len(r.list("servers")) != 0 {
		t.Errorf("bob sees %s", r.text)
	}
}

func TestReadersReadAndMembersDoNotAdminister(t *testing.T) {
	w := newSite(t)
	s := w.addServer(1, "compute-1")
	w.want(200, "ray", 95, "GET", "/servers/"+string(s.ID), nil)
	w.refused(403, "os_compute_api:servers:stop", "ray", 95, "POST", "/servers/"+string(s.ID)+"/action", m{"os-stop": nil})
	w.refused(403, "os_compute_api:servers:delete", "ray", 95, "DELETE", "/servers/"+string(s.ID), nil)
	w.refused(403, "Policy doesn't allow os_compute_api:os-migrate-server:migrate_live to be performed.", "ann", 95, "POST", "/servers/"+string(s.ID)+"/action",
		m{"os-migrateLive": m{"host": nil, "block_migration": "auto"}})
	for _, path := range []string{"/os-services", "/os-hypervisors", "/os-migrations", "/os-aggregates", "/os-availability-zone/detail", "/os-simple-tenant-usage?start=2026-01-01", "/os-quota-class-sets/default"} {
		w.refused(403, "Policy doesn't allow", "ann", 95, "GET", path, nil)
	}
	w.refused(403, "Policy doesn't allow os_compute_api:os-hosts:list", "ann", 1, "GET", "/os-hosts", nil)
	w.refused(403, "get_all_tenants", "ann", 95, "GET", "/servers?all_tenants=1", nil)
	w.refused(403, "os_compute_api:os-quota-sets:show", "ann", 95, "GET", "/os-quota-sets/"+bobProject, nil)
}

func TestDeletePlacesOneIntentAndAbortsAMove(t *testing.T) {
	w := newSite(t)
	s := w.addServer(1, "compute-1")
	w.want(202, "admin", 95, "POST", "/servers/"+string(s.ID)+"/action", m{"os-migrateLive": m{"host": nil, "block_migration": "auto"}})
	if r := w.want(204, "ann", 1, "DELETE", "/servers/"+string(s.ID), nil); len(r.text) != 0 {
		t.Errorf("body %s", r.text)
	}
	w.want(204, "ann", 1, "DELETE", "/servers/"+string(s.ID), nil)
	var kinds []string
	for _, i := range w.intents(s.ID) {
		kinds = append(kinds, string(i.Kind))
	}
	slices.Sort(kinds)
	if fmt.Sprint(kinds) != "[delete migrate]" || w.server(s.ID).Task != cloud.TaskDeleting {
		t.Errorf("intents %v, task %s", kinds, w.server(s.ID).Task)
	}
	if mig := store.By(w.store, tables.Migrations, tables.ByServer, s.ID); len(mig) != 1 || !mig[0].AbortAsked {
		t.Errorf("migrations %+v", mig)
	}
	w.refused(404, "could not be found", "ann", 1, "DELETE", "/servers/none", nil)
	other := w.addServer(2, "compute-1", func(s *cloud.Server) { s.Task = cloud.TaskDeleting })
	w.want(204, "ann", 1, "DELETE", "/servers/"+string(other.ID), nil)
	third := w.addServer(3, "compute-1")
	w.want(202, "ann", 1, "POST", "/servers/"+string(third.ID)+"/action", m{"forceDelete": nil})
	if w.server(third.ID).Task != cloud.TaskDeleting {
		t.Error("forceDelete asked for nothing")
	}
}

func TestLocksBindOwnersAndNotAdministrators(t *testing.T) {
	w := newSite(t)
	s := w.addServer(1, "compute-1")
	path := "/servers/" + string(s.ID)
	w.want(202, "ann", 73, "POST", path+"/action", m{"lock": m{"locked_reason": "mine"}})
	w.refused(409, fmt.Sprintf("Instance %s is locked", s.ID), "ann", 1, "POST", path+"/action", m{"os-stop": nil})
	w.refused(409, "is locked", "ann", 1, "DELETE", path, nil)
	w.refused(409, "is locked", "ann", 1, "POST", path+"/metadata", m{"metadata": m{"a": "b"}})
	if r := w.want(200, "ann", 73, "GET", path, nil); r.at("server", "locked") != true || r.str("server", "locked_reason") != "mine" {
		t.Errorf("shown %s", r.text)
	}
	w.want(202, "admin", 1, "POST", path+"/action", m{"os-stop": nil})
	w.settle(s.ID)
	w.want(202, "ann", 1, "POST", path+"/action", m{"unlock": nil})
	w.want(202, "admin", 1, "POST", path+"/action", m{"lock": nil})
	w.refused(403, "os_compute_api:os-lock-server:unlock:unlock_override", "ann", 1, "POST", path+"/action", m{"unlock": nil})
	w.want(202, "admin", 1, "POST", path+"/action", m{"unlock": nil})
	w.refused(400, "'' is too short", "ann", 73, "POST", path+"/action", m{"lock": m{"locked_reason": ""}})
	w.want(202, "ann", 72, "POST", path+"/action", m{"lock": m{"anything": 1}})
}

func TestUpdateRenamesAndShowsByMicroversion(t *testing.T) {
	w := newSite(t)
	s := w.addServer(1, "compute-1")
	path := "/servers/" + string(s.ID)
	r := w.want(200, "ann", 74, "PUT", path, m{"server": m{"name": "new", "description": nil, "accessIPv4": "192.0.2.1", "OS-DCF:diskConfig": "AUTO"}})
	if r.str("server", "name") != "new" || r.at("server", "OS-EXT-STS:vm_state") != nil || r.at("server", "server_groups") == nil {
		t.Errorf("PUT at 2.74: %s", r.text)
	}
	r = w.want(200, "ann", 90, "PUT", path, m{"server": m{"hostname": "host-1", "description": "d"}})
	if r.str("server", "OS-EXT-SRV-ATTR:hostname") != "host-1" || r.str("server", "OS-EXT-STS:vm_state") != "active" || r.str("server", "description") != "d" {
		t.Errorf("PUT at 2.90: %s", r.text)
	}
	w.refused(400, "('hostname' was unexpected)", "ann", 89, "PUT", path, m{"server": m{"hostname": "x1"}})
	w.refused(400, "('status' was unexpected)", "ann", 89, "PUT", path, m{"server": m{"status": "x1"}})
	w.refused(400, "is not a 'ipv4'", "ann", 89, "PUT", path, m{"server": m{"accessIPv4": "::1"}})
	if got := w.server(s.ID); got.Name != "new" || got.AccessIPv4 != "192.0.2.1" || got.DiskConfig != "AUTO" || !got.Updated.After(s.Updated) {
		t.Errorf("record %+v", got)
	}
}

func TestMetadataAndTags(t *testing.T) {
	w := newSite(t)
	s := w.addServer(1, "compute-1")
	path := "/servers/" + string(s.ID)
	if r := w.want(200, "ann", 1, "POST", path+"/metadata", m{"metadata": m{"a": "b"}}); r.str("metadata") != "map[a:b role:web]" {
		t.Errorf("merged %s", r.text)
	}
	w.want(200, "ann", 1, "PUT", path+"/metadata/c", m{"meta": m{"c": "d"}})
	w.refused(400, "Request body and URI mismatch", "ann", 1, "PUT", path+"/metadata/c", m{"meta": m{"x": "d"}})
	if r := w.want(200, "ann", 1, "GET", path+"/metadata/c", nil); r.str("meta", "c") != "d" {
		t.Errorf("item %s", r.text)
	}
	w.want(204, "ann", 1, "DELETE", path+"/metadata/c", nil)
	w.refused(404, "Metadata item was not found", "ann", 1, "DELETE", path+"/metadata/c", nil)
	if r := w.want(200, "ann", 1, "PUT", path+"/metadata", m{"metadata": m{"only": "this"}}); r.str("metadata") != "map[only:this]" {
		t.Errorf("replaced %s", r.text)
	}
	many := m{}
	for i := range 129 {
		many[fmt.Sprint(i)] = "x"
	}
	w.refused(403, "Maximum number of metadata items exceeds 128", "ann", 1, "PUT", path+"/metadata", m{"metadata": many})
	if r := w.want(201, "ann", 26, "PUT", path+"/tags/blue", nil); r.header.Get("Location") != w.url+"/compute/v2.1"+path+"/tags/blue" {
		t.Errorf("Location %s", r.header.Get("Location"))
	}
	w.want(204, "ann", 26, "PUT", path+"/tags/blue", nil)
	w.want(204, "ann", 26, "GET", path+"/tags/blue", nil)
	w.refused(404, "has no tag 'red'", "ann", 26, "GET", path+"/tags/red", nil)
	if r := w.want(200, "ann", 26, "PUT", path+"/tags", m{"tags": []string{"z", "a", "a"}}); r.str("tags") != "[a z]" {
		t.Errorf("tags %s", r.text)
	}
	w.want(204, "ann", 26, "DELETE", path+"/tags/a", nil)
	w.refused(404, "has no tag 'a'", "ann", 26, "DELETE", path+"/tags/a", nil)
	w.want(204, "ann", 26, "DELETE", path+"/tags", nil)
	if r := w.want(200, "ann", 26, "GET", path+"/tags", nil); r.str("tags") != "[]" {
		t.Errorf("tags %s", r.text)
	}
	w.settle(s.ID, func(s *cloud.Server) { s.VMState = cloud.VMError })
	w.refused(409, "Cannot 'update tag' instance", "ann", 26, "PUT", path+"/tags/x", nil)
	w.refused(409, "Cannot 'update metadata' instance", "ann", 1, "POST", path+"/metadata", m{"metadata": m{"a": "b"}})
}

func TestConsoleOutput(t *testing.T) {
	w := newSite(t)
	s := w.addServer(1, "compute-1")
	path := "/servers/" + string(s.ID) + "/action"
	w.console.text = "one\ntwo\r\nthr\x1bee\n"
	for length, want := range map[any]string{nil: "one\ntwo\nthree\n", 1: "three\n", "2": "two\nthree\n", -1: "one\ntwo\nthree\n", 0: ""} {
		if r := w.want(200, "ann", 1, "POST", path, m{"os-getConsoleOutput": m{"length": length}}); r.str("output") != want {
			t.Errorf("length %v: %q, want %q", length, r.str("output"), want)
		}
	}
	w.want(200, "ann", 1, "POST", path, m{"os-getConsoleOutput": m{}})
	w.refused(400, "is less than the minimum of -1", "ann", 1, "POST", path, m{"os-getConsoleOutput": m{"length": -2}})
	w.console.err = cloud.Errorf(cloud.KindUnavailable, "host is away")
	w.refused(409, "is not ready", "ann", 1, "POST", path, m{"os-getConsoleOutput": m{}})
	w.console.err = cloud.Errorf(cloud.KindNotFound, "none")
	w.refused(404, "Guest does not have a console available.", "ann", 1, "POST", path, m{"os-getConsoleOutput": m{}})
}

func TestResetStateIsRefusedWhileWorkIsInProgress(t *testing.T) {
	w := newSite(t)
	s := w.addServer(1, "compute-1")
	path := "/servers/" + string(s.ID) + "/action"
	w.want(202, "ann", 1, "POST", path, m{"os-stop": nil})
	w.refused(409, "Cannot 'os-resetState' instance", "admin", 1, "POST", path, m{"os-resetState": m{"state": "error"}})
	w.settle(s.ID)
	w.want(202, "admin", 1, "POST", path, m{"os-resetState": m{"state": "error"}})
	if got := w.server(s.ID); got.VMState != cloud.VMError {
		t.Errorf("state %s", got.VMState)
	}
	w.refused(403, "Policy doesn't allow", "ann", 1, "POST", path, m{"os-resetState": m{"state": "active"}})
	w.refused(400, "'paused' is not one of ['active', 'error']", "admin", 1, "POST", path, m{"os-resetState": m{"state": "paused"}})
}

func TestSecurityGroupsOfAServerChangeOnAllItsPorts(t *testing.T) {
	w := newSite(t)
	s := w.addServer(1, "compute-1")
	put(w, tables.SecurityGroups, cloud.SecurityGroupID("sg-web"), cloud.SecurityGroup{ID: "sg-web", Name: "web", Project: annProject})
	path := "/servers/" + string(s.ID) + "/action"
	w.want(202, "ann", 1, "POST", path, m{"addSecurityGroup": m{"name": "web"}})
	p, _ := store.Lookup(w.store, tables.Ports, s.Ports[0])
	if len(p.SecurityGroups) != 2 || p.Revision != 1 {
		t.Errorf("port %+v", p)
	}
	if r := w.want(200, "ann", 1, "GET", "/servers/"+string(s.ID)+"/os-security-groups", nil); len(r.list("security_groups")) != 2 {
		t.Errorf("groups %s", r.text)
	}
	w.want(202, "ann", 1, "POST", path, m{"removeSecurityGroup": m{"name": "sg-web"}})
	w.refused(404, "Security group web not associated with the instance", "ann", 1, "POST", path, m{"removeSecurityGroup": m{"name": "web"}})
	w.refused(404, "Security group none not found.", "ann", 1, "POST", path, m{"addSecurityGroup": m{"name": "none"}})
	w.refused(400, "Security group name cannot be empty", "ann", 1, "POST", path, m{"addSecurityGroup": m{"name": " "}})
}

func TestBodiesThatAreNotWhatTheySayAreRefused(t *testing.T) {
	w := newSite(t)
	s := w.addServer(1, "compute-1")
	for _, path := range []string{"/servers", "/servers/" + string(s.ID) + "/action", "/flavors", "/os-aggregates", "/os-keypairs"} {
		for _, body := range []string{"", "{", "[]", `"x"`, `{"a":1}{}`, "\x00", `{"server": 1}`, `{"a":`, strings.Repeat(`{"a":`, 1000)} {
			if r := w.send("admin", 95, "POST", path, body); r.status != 400 || r.fault() == "" {
				t.Errorf("POST %s %q: %d %s", path, body[:min(len(body), 20)], r.status, r.text)
			}
		}
	}
	huge := `{"server": {"name": "` + strings.Repeat("x", 10<<20) + `"}}`
	if r := w.send("ann", 95, "POST", "/servers", huge); r.status != http.StatusRequestEntityTooLarge || r.at("overLimit") == nil {
		t.Errorf("10 MB body: %d %.100s", r.status, r.text)
	}
}
