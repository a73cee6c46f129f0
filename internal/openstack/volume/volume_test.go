package volume

import (
	"fmt"
	"testing"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
	"github.com/godwit-cloud/godwit/internal/volumebook"
)

func TestAVolumeIsCreatedWithItsIntentAndQuota(t *testing.T) {
	w := newSite(t)
	r := w.want(202, "ann", "POST", "/v3/volumes", m{"volume": m{"size": "2", "name": "root", "imageRef": imageID, "metadata": m{"a": "b"}}})
	if r.str("volume", "status") != "creating" || r.str("volume", "size") != "2" || r.str("volume", "bootable") != "true" ||
		r.str("volume", "volume_type") != cloud.DefaultVolumeType || r.at("volume", "os-vol-host-attr:host") != nil {
		t.Errorf("%s", r.text)
	}
	v := w.stored(cloud.VolumeID(r.str("volume", "id")))
	i := w.takeIntent(cloud.IntentVolumeCreate)
	if i.Volume != v.ID || v.SourceImage != imageID || v.ImageMetadata["image_name"] != "guest" || v.Project != annProject {
		t.Errorf("intent %+v, volume %+v", i, v)
	}
	if u := volumebook.Usage(w.store, annProject); u.Volumes != 1 || u.GiB != 2 {
		t.Errorf("usage %+v", u)
	}
	if got := w.want(200, "ann", "GET", "/v3/volumes/"+string(v.ID), nil); got.str("volume", "name") != "root" {
		t.Errorf("%s", got.text)
	}
}

func TestWhatCannotBeCreatedIsRefused(t *testing.T) {
	w := newSite(t)
	source := w.volume()
	foreign := w.volume(func(v *cloud.Volume) { v.Project = bobProject })
	for _, c := range []struct {
		status int
		text   string
		who    string
		volume any
	}{
		{400, "'None' must be an integer", "ann", m{"name": "x"}},
		{400, "'0' must be an integer", "ann", m{"size": 0}},
		{400, "is not of type", "ann", m{"size": "many"}},
		{400, "is not of type", "ann", m{"size": 1.5}},
		{400, "less than the minimum", "ann", m{"size": -1}},
		{400, "is not of type", "ann", m{"size": 1, "name": 5}},
		{400, "is too long", "ann", m{"size": 1, "name": fmt.Sprintf("%0300d", 1)}},
		{400, "is not of type", "ann", "volume"},
		{400, "Availability zone 'mars' is invalid", "ann", m{"size": 1, "availability_zone": "mars"}},
		{400, "Invalid image identifier", "ann", m{"size": 1, "imageRef": nothing}},
		{400, "mutually exclusive", "ann", m{"size": 1, "imageRef": imageID, "source_volid": source.ID}},
		{400, "no backups, groups", "ann@3.47", m{"size": 1, "backup_id": nothing}},
		{400, "smaller than original volume size", "ann", m{"size": 1, "source_volid": source.ID}},
		{404, "Volume " + nothing, "ann", m{"size": 1, "source_volid": nothing}},
		{404, "Volume " + string(foreign.ID), "ann", m{"size": 1, "source_volid": foreign.ID}},
		{404, "Snapshot " + nothing, "ann", m{"size": 1, "snapshot_id": nothing}},
		{404, "Volume type with name secret", "ann", m{"size": 1, "volume_type": "secret"}},
		{400, "multiattach", "ann", m{"size": 1, "multiattach": true}},
		{400, "'status' was unexpected", "ann@3.53", m{"size": 1, "status": "available"}},
		{413, "exceeds allowed gigabytes quota. Requested 1001G, quota is 1000G and 0G", "ann", m{"size": 1001}},
		{403, "volume:create", "ray", m{"size": 1}},
		{403, "volume:create", "nemo", m{"size": 1}},
	} {
		w.refused(c.status, c.text, c.who, "POST", "/v3/volumes", m{"volume": c.volume})
	}
	w.refused(400, "cannot understand JSON", "ann", "POST", "/v3/volumes", `{"volume": `)
	w.refused(400, "'volume' is a required property", "ann", "POST", "/v3/volumes", m{})
	w.refused(400, "Scheduler hints", "ann", "POST", "/v3/volumes", m{"volume": m{"size": 1}, "OS-SCH-HNT:scheduler_hints": m{"same_host": "x"}})
	w.want(401, "", "POST", "/v3/volumes", m{"volume": m{"size": 1}})
	w.want(202, "ann", "POST", "/v3/volumes", m{"volume": m{"size": 1, "status": "available"}}) // ignored before 3.53
	w.want(202, "bob", "POST", "/v3/volumes", m{"volume": m{"size": 1, "volume_type": "secret"}})
	r := w.want(202, "ann", "POST", "/v3/volumes", m{"volume": m{"size": 1, "volume_type": "shared", "multiattach": true}})
	if r.at("volume", "multiattach") != true {
		t.Errorf("%s", r.text)
	}
	if n := len(w.intents()); n != 3 {
		t.Errorf("%d intents after 3 accepted requests", n)
	}
}

func TestForeignVolumesDoNotExist(t *testing.T) {
	w := newSite(t)
	v := w.volume()
	path := "/v3/volumes/" + string(v.ID)
	for _, c := range []struct {
		method, path string
		body         any
	}{
		{"GET", path, nil}, {"PUT", path, m{"volume": m{"name": "mine"}}}, {"DELETE", path, nil}, {"GET", path + "/metadata", nil},
		{"POST", path + "/metadata", m{"metadata": m{"a": "b"}}}, {"POST", path + "/action", m{"os-extend": m{"new_size": 9}}},
		{"POST", path + "/action", m{"os-initialize_connection": m{}}}, {"POST", path + "/action", m{"os-reserve": nil}},
	} {
		w.refused(404, "Volume "+string(v.ID)+" could not be found.", "bob", c.method, c.path, c.body)
	}
	w.refused(404, "could not be found", "bob", "POST", "/v3/snapshots", m{"snapshot": m{"volume_id": v.ID}})
	w.refused(404, "could not be found", "bob@3.27", "POST", "/v3/attachments", m{"attachment": m{"volume_uuid": v.ID, "instance_uuid": serverID}})
	w.refused(403, "Policy", "ray", "DELETE", path, nil)
	w.want(200, "ray", "GET", path, nil)
	w.want(200, "admin", "GET", path, nil)
	if got := w.want(200, "bob", "GET", "/v3/volumes/detail?all_tenants=1", nil); len(got.at("volumes").([]any)) != 0 {
		t.Errorf("bob sees %s", got.text)
	}
	if got := w.want(200, "admin", "GET", "/v3/volumes/detail?all_tenants=1", nil); len(got.at("volumes").([]any)) != 1 {
		t.Errorf("the administrator sees %s", got.text)
	}
}

func TestDeletingAVolumeAsksForItOnce(t *testing.T) {
	w := newSite(t)
	v := w.volume()
	w.want(202, "ann", "DELETE", "/v3/volumes/"+string(v.ID), nil)
	if i := w.takeIntent(cloud.IntentVolumeDelete); i.Volume != v.ID || i.Cascade {
		t.Errorf("%+v", i)
	}
	if got := w.stored(v.ID); got.Status != cloud.VolumeDeleting {
		t.Errorf("volume is %s", got.Status)
	}
	w.refused(400, "Volume status must be available or error", "ann", "DELETE", "/v3/volumes/"+string(v.ID), nil)
	w.refused(404, "could not be found", "ann", "DELETE", "/v3/volumes/"+nothing, nil)
	w.refused(403, "force_delete", "ann@3.23", "DELETE", "/v3/volumes/"+string(v.ID)+"?force=True", nil)
	w.refused(400, "cascade", "ann", "DELETE", "/v3/volumes/"+string(v.ID)+"?cascade=perhaps", nil)
}

func TestAVolumeInUseIsNotDeletedEvenByForce(t *testing.T) {
	w := newSite(t)
	v := w.volume(func(v *cloud.Volume) { v.Status, v.AttachmentIDs = cloud.VolumeInUse, []cloud.AttachmentID{"a"} })
	put(w, tables.Attachments, "a", cloud.Attachment{ID: "a", Volume: v.ID, Server: serverID, Project: annProject, Status: cloud.AttachmentAttached})
	w.refused(400, "must not be migrating, attached", "ann", "DELETE", "/v3/volumes/"+string(v.ID), nil)
	w.refused(400, "must not be migrating, attached", "admin@3.23", "DELETE", "/v3/volumes/"+string(v.ID)+"?force=True", nil)
	w.refused(400, "must not be migrating, attached", "admin", "POST", "/v3/volumes/"+string(v.ID)+"/action", m{"os-force_delete": nil})
	stuck := w.volume(func(v *cloud.Volume) { v.Status = cloud.VolumeErrorDeleting })
	w.want(202, "admin", "POST", "/v3/volumes/"+string(stuck.ID)+"/action", m{"os-force_delete": nil})
	w.refused(403, "force_delete", "ann", "POST", "/v3/volumes/"+string(stuck.ID)+"/action", m{"os-force_delete": nil})
}

func TestSnapshotsKeepTheirVolumeUnlessTheyGoAlong(t *testing.T) {
	w := newSite(t)
	v := w.volume()
	r := w.want(202, "ann", "POST", "/v3/snapshots", m{"snapshot": m{"volume_id": v.ID, "name": "before", "metadata": m{"k": "v"}}})
	id := r.str("snapshot", "id")
	if i := w.takeIntent(cloud.IntentSnapshotCreate); string(i.Snapshot) != id || i.Volume != v.ID {
		t.Errorf("%+v", i)
	}
	w.refused(400, "have snapshots", "ann", "DELETE", "/v3/volumes/"+string(v.ID), nil)
	w.refused(400, "must be available or error", "ann", "DELETE", "/v3/volumes/"+string(v.ID)+"?cascade=true", nil)
	w.refused(400, "Snapshot status must be one of available or error", "ann", "DELETE", "/v3/snapshots/"+id, nil)
	w.change(func(tx *store.Tx) error {
		s, err := store.Get(tx, tables.VolumeSnapshots, id)
		if err != nil {
			return err
		}
		s.Status = cloud.SnapshotAvailable
		return store.Put(tx, tables.VolumeSnapshots, id, s)
	})
	w.want(202, "ann", "DELETE", "/v3/volumes/"+string(v.ID)+"?cascade=true", nil)
	if i := w.takeIntent(cloud.IntentVolumeDelete); !i.Cascade {
		t.Errorf("%+v", i)
	}
	if s, _ := store.Lookup(w.store, tables.VolumeSnapshots, id); s.Status != cloud.SnapshotDeleting {
		t.Errorf("snapshot is %s", s.Status)
	}
}

func TestSnapshotsAreTakenOfVolumesInUseWhenThatIsAskedFor(t *testing.T) {
	w := newSite(t)
	v := w.volume(func(v *cloud.Volume) { v.Status = cloud.VolumeInUse })
	body := func(force any) m {
		s := m{"volume_id": v.ID}
		if force != nil {
			s["force"] = force
		}
		return m{"snapshot": s}
	}
	w.refused(400, "status must be available, but current status is: in-use", "ann", "POST", "/v3/snapshots", body(nil))
	w.want(202, "ann", "POST", "/v3/snapshots", body(true))
	w.want(202, "ann@3.66", "POST", "/v3/snapshots", body(nil))
	w.want(202, "ann@3.66", "POST", "/v3/snapshots", body("true"))
	w.refused(400, "'force' parameter is invalid", "ann@3.66", "POST", "/v3/snapshots", body(false))
	put(w, tables.VolumeQuotas, annProject, cloud.VolumeQuota{Project: annProject, Volumes: -1, Snapshots: 3, GiB: -1, PerVolumeGiB: -1})
	w.refused(413, "Maximum number of snapshots allowed (3)", "ann", "POST", "/v3/snapshots", body(true))
}

func TestNoSnapshotIsDeletedUnderAVolumeThatIsMadeFromIt(t *testing.T) {
	w := newSite(t)
	v := w.volume()
	put(w, tables.VolumeSnapshots, nothing, cloud.VolumeSnapshot{ID: nothing, Volume: v.ID, Project: annProject, SizeGiB: 2, Status: cloud.SnapshotAvailable})
	w.want(202, "ann", "POST", "/v3/volumes", m{"volume": m{"snapshot_id": nothing}})
	w.refused(400, "is being created from snapshot", "ann", "DELETE", "/v3/snapshots/"+nothing, nil)
	w.takeIntent(cloud.IntentVolumeCreate)
	w.want(202, "ann", "DELETE", "/v3/snapshots/"+nothing, nil)
	w.takeIntent(cloud.IntentSnapshotDelete)
	w.want(202, "ann", "POST", "/v3/volumes", m{"volume": m{"source_volid": v.ID}})
	w.refused(400, "is being created from volume", "ann", "DELETE", "/v3/volumes/"+string(v.ID)+"?cascade=1", nil)
}

func TestMetadataOfVolumesAndSnapshots(t *testing.T) {
	w := newSite(t)
	v := w.volume()
	put(w, tables.VolumeSnapshots, nothing, cloud.VolumeSnapshot{ID: nothing, Volume: v.ID, Project: annProject, Status: cloud.SnapshotAvailable})
	for _, base := range []string{"/v3/volumes/" + string(v.ID), "/v3/snapshots/" + nothing} {
		path := base + "/metadata"
		w.want(200, "ann", "POST", path, m{"metadata": m{"a": "1", "b": "2"}})
		w.want(200, "ann", "POST", path, m{"metadata": m{"b": "3"}})
		if r := w.want(200, "ann", "GET", path, nil); fmt.Sprint(r.at("metadata")) != "map[a:1 b:3]" {
			t.Errorf("%s: %s", path, r.text)
		}
		w.want(200, "ann", "PUT", path, m{"metadata": m{"c": "4"}})
		w.want(200, "ann", "PUT", path+"/d", m{"meta": m{"d": "5"}})
		w.refused(400, "mismatch", "ann", "PUT", path+"/d", m{"meta": m{"e": "5"}})
		w.want(200, "ann", "DELETE", path+"/c", nil)
		w.refused(404, "has no metadata with key c", "ann", "DELETE", path+"/c", nil)
		w.refused(404, "has no metadata with key c", "ann", "GET", path+"/c", nil)
		if r := w.want(200, "ann", "GET", path+"/d", nil); r.str("meta", "d") != "5" {
			t.Errorf("%s: %s", path, r.text)
		}
		w.refused(400, "is not of type", "ann", "POST", path, m{"metadata": m{"a": 1}})
		w.refused(400, "at most 255", "ann", "POST", path, m{"metadata": m{"": "x"}})
		r := w.want(200, "ann@3.15", "GET", path, nil)
		tag := r.header.Get("Etag")
		if got := w.do("ann@3.15", "PUT", path, m{"metadata": m{"x": "y"}}, "If-Match", "stale"); tag == "" || got.status != 412 {
			t.Errorf("ETag %q, stale write: %d", tag, got.status)
		}
		if got := w.do("ann@3.15", "PUT", path, m{"metadata": m{"x": "y"}}, "If-Match", tag); got.status != 200 {
			t.Errorf("fresh write: %d %s", got.status, got.text)
		}
	}
}

func TestTypesAreAdministeredByAdministrators(t *testing.T) {
	w := newSite(t)
	r := w.want(200, "admin", "POST", "/v3/types", m{"volume_type": m{"name": "fast", "extra_specs": m{cloud.SpecBackend: "fast"}, "os-volume-type-access:is_public": false}})
	path := "/v3/types/" + r.str("volume_type", "id")
	w.refused(409, "already exists", "admin", "POST", "/v3/types", m{"volume_type": m{"name": "fast"}})
	w.refused(403, "type_create", "ann", "POST", "/v3/types", m{"volume_type": m{"name": "x"}})
	w.refused(400, "whole number", "admin", "POST", path+"/extra_specs", m{"extra_specs": m{cloud.SpecIOPSMax: "lots"}})
	w.refused(400, "is not known", "admin", "POST", path+"/extra_specs", m{"extra_specs": m{"godwit:colour": "red"}})
	w.refused(400, "'<is> True'", "admin", "POST", path+"/extra_specs", m{"extra_specs": m{"multiattach": "yes"}})
	w.want(200, "admin", "POST", path+"/extra_specs", m{"extra_specs": m{cloud.SpecIOPSMax: "10", "vendor:x": "y"}})
	w.want(200, "admin", "PUT", path+"/extra_specs/vendor:x", m{"vendor:x": "z"})
	w.want(202, "admin", "DELETE", path+"/extra_specs/vendor:x", nil)
	w.refused(404, "has no extra specs", "admin", "GET", path+"/extra_specs/vendor:x", nil)
	w.want(404, "ann", "GET", path, nil)
	w.want(202, "admin", "POST", path+"/action", m{"addProjectAccess": m{"project": annProject}})
	w.refused(409, "already exists", "admin", "POST", path+"/action", m{"addProjectAccess": m{"project": annProject}})
	if seen := w.want(200, "ann", "GET", path, nil); fmt.Sprint(seen.at("volume_type", "extra_specs")) != "map[]" {
		t.Errorf("ann sees %s", seen.text)
	}
	w.want(202, "admin", "POST", path+"/action", m{"removeProjectAccess": m{"project": annProject}})
	w.want(404, "ann", "GET", path, nil)
	if got := w.want(200, "ann", "GET", "/v3/types", nil); len(got.at("volume_types").([]any)) != 3 {
		t.Errorf("ann sees %s", got.text)
	}
	if got := w.want(200, "admin", "GET", "/v3/types?is_public=None", nil); len(got.at("volume_types").([]any)) != 5 {
		t.Errorf("the administrator sees %s", got.text)
	}
	v := w.volume(func(v *cloud.Volume) { v.Type = cloud.VolumeTypeID(r.str("volume_type", "id")) })
	w.refused(400, "still in use", "admin", "DELETE", path, nil)
	w.change(func(tx *store.Tx) error { return store.Delete(tx, tables.Volumes, v.ID) })
	w.want(202, "admin", "DELETE", path, nil)
	w.refused(400, "default type", "admin", "DELETE", "/v3/types/"+string(w.defaultType()), nil)
	if got := w.want(200, "ann", "GET", "/v3/types/default", nil); got.str("volume_type", "name") != cloud.DefaultVolumeType {
		t.Errorf("%s", got.text)
	}
}
