package compute

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

func (w *site) host(name cloud.HostName) *cloud.Host {
	w.Helper()
	h, ok := store.Lookup(w.store, tables.Hosts, name)
	if !ok {
		w.Fatalf("host %s is gone", name)
	}
	return h
}

func TestServicesAreSwitchedInBothForms(t *testing.T) {
	w := newSite(t)
	body := func(more m) m {
		b := m{"host": "compute-1", "binary": "nova-compute"}
		for k, v := range more {
			b[k] = v
		}
		return b
	}
	if r := w.want(200, "admin", 1, "PUT", "/os-services/disable", body(nil)); r.str("service", "status") != "disabled" {
		t.Errorf("disable: %s", r.text)
	}
	w.want(200, "admin", 1, "PUT", "/os-services/disable-log-reason", body(m{"disabled_reason": "dust"}))
	if h := w.host("compute-1"); !h.Disabled || h.DisabledReason != "dust" {
		t.Errorf("host %+v", h)
	}
	w.want(200, "admin", 1, "PUT", "/os-services/enable", body(nil))
	w.want(200, "admin", 11, "PUT", "/os-services/force-down", body(m{"forced_down": true}))
	if h := w.host("compute-1"); h.Disabled || h.DisabledReason != "" || !h.ForcedDown {
		t.Errorf("host %+v", h)
	}
	if r := w.want(200, "admin", 11, "GET", "/os-services?host=compute-1", nil); r.list("services")[0]["state"] != "down" || len(r.list("services")) != 1 {
		t.Errorf("forced down: %s", r.text)
	}
	w.refused(404, "Unknown action", "admin", 10, "PUT", "/os-services/force-down", body(nil))
	w.refused(400, "('forced_down' was unexpected)", "admin", 10, "PUT", "/os-services/enable", body(m{"forced_down": true}))
	w.refused(400, "Missing disabled reason field", "admin", 1, "PUT", "/os-services/disable-log-reason", body(nil))
	w.refused(400, "Missing forced_down field", "admin", 11, "PUT", "/os-services/force-down", body(nil))
	w.refused(404, "Host 'nowhere' is not mapped to any cell", "admin", 1, "PUT", "/os-services/enable", m{"host": "nowhere", "binary": "nova-compute"})
	w.refused(400, "Updating a nova-scheduler service is not supported.", "admin", 1, "PUT", "/os-services/enable", m{"host": "compute-1", "binary": "nova-scheduler"})

	path := "/os-services/e0000000-0000-4000-8000-000000000001"
	r := w.want(200, "admin", 53, "PUT", path, m{"status": "disabled", "disabled_reason": "dust", "forced_down": false})
	if r.str("service", "status") != "disabled" || r.str("service", "disabled_reason") != "dust" || r.at("service", "forced_down") != false || r.str("service", "state") != "up" {
		t.Errorf("PUT at 2.53: %s", r.text)
	}
	w.refused(400, "No updates were requested.", "admin", 53, "PUT", path, m{})
	w.refused(400, "Specifying 'disabled_reason' with status 'enabled' is invalid.", "admin", 53, "PUT", path, m{"status": "enabled", "disabled_reason": "x"})
	w.refused(400, "Invalid uuid disable", "admin", 53, "PUT", "/os-services/disable", m{"status": "enabled"})
	w.refused(404, "could not be found", "admin", 53, "PUT", "/os-services/e0000000-0000-4000-8000-00000000000f", m{"status": "enabled"})
	w.refused(409, "which is up", "admin", 53, "DELETE", path, nil)
	w.down("compute-1")
	s := w.addServer(1, "compute-1")
	w.refused(409, "hosting instances", "admin", 53, "DELETE", path, nil)
	w.change(func(tx *store.Tx) error { return store.Delete(tx, tables.Servers, s.ID) })
	w.want(204, "admin", 53, "DELETE", path, nil)
	if _, ok := store.Lookup(w.store, tables.Hosts, cloud.HostName("compute-1")); ok {
		t.Error("the host is still there")
	}
}

func TestHypervisorsAreFoundByMicroversionsIdentifier(t *testing.T) {
	w := newSite(t)
	w.addServer(1, "compute-2")
	uuid := "d0000000-0000-4000-8000-000000000002"
	w.want(200, "admin", 52, "GET", "/os-hypervisors/2", nil)
	w.refused(404, "Hypervisor with ID '"+uuid+"' could not be found.", "admin", 52, "GET", "/os-hypervisors/"+uuid, nil)
	w.want(200, "admin", 53, "GET", "/os-hypervisors/"+uuid, nil)
	w.refused(400, "Invalid uuid 2", "admin", 53, "GET", "/os-hypervisors/2", nil)
	if r := w.want(200, "admin", 53, "GET", "/os-hypervisors/"+uuid+"?with_servers=true", nil); !strings.Contains(r.str("hypervisor", "servers"), string(serverID(1))) {
		t.Errorf("servers: %s", r.text)
	}
	if r := w.want(200, "admin", 52, "GET", "/os-hypervisors/compute-2/servers", nil); len(r.list("hypervisors")) != 1 || r.list("hypervisors")[0]["servers"] == nil {
		t.Errorf("servers: %s", r.text)
	}
	if r := w.want(200, "admin", 52, "GET", "/os-hypervisors/compute/search", nil); len(r.list("hypervisors")) != 3 {
		t.Errorf("search: %s", r.text)
	}
	w.refused(404, "No hypervisor matching 'mars' could be found.", "admin", 52, "GET", "/os-hypervisors/mars/search", nil)
	w.refused(404, "No hypervisor matching 'mars' could be found.", "admin", 53, "GET", "/os-hypervisors?hypervisor_hostname_pattern=mars", nil)
	w.refused(400, "Paging over hypervisors", "admin", 53, "GET", "/os-hypervisors?hypervisor_hostname_pattern=c&limit=1", nil)
	w.refused(400, "'x y' does not match", "admin", 53, "GET", "/os-hypervisors?hypervisor_hostname_pattern=x%20y", nil)
	w.refused(400, "is not one of [True", "admin", 53, "GET", "/os-hypervisors?with_servers=perhaps", nil)
	r := w.want(200, "admin", 53, "GET", "/os-hypervisors?limit=2", nil)
	if len(r.list("hypervisors")) != 2 || r.body["hypervisors_links"] == nil {
		t.Errorf("page: %s", r.text)
	}
	if r := w.want(200, "admin", 53, "GET", "/os-hypervisors?marker="+uuid, nil); len(r.list("hypervisors")) != 1 {
		t.Errorf("second page: %s", r.text)
	}
	w.refused(400, "marker [none] not found", "admin", 53, "GET", "/os-hypervisors?marker=none", nil)
	w.down("compute-2")
	w.refused(400, "Compute service of compute-2 is unavailable at this time.", "admin", 52, "GET", "/os-hypervisors/2/uptime", nil)
}

func TestAggregatesGuardTheirZones(t *testing.T) {
	w := newSite(t)
	r := w.want(200, "admin", 95, "POST", "/os-aggregates", m{"aggregate": m{"name": "rack", "availability_zone": "east"}})
	if r.at("aggregate", "hosts") != nil || r.at("aggregate", "metadata") != nil || r.str("aggregate", "id") != "1" || r.str("aggregate", "availability_zone") != "east" {
		t.Errorf("created %s", r.text)
	}
	w.want(200, "admin", 95, "POST", "/os-aggregates", m{"aggregate": m{"name": "plain", "availability_zone": nil}})
	w.refused(409, "Aggregate rack already exists.", "admin", 95, "POST", "/os-aggregates", m{"aggregate": m{"name": "rack"}})
	w.refused(400, "'name' is a required property", "admin", 95, "POST", "/os-aggregates", m{"aggregate": m{}})
	w.refused(400, "is not valid under any of the given schemas", "admin", 95, "POST", "/os-aggregates", m{"aggregate": m{"name": "x", "availability_zone": "a:b"}})
	act := func(id int, name string, body m) reply {
		return w.send("admin", 95, "POST", fmt.Sprintf("/os-aggregates/%d/action", id), m{name: body})
	}
	if r := act(1, "add_host", m{"host": "compute-1"}); r.status != 200 || r.str("aggregate", "hosts") != "[compute-1]" {
		t.Errorf("add_host: %d %s", r.status, r.text)
	}
	for _, c := range []struct {
		id      int
		name    string
		body    m
		status  int
		message string
	}{
		{1, "add_host", m{"host": "compute-1"}, 409, "Aggregate 1 already has host compute-1."},
		{1, "add_host", m{"host": "mars"}, 404, "Compute host mars could not be found."},
		{9, "add_host", m{"host": "compute-1"}, 404, "Aggregate 9 could not be found."},
		{1, "remove_host", m{"host": "compute-2"}, 404, "Cannot remove host compute-2 in aggregate 1"},
		{1, "dance", m{}, 400, "There is no such action: dance"},
		{1, "set_metadata", m{"metadata": m{"availability_zone": ""}}, 400, "does not support empty named availability zone"},
		{1, "add_host", m{}, 400, "'host' is a required property"},
	} {
		if r := act(c.id, c.name, c.body); r.status != c.status || !strings.Contains(r.fault(), c.message) {
			t.Errorf("%s %v: %d %s, want %d %q", c.name, c.body, r.status, r.text, c.status, c.message)
		}
	}
	act(2, "add_host", m{"host": "compute-1"})
	if r := act(2, "set_metadata", m{"metadata": m{"availability_zone": "west"}}); r.status != 400 || !strings.Contains(r.fault(), "One or more hosts already in availability zone(s) ['east']") {
		t.Errorf("two zones: %d %s", r.status, r.text)
	}
	if r := act(2, "set_metadata", m{"metadata": m{"ssd": "true"}}); r.status != 200 || r.str("aggregate", "metadata") != "map[ssd:true]" || r.at("aggregate", "updated_at") == nil {
		t.Errorf("set_metadata: %d %s", r.status, r.text)
	}
	if r := act(2, "set_metadata", m{"metadata": m{"ssd": nil}}); r.status != 200 || r.str("aggregate", "metadata") != "map[]" {
		t.Errorf("remove metadata: %d %s", r.status, r.text)
	}
	if r := w.want(200, "admin", 1, "GET", "/os-hosts?zone=east", nil); len(r.list("hosts")) != 1 {
		t.Errorf("hosts in the zone: %s", r.text)
	}
	w.addServer(1, "compute-1")
	w.refused(400, "One or more hosts contain instances in this zone", "admin", 95, "PUT", "/os-aggregates/1", m{"aggregate": m{"availability_zone": "north"}})
	if r := w.want(200, "admin", 95, "PUT", "/os-aggregates/1", m{"aggregate": m{"name": "shelf"}}); r.str("aggregate", "name") != "shelf" {
		t.Errorf("renamed: %s", r.text)
	}
	w.refused(400, "is not valid under any of the given schemas", "admin", 95, "PUT", "/os-aggregates/1", m{"aggregate": m{}})
	w.refused(400, "Host aggregate is not empty", "admin", 95, "DELETE", "/os-aggregates/1", nil)
	w.refused(400, "id must be an integer", "admin", 95, "GET", "/os-aggregates/rack", nil)
	act(1, "remove_host", m{"host": "compute-1"})
	w.want(200, "admin", 95, "DELETE", "/os-aggregates/1", nil)
	w.refused(404, "Aggregate 1 could not be found.", "admin", 95, "GET", "/os-aggregates/1", nil)
	w.refused(403, "Policy doesn't allow os_compute_api:os-aggregates:create", "ann", 95, "POST", "/os-aggregates", m{"aggregate": m{"name": "x"}})
}

func TestFlavorsAreManaged(t *testing.T) {
	w := newSite(t)
	body := func(change m) m {
		f := m{"name": "big", "ram": 1024, "vcpus": "2", "disk": 10}
		for k, v := range change {
			f[k] = v
		}
		return m{"flavor": f}
	}
	r := w.want(200, "admin", 55, "POST", "/flavors", body(m{"id": "b.1", "os-flavor-access:is_public": false, "description": "roomy", "rxtx_factor": "2.5"}))
	if r.str("flavor", "id") != "b.1" || r.at("flavor", "os-flavor-access:is_public") != false || r.str("flavor", "description") != "roomy" || r.at("flavor", "rxtx_factor") != 2.5 {
		t.Errorf("created %s", r.text)
	}
	for _, c := range []struct {
		minor   int
		change  m
		status  int
		message string
	}{
		{1, m{"id": "b.1", "name": "other"}, 409, "Flavor with ID b.1 already exists."},
		{1, m{"id": "c"}, 409, "Flavor with name big already exists."},
		{1, m{"ram": 0}, 400, "0 is less than the minimum of 1"},
		{1, m{"ram": "x"}, 400, "'x' does not match '^[0-9]*$'"},
		{1, m{"vcpus": 1.5}, 400, "1.5 is not of type 'integer', 'string'"},
		{1, m{"disk": -1}, 400, "-1 is less than the minimum of 0"},
		{1, m{"ram": 1 << 40}, 400, "is greater than the maximum of 2147483647"},
		{1, m{"id": " x"}, 400, "does not match"},
		{1, m{"rxtx_factor": 0}, 400, "0 is less than or equal to the minimum of 0"},
		{1, m{"OS-FLV-EXT-DATA:ephemeral": 1}, 400, "not supported"},
		{54, m{"description": "x"}, 400, "('description' was unexpected)"},
	} {
		w.refused(c.status, c.message, "admin", c.minor, "POST", "/flavors", body(c.change))
	}
	w.refused(403, "Policy doesn't allow os_compute_api:os-flavor-manage:create", "ann", 1, "POST", "/flavors", body(nil))
	w.refused(404, "Flavor b.1 could not be found.", "ann", 1, "GET", "/flavors/b.1", nil)
	if r := w.want(200, "admin", 1, "POST", "/flavors/b.1/action", m{"addTenantAccess": m{"tenant": annProject}}); !strings.Contains(string(r.text), annProject) {
		t.Errorf("access %s", r.text)
	}
	w.want(200, "ann", 1, "GET", "/flavors/b.1", nil)
	if r := w.want(200, "ann", 1, "GET", "/flavors", nil); len(r.list("flavors")) != 6 {
		t.Errorf("ann's flavors: %s", r.text)
	}
	if r := w.want(200, "admin", 1, "GET", "/flavors?is_public=None&sort_key=name&sort_dir=asc&limit=2", nil); r.list("flavors")[0]["name"] != "big" || r.body["flavors_links"] == nil {
		t.Errorf("sorted page: %s", r.text)
	}
	if r := w.want(200, "admin", 1, "GET", "/flavors?is_public=false", nil); len(r.list("flavors")) != 1 {
		t.Errorf("private: %s", r.text)
	}
	if r := w.want(200, "ann", 1, "GET", "/flavors/detail?minRam=4096&minDisk=50", nil); len(r.list("flavors")) != 2 {
		t.Errorf("large ones: %s", r.text)
	}
	w.refused(400, "Invalid minRam filter [x]", "ann", 1, "GET", "/flavors?minRam=x", nil)
	w.refused(409, "Flavor access already exists", "admin", 1, "POST", "/flavors/b.1/action", m{"addTenantAccess": m{"tenant": annProject}})
	w.refused(409, "Can not add access to a public flavor.", "admin", 7, "POST", "/flavors/1/action", m{"addTenantAccess": m{"tenant": annProject}})
	w.refused(400, "Project ID x is not a valid project.", "admin", 7, "POST", "/flavors/b.1/action", m{"addTenantAccess": m{"tenant": "x"}})
	w.refused(404, "Access list not available for public flavors.", "admin", 1, "GET", "/flavors/1/os-flavor-access", nil)
	w.want(200, "admin", 1, "POST", "/flavors/b.1/action", m{"removeTenantAccess": m{"tenant": annProject}})
	w.refused(404, "Flavor access not found", "admin", 1, "POST", "/flavors/b.1/action", m{"removeTenantAccess": m{"tenant": annProject}})
	if r := w.want(200, "admin", 55, "PUT", "/flavors/b.1", m{"flavor": m{"description": nil}}); r.at("flavor", "description") != nil {
		t.Errorf("cleared %s", r.text)
	}
	w.want(202, "admin", 1, "DELETE", "/flavors/b.1", nil)
	w.refused(404, "Flavor b.1 could not be found.", "admin", 1, "DELETE", "/flavors/b.1", nil)
}

func TestExtraSpecsAreCheckedFrom286(t *testing.T) {
	w := newSite(t)
	path := "/flavors/1/os-extra_specs"
	w.want(200, "admin", 1, "POST", path, m{"extra_specs": m{"hw:anything": "goes", "n": 5}})
	if r := w.want(200, "ann", 1, "GET", path, nil); r.str("extra_specs") != "map[hw:anything:goes n:5]" {
		t.Errorf("specs %s", r.text)
	}
	w.refused(400, "Validation failed; extra spec 'hw:anything' does not appear to be a valid extra spec.", "admin", 86, "POST", path, m{"extra_specs": m{"hw:anything": "goes"}})
	w.refused(400, "has an unsupported value 'sometimes'", "admin", 86, "PUT", path+"/hw:cpu_policy", m{"hw:cpu_policy": "sometimes"})
	w.want(200, "admin", 86, "PUT", path+"/hw:cpu_policy", m{"hw:cpu_policy": "shared"})
	w.want(200, "admin", 86, "POST", path, m{"extra_specs": m{"mine:own": "x", "aggregate_instance_extra_specs:ssd": "true", "trait:HW_CPU_X86_AVX": "required"}})
	w.refused(400, "Request body and URI mismatch", "admin", 86, "PUT", path+"/a", m{"b": "x"})
	w.refused(404, "Flavor 1 has no extra specs with key none.", "ann", 1, "GET", path+"/none", nil)
	w.want(200, "admin", 1, "DELETE", path+"/n", nil)
	w.refused(404, "has no extra specs with key n.", "admin", 1, "DELETE", path+"/n", nil)
}

func TestKeypairs(t *testing.T) {
	w := newSite(t)
	r := w.want(200, "ann", 1, "POST", "/os-keypairs", m{"keypair": m{"name": "made"}})
	signer, err := ssh.ParsePrivateKey([]byte(r.str("keypair", "private_key")))
	if err != nil {
		t.Fatal(err)
	}
	public, _, _, _, err := ssh.ParseAuthorizedKey([]byte(r.str("keypair", "public_key")))
	if err != nil || string(signer.PublicKey().Marshal()) != string(public.Marshal()) {
		t.Errorf("the halves do not belong together (%v)", err)
	}
	if got := r.str("keypair", "fingerprint"); got != ssh.FingerprintLegacyMD5(public) {
		t.Errorf("fingerprint %s, want %s", got, ssh.FingerprintLegacyMD5(public))
	}
	if k, ok := store.Lookup(w.store, tables.Keypairs, tables.KeypairKey("ann", "made")); !ok || strings.Contains(fmt.Sprint(*k), "PRIVATE") {
		t.Errorf("record %+v", k)
	}
	key := r.str("keypair", "public_key")
	imported := w.want(201, "ann", 92, "POST", "/os-keypairs", m{"keypair": m{"name": "me@example.org", "public_key": key}})
	if imported.at("keypair", "private_key") != nil || imported.str("keypair", "type") != "ssh" || imported.str("keypair", "user_id") != "ann" {
		t.Errorf("imported %s", imported.text)
	}
	for _, c := range []struct {
		minor   int
		keypair m
		status  int
		message string
	}{
		{1, m{"name": "made"}, 409, "Key pair 'made' already exists."},
		{91, m{"name": "me@x", "public_key": key}, 400, "Only expected characters: [_- 0123456789"},
		{92, m{"name": "new"}, 400, "'public_key' is a required property"},
		{92, m{"name": "new", "public_key": "rubbish"}, 400, "Keypair data is invalid: failed to generate fingerprint"},
		{2, m{"name": "new", "type": "x509"}, 400, "not generated"},
		{2, m{"name": "new", "type": "dsa"}, 400, "'dsa' is not one of ['ssh', 'x509']"},
		{1, m{"name": "new", "type": "ssh"}, 400, "('type' was unexpected)"},
		{9, m{"name": "new", "user_id": "bob"}, 400, "('user_id' was unexpected)"},
		{10, m{"name": "new", "user_id": "bob"}, 403, "os_compute_api:os-keypairs:create"},
	} {
		w.refused(c.status, c.message, "ann", c.minor, "POST", "/os-keypairs", m{"keypair": c.keypair})
	}
	w.want(201, "admin", 10, "POST", "/os-keypairs", m{"keypair": m{"name": "given", "user_id": "bob"}})
	if r := w.want(200, "bob", 2, "GET", "/os-keypairs", nil); len(r.list("keypairs")) != 1 {
		t.Errorf("bob's: %s", r.text)
	}
	if r := w.want(200, "admin", 10, "GET", "/os-keypairs/given?user_id=bob", nil); r.str("keypair", "user_id") != "bob" {
		t.Errorf("bob's for admin: %s", r.text)
	}
	w.refused(404, "Keypair given not found for user ann", "ann", 10, "GET", "/os-keypairs/given", nil)
	if r := w.want(200, "ann", 35, "GET", "/os-keypairs?limit=1", nil); len(r.list("keypairs")) != 1 || r.body["keypairs_links"] == nil {
		t.Errorf("page: %s", r.text)
	}
	w.refused(400, "Marker none could not be found.", "ann", 35, "GET", "/os-keypairs?marker=none", nil)
	w.want(202, "ann", 1, "DELETE", "/os-keypairs/made", nil)
	w.want(204, "ann", 2, "DELETE", "/os-keypairs/me@example.org", nil)
	w.refused(404, "Keypair made not found for user ann", "ann", 1, "DELETE", "/os-keypairs/made", nil)
	w.want(200, "admin", 57, "PUT", "/os-quota-sets/"+annProject, m{"quota_set": m{"key_pairs": 0}})
	w.refused(403, "Quota exceeded, too many key pairs.", "ann", 1, "POST", "/os-keypairs", m{"keypair": m{"name": "one"}})
}

func TestServerGroups(t *testing.T) {
	w := newSite(t)
	r := w.want(200, "ann", 1, "POST", "/os-server-groups", m{"server_group": m{"name": "a", "policies": []string{"affinity"}}})
	id := r.str("server_group", "id")
	for _, c := range []struct {
		minor   int
		group   m
		message string
	}{
		{14, m{"name": "a", "policies": []string{"soft-affinity"}}, "'soft-affinity' is not one of ['anti-affinity', 'affinity']"},
		{15, m{"name": "a", "policies": []string{}}, "[] is too short"},
		{15, m{"name": "a", "policies": []string{"affinity", "anti-affinity"}}, "is too long"},
		{15, m{"name": "a", "policies": "affinity"}, "'affinity' is not of type 'array'"},
		{63, m{"name": "a", "policy": "affinity"}, "('policy' was unexpected)"},
		{64, m{"name": "a", "policies": []string{"affinity"}}, "('policies' was unexpected)"},
		{64, m{"name": "a"}, "'policy' is a required property"},
		{64, m{"name": "a", "policy": "affinity", "rules": m{"max_server_per_host": 2}}, "Only anti-affinity policy supports rules."},
		{64, m{"name": "a", "policy": "anti-affinity", "rules": m{"max_server_per_host": 0}}, "0 is less than the minimum of 1"},
	} {
		w.refused(400, c.message, "ann", c.minor, "POST", "/os-server-groups", m{"server_group": c.group})
	}
	w.want(200, "ann", 15, "POST", "/os-server-groups", m{"server_group": m{"name": "b", "policies": []string{"soft-affinity"}}})
	if r := w.want(200, "ann", 64, "POST", "/os-server-groups", m{"server_group": m{"name": "c", "policy": "anti-affinity", "rules": m{"max_server_per_host": "3"}}}); r.str("server_group", "rules") != "map[max_server_per_host:3]" {
		t.Errorf("rules %s", r.text)
	}
	if r := w.want(200, "ann", 64, "GET", "/os-server-groups?offset=1&limit=1", nil); len(r.list("server_groups")) != 1 || r.list("server_groups")[0]["name"] != "b" {
		t.Errorf("page %s", r.text)
	}
	w.refused(404, "Instance group "+id+" could not be found.", "bob", 64, "GET", "/os-server-groups/"+id, nil)
	if r := w.want(200, "admin", 64, "GET", "/os-server-groups?all_projects=1", nil); len(r.list("server_groups")) != 3 {
		t.Errorf("all: %s", r.text)
	}
	w.want(204, "ann", 64, "DELETE", "/os-server-groups/"+id, nil)
	w.refused(404, "could not be found", "ann", 64, "DELETE", "/os-server-groups/"+id, nil)
	w.want(200, "admin", 57, "PUT", "/os-quota-sets/"+annProject, m{"quota_set": m{"server_groups": 4}})
	var wg sync.WaitGroup
	codes := make([]int, 6)
	for i := range codes {
		wg.Go(func() {
			codes[i] = w.send("ann", 64, "POST", "/os-server-groups", m{"server_group": m{"name": "x", "policy": "affinity"}}).status
		})
	}
	wg.Wait()
	if n := len(store.By(w.store, tables.ServerGroups, tables.ByProject, annProject)); n != 4 {
		t.Errorf("%d groups with a quota of 4: %v", n, codes)
	}
}

func TestQuotas(t *testing.T) {
	w := newSite(t)
	w.want(200, "admin", 57, "PUT", "/os-quota-class-sets/default", m{"quota_class_set": m{"instances": 7}})
	if r := w.want(200, "ann", 57, "GET", "/os-quota-sets/"+annProject, nil); r.str("quota_set", "instances") != "7" {
		t.Errorf("from the class: %s", r.text)
	}
	w.want(200, "admin", 57, "PUT", "/os-quota-sets/"+annProject, m{"quota_set": m{"cores": "40", "ram": -1}})
	if r := w.want(200, "ann", 57, "GET", "/os-quota-sets/"+annProject, nil); r.str("quota_set", "cores") != "40" || r.str("quota_set", "ram") != "-1" || r.str("quota_set", "instances") != "7" {
		t.Errorf("own: %s", r.text)
	}
	if r := w.want(200, "ann", 57, "GET", "/os-quota-sets/"+annProject+"/defaults", nil); r.str("quota_set", "cores") != "20" {
		t.Errorf("defaults: %s", r.text)
	}
	put(w, tables.QuotaUsages, cloud.ProjectID(annProject), cloud.QuotaUsage{Project: annProject, Instances: 5})
	w.refused(400, "Quota limit 4 for instances must be greater than or equal to already used and reserved 5.", "admin", 57, "PUT", "/os-quota-sets/"+annProject, m{"quota_set": m{"instances": 4}})
	w.want(200, "admin", 57, "PUT", "/os-quota-sets/"+annProject, m{"quota_set": m{"instances": 4, "force": true}})
	w.refused(400, "('fixed_ips' was unexpected)", "admin", 36, "PUT", "/os-quota-sets/"+annProject, m{"quota_set": m{"fixed_ips": 1}})
	w.refused(400, "is fixed at -1", "admin", 35, "PUT", "/os-quota-sets/"+annProject, m{"quota_set": m{"fixed_ips": 1}})
	w.refused(400, "-2 is less than the minimum of -1", "admin", 57, "PUT", "/os-quota-sets/"+annProject, m{"quota_set": m{"cores": -2}})
	w.refused(400, "Project ID nobody is not a valid project.", "admin", 57, "GET", "/os-quota-sets/nobody", nil)
	w.refused(403, "os_compute_api:os-quota-sets:update", "ann", 57, "PUT", "/os-quota-sets/"+annProject, m{"quota_set": m{}})
	w.refused(400, "'quota_set' is a required property", "admin", 57, "PUT", "/os-quota-sets/"+annProject, m{})
	w.want(202, "admin", 57, "DELETE", "/os-quota-sets/"+annProject, nil)
	if r := w.want(200, "ann", 57, "GET", "/os-quota-sets/"+annProject, nil); r.str("quota_set", "cores") != "20" {
		t.Errorf("after delete: %s", r.text)
	}
	w.refused(400, "the only class is 'default'", "admin", 57, "PUT", "/os-quota-class-sets/gold", m{"quota_class_set": m{}})
	if r := w.want(200, "admin", 57, "GET", "/limits?tenant_id="+annProject, nil); r.str("limits", "absolute", "totalInstancesUsed") != "5" {
		t.Errorf("limits: %s", r.text)
	}
	w.refused(403, "os_compute_api:limits:other_project", "ann", 57, "GET", "/limits?tenant_id="+bobProject, nil)
}

func TestInstanceActionsOutliveTheServerFrom221(t *testing.T) {
	w := newSite(t)
	s := w.addServer(1, "compute-1")
	r := w.want(202, "ann", 1, "POST", "/servers/"+string(s.ID)+"/action", m{"os-stop": nil})
	id := r.header.Get("X-Compute-Request-Id")
	w.settle(s.ID)
	w.want(202, "ann", 1, "POST", "/servers/"+string(s.ID)+"/action", m{"lock": nil})
	path := "/servers/" + string(s.ID) + "/os-instance-actions"
	if r := w.want(200, "ann", 58, "GET", path+"?limit=1", nil); len(r.list("instanceActions")) != 1 || r.list("instanceActions")[0]["action"] != "lock" || r.body["links"] == nil {
		t.Errorf("newest first: %s", r.text)
	}
	if r := w.want(200, "ann", 58, "GET", path+"?changes-since=2030-01-01T00:00:00Z", nil); len(r.list("instanceActions")) != 0 {
		t.Errorf("changes-since: %s", r.text)
	}
	w.refused(400, "Marker none could not be found.", "ann", 58, "GET", path+"?marker=none", nil)
	w.refused(404, "Action req-0 not found", "ann", 1, "GET", path+"/req-0", nil)
	if r := w.want(200, "ann", 50, "GET", path+"/"+id, nil); r.at("instanceAction", "events") != nil || r.str("instanceAction", "action") != "stop" {
		t.Errorf("action: %s", r.text)
	}
	w.change(func(tx *store.Tx) error {
		dead, err := store.Get(tx, tables.Servers, s.ID)
		if err != nil {
			return err
		}
		if err := store.Delete(tx, tables.Servers, s.ID); err != nil {
			return err
		}
		dead.VMState, dead.Terminated = cloud.VMDeleted, noon.Add(2*time.Hour)
		return store.Put(tx, tables.Graves, s.ID, dead)
	})
	w.refused(404, "could not be found", "ann", 20, "GET", path, nil)
	w.want(200, "ann", 21, "GET", path, nil)
	w.want(200, "ann", 21, "GET", path+"/"+id, nil)
	w.refused(404, "could not be found", "bob", 21, "GET", path, nil)
}

func TestUsageCountsHoursWithinThePeriod(t *testing.T) {
	w := newSite(t)
	w.addServer(1, "compute-1", func(s *cloud.Server) { s.Launched = noon.Add(-time.Hour) })
	put(w, tables.Graves, serverID(2), cloud.Server{ID: serverID(2), Project: annProject, Flavor: cloud.Flavor{VCPUs: 2}, Launched: noon, Terminated: noon.Add(15 * time.Minute)})
	path := "?start=2026-03-04T12:00:00&end=2026-03-04T12:30:00"
	r := w.want(200, "ann", 1, "GET", "/os-simple-tenant-usage/"+annProject+path, nil)
	if r.at("tenant_usage", "total_hours") != 0.75 || r.at("tenant_usage", "total_vcpus_usage") != 1.0 {
		t.Errorf("usage %s", r.text)
	}
	if r := w.want(200, "admin", 40, "GET", "/os-simple-tenant-usage"+path+"&limit=1", nil); len(r.list("tenant_usages")) != 1 || r.body["tenant_usages_links"] == nil || r.list("tenant_usages")[0]["server_usages"] != nil {
		t.Errorf("page %s", r.text)
	}
	w.refused(400, "Invalid start time.", "ann", 1, "GET", "/os-simple-tenant-usage/"+annProject+"?start=2026-03-05&end=2026-03-04", nil)
	w.refused(400, "Datetime is in invalid format", "ann", 1, "GET", "/os-simple-tenant-usage/"+annProject+"?start=x", nil)
	w.refused(403, "os_compute_api:os-simple-tenant-usage:show", "ann", 1, "GET", "/os-simple-tenant-usage/"+bobProject+path, nil)
}

func TestBootstrapGivesFlavorsOnceAndRespectsOperators(t *testing.T) {
	w := newSite(t)
	w.want(202, "admin", 1, "DELETE", "/flavors/3", nil)
	if err := Bootstrap(t.Context(), w.store, noon); err != nil {
		t.Fatal(err)
	}
	if n := store.Count(w.store, tables.Flavors); n != 4 {
		t.Errorf("%d flavors, want the 4 that were left", n)
	}
}
