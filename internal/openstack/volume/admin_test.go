package volume

import (
	"strings"
	"testing"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

func TestQuotasAreSetByAdministratorsAndShownToOwners(t *testing.T) {
	w := newSite(t)
	path := "/v3/os-quota-sets/" + annProject
	if r := w.want(200, "ann", "GET", path, nil); r.str("quota_set", "volumes") != "10" || r.str("quota_set", "gigabytes") != "1000" || r.str("quota_set", "volumes_gold") != "-1" {
		t.Errorf("%s", r.text)
	}
	w.refused(403, "quotas:show", "bob", "GET", path, nil)
	w.refused(403, "quotas:update", "ann", "PUT", path, m{"quota_set": m{"volumes": 5}})
	w.refused(404, "could not be found", "admin", "GET", "/v3/os-quota-sets/"+nothing, nil)
	w.want(200, "admin", "PUT", path, m{"quota_set": m{"volumes": "1", "gigabytes": -1, "per_volume_gigabytes": 3, "tenant_id": annProject}})
	w.refused(400, "whole number", "admin", "PUT", path, m{"quota_set": m{"volumes": "lots"}})
	w.refused(400, "whole number", "admin", "PUT", path, m{"quota_set": m{"volumes": -2}})
	w.refused(400, "fixed at 0", "admin", "PUT", path, m{"quota_set": m{"backups": 5}})
	w.refused(413, "larger than maximum allowed limit 3G", "ann", "POST", "/v3/volumes", m{"volume": m{"size": 4}})
	w.want(202, "ann", "POST", "/v3/volumes", m{"volume": m{"size": 3}})
	w.refused(413, "Maximum number of volumes allowed (1) exceeded", "ann", "POST", "/v3/volumes", m{"volume": m{"size": 1}})
	if r := w.want(200, "ann", "GET", path+"?usage=true", nil); r.str("quota_set", "volumes") != "map[allocated:0 in_use:1 limit:1 reserved:0]" {
		t.Errorf("%s", r.text)
	}
	if r := w.want(200, "ann", "GET", "/v3/limits", nil); r.str("limits", "absolute", "totalGigabytesUsed") != "3" || r.str("limits", "absolute", "maxTotalVolumes") != "1" {
		t.Errorf("%s", r.text)
	}
	w.refused(403, "used_limits", "ann@3.39", "GET", "/v3/limits?project_id="+bobProject, nil)
	w.want(200, "admin", "DELETE", path, nil)
	w.want(200, "admin", "PUT", "/v3/os-quota-class-sets/default", m{"quota_class_set": m{"volumes": 7}})
	if r := w.want(200, "ann", "GET", path, nil); r.str("quota_set", "volumes") != "7" {
		t.Errorf("%s", r.text)
	}
	w.refused(400, "only class", "admin", "PUT", "/v3/os-quota-class-sets/gold", m{"quota_class_set": m{"volumes": 7}})
}

func TestServicesPoolsAndZones(t *testing.T) {
	w := newSite(t)
	r := w.want(200, "admin@3.49", "GET", "/v3/os-services", nil)
	service := r.at("services").([]any)[0].(map[string]any)
	if service["host"] != string(storage) || service["state"] != "up" || service["status"] != "enabled" || service["backend_state"] != "up" {
		t.Errorf("%v", service)
	}
	w.refused(403, "services", "ann", "GET", "/v3/os-services", nil)
	w.want(200, "admin", "PUT", "/v3/os-services/disable-log-reason", m{"host": "storage-1@fast", "binary": "cinder-volume", "disabled_reason": "new disks"})
	if s, _ := store.Lookup(w.store, tables.VolumeServices, storage); !s.Disabled || s.DisabledReason != "new disks" {
		t.Errorf("%+v", s)
	}
	if r := w.want(200, "ann", "GET", "/v3/os-availability-zone", nil); !strings.Contains(string(r.text), `"available":false`) {
		t.Errorf("%s", r.text)
	}
	w.want(200, "admin", "PUT", "/v3/os-services/enable", m{"host": storage, "binary": "cinder-volume"})
	w.refused(404, "could not be found", "admin", "PUT", "/v3/os-services/enable", m{"host": "mars", "binary": "cinder-volume"})
	w.refused(501, "replication", "admin", "PUT", "/v3/os-services/freeze", m{"host": storage})
	w.refused(404, "Unknown action", "admin", "PUT", "/v3/os-services/explode", m{"host": storage})
	w.volume(func(v *cloud.Volume) { v.SizeGiB = 30 })
	r = w.want(200, "admin", "GET", "/v3/scheduler-stats/get_pools?detail=true", nil)
	pool := r.at("pools").([]any)[0].(map[string]any)
	capabilities := pool["capabilities"].(map[string]any)
	if pool["name"] != "storage-1@fast#fast" || capabilities["total_capacity_gb"] != 100.0 || capabilities["free_capacity_gb"] != 50.0 || capabilities["provisioned_capacity_gb"] != 30.0 {
		t.Errorf("%v", pool)
	}
	for query, n := range map[string]int{"": 2, "?name=storage-1@slow%23slow": 1, "?volume-type=gold": 1} {
		if r := w.want(200, "admin@3.35", "GET", "/v3/scheduler-stats/get_pools"+query, nil); len(r.at("pools").([]any)) != n {
			t.Errorf("%q: %s", query, r.text)
		}
	}
}

func TestMessagesSayWhyAndAreForgotten(t *testing.T) {
	w := newSite(t)
	v := w.volume(func(v *cloud.Volume) {
		v.Status, v.Fault = cloud.VolumeError, &cloud.Fault{Code: 500, Message: "No valid backend was found.", Created: noon}
	})
	r := w.want(200, "ann@3.5", "GET", "/v3/messages", nil)
	message := r.at("messages").([]any)[0].(map[string]any)
	if message["user_message"] != "No valid backend was found." || message["resource_uuid"] != string(v.ID) {
		t.Errorf("%v", message)
	}
	path := "/v3/messages/" + message["id"].(string)
	w.want(200, "ann@3.3", "GET", path, nil)
	w.want(404, "bob@3.3", "GET", path, nil)
	w.want(204, "ann@3.3", "DELETE", path, nil)
	w.want(404, "ann@3.3", "GET", path, nil)
	if w.stored(v.ID).Fault != nil {
		t.Error("the fault is still there")
	}
}

func TestWhatIsNotOfferedIsRefusedClearly(t *testing.T) {
	w := newSite(t)
	for _, c := range []struct {
		status       int
		method, path string
	}{
		{200, "GET", "/v3/backups/detail"}, {404, "GET", "/v3/backups/" + nothing}, {501, "POST", "/v3/backups"}, {404, "DELETE", "/v3/backups/" + nothing},
		{501, "POST", "/v3/os-volume-transfer"}, {501, "POST", "/v3/os-volume-transfer/" + nothing + "/accept"}, {501, "POST", "/v3/groups"},
		{501, "POST", "/v3/consistencygroups"}, {501, "POST", "/v3/qos-specs"}, {501, "POST", "/v3/workers/cleanup"}, {501, "PUT", "/v3/default-types/" + nothing},
		{200, "GET", "/v3/extensions"}, {200, "GET", "/v3/extensions/os-quota-sets"}, {404, "GET", "/v3/extensions/nothing"}, {200, "GET", "/v3/resource_filters"},
	} {
		r := w.do("admin@3.70", c.method, c.path, m{})
		if r.status != c.status || c.status == 501 && r.at("notImplemented") == nil {
			t.Errorf("%s %s: %d %s, want %d", c.method, c.path, r.status, r.text, c.status)
		}
	}
}
