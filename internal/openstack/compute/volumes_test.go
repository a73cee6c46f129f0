package compute

import (
	"fmt"
	"slices"
	"testing"

	"github.com/godwit-cloud/godwit/internal/attachments"
	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

func volumeID(i int) cloud.VolumeID {
	return cloud.VolumeID(fmt.Sprintf("70000000-0000-4000-8000-%012d", i))
}

// addVolume puts an available, bootable volume of ann's in.
func (w *site) addVolume(i int, change ...func(*cloud.Volume)) cloud.VolumeID {
	w.Helper()
	v := cloud.Volume{ID: volumeID(i), Project: annProject, User: "ann", SizeGiB: 2, Type: "t", Status: cloud.VolumeAvailable, Bootable: true, Service: "storage-1", Backend: "main",
		Created: noon, Updated: noon}
	for _, c := range change {
		c(&v)
	}
	put(w, tables.Volumes, v.ID, v)
	put(w, tables.VolumeTypes, cloud.VolumeTypeID("t"), cloud.VolumeType{ID: "t", Name: cloud.DefaultVolumeType, Public: true})
	return v.ID
}

func (w *site) volume(id cloud.VolumeID) *cloud.Volume {
	w.Helper()
	v, ok := store.Lookup(w.store, tables.Volumes, id)
	if !ok {
		w.Fatalf("volume %s is gone", id)
	}
	return v
}

// arrive plays the flow that attached the server's volumes.
func (w *site) arrive(id cloud.ServerID) {
	w.Helper()
	for _, d := range w.server(id).Devices {
		w.change(func(tx *store.Tx) error { return attachments.Complete(tx, d.Attachment, noon) })
	}
	w.settle(id)
}

func attachPath(s *cloud.Server, volume ...cloud.VolumeID) string {
	path := "/servers/" + string(s.ID) + "/os-volume_attachments"
	for _, v := range volume {
		path += "/" + string(v)
	}
	return path
}

func attachTo(v cloud.VolumeID, more ...any) m {
	body := m{"volumeId": v}
	for i := 0; i+1 < len(more); i += 2 {
		body[more[i].(string)] = more[i+1]
	}
	return m{"volumeAttachment": body}
}

func TestAVolumeIsAttachedShownAndDetached(t *testing.T) {
	w := newSite(t)
	s, v := w.addServer(1, "compute-1", func(s *cloud.Server) { s.ConfigDrive = true }), w.addVolume(1)
	r := w.want(200, "ann", 79, "POST", attachPath(s), attachTo(v, "delete_on_termination", true))
	if r.str("volumeAttachment", "device") != "/dev/vdc" || r.str("volumeAttachment", "id") != string(v) || r.at("volumeAttachment", "delete_on_termination") != true {
		t.Errorf("answer %s", r.text) // vdb is what the guest calls its config drive
	}
	if intents := w.intents(s.ID); len(intents) != 1 || intents[0].Kind != cloud.IntentAttach || intents[0].Volume != v || intents[0].Attachment == "" {
		t.Errorf("intents %+v", intents)
	}
	if got := w.volume(v); got.Status != cloud.VolumeReserved || len(got.AttachmentIDs) != 1 {
		t.Errorf("volume %+v", got)
	}
	w.refused(400, "status must be 'in-use'", "ann", 95, "DELETE", attachPath(s, v), nil)
	w.arrive(s.ID)

	for minor, want := range map[int][]string{1: {"device", "id", "serverId", "volumeId"}, 70: {"device", "id", "serverId", "tag", "volumeId"},
		79: {"delete_on_termination", "device", "id", "serverId", "tag", "volumeId"},
		89: {"attachment_id", "bdm_uuid", "delete_on_termination", "device", "serverId", "tag", "volumeId"}} {
		for _, one := range []map[string]any{w.want(200, "ray", minor, "GET", attachPath(s), nil).list("volumeAttachments")[0],
			w.want(200, "ray", minor, "GET", attachPath(s, v), nil).at("volumeAttachment").(map[string]any)} {
			if got := sortedKeys(one); !slices.Equal(got, want) {
				t.Errorf("2.%d shows %v, want %v", minor, got, want)
			}
		}
	}
	shown := w.want(200, "ann", 3, "GET", "/servers/"+string(s.ID), nil).at("server", "os-extended-volumes:volumes_attached")
	if fmt.Sprint(shown) != fmt.Sprintf("[map[delete_on_termination:true id:%s]]", v) {
		t.Errorf("volumes_attached %v", shown)
	}
	w.want(202, "ann", 85, "PUT", attachPath(s, v), attachTo(v, "delete_on_termination", false))
	if w.server(s.ID).Devices[0].DeleteOnTermination {
		t.Error("delete_on_termination was not changed")
	}
	w.want(202, "ann", 1, "DELETE", attachPath(s, v), nil)
	if w.volume(v).Status != cloud.VolumeDetaching || w.intents(s.ID)[0].Kind != cloud.IntentDetach {
		t.Errorf("volume %s, intents %+v", w.volume(v).Status, w.intents(s.ID))
	}
}

func TestAttachmentsNovaRefusesAreRefused(t *testing.T) {
	w := newSite(t)
	s, other := w.addServer(1, "compute-1"), w.addServer(2, "compute-2")
	v, used := w.addVolume(1), w.addVolume(2)
	shared := w.addVolume(3, func(v *cloud.Volume) { v.Multiattach = true })
	foreign := w.addVolume(4, func(v *cloud.Volume) { v.Project = bobProject })
	broken := w.addVolume(5, func(v *cloud.Volume) { v.Status = cloud.VolumeError })
	w.want(200, "ann", 1, "POST", attachPath(s), attachTo(used, "device", "/dev/vdd"))
	w.arrive(s.ID)
	w.want(200, "ann", 60, "POST", attachPath(s), attachTo(shared))
	w.arrive(s.ID)
	for _, c := range []struct {
		status  int
		message string
		as      string
		minor   int
		method  string
		path    string
		body    any
	}{
		{400, "status must be available", "ann", 95, "POST", attachPath(other), attachTo(used)},
		{400, "already attached", "ann", 95, "POST", attachPath(s), attachTo(used)},
		{404, "could not be found", "ann", 95, "POST", attachPath(s), attachTo(volumeID(99))},
		{404, "could not be found", "ann", 95, "POST", attachPath(s), attachTo(foreign)},
		{400, "current status is error", "ann", 95, "POST", attachPath(s), attachTo(broken)},
		{409, "(/dev/vdd) is in use", "ann", 95, "POST", attachPath(s), attachTo(v, "device", "/dev/vdd")},
		{409, "(/dev/vda) is in use", "ann", 95, "POST", attachPath(s), attachTo(v, "device", "vda")},
		{400, "is invalid", "ann", 95, "POST", attachPath(s), attachTo(v, "device", "/dev/sda1")},
		{400, "'tag' was unexpected", "ann", 48, "POST", attachPath(s), attachTo(v, "tag", "x")},
		{400, "not supported", "ann", 49, "POST", attachPath(s), attachTo(v, "tag", "x")},
		{400, "'delete_on_termination' was unexpected", "ann", 78, "POST", attachPath(s), attachTo(v, "delete_on_termination", true)},
		{400, "'x' is not a 'uuid'", "ann", 95, "POST", attachPath(s), attachTo("x")},
		{400, "is a required property", "ann", 95, "POST", attachPath(s), m{"volumeAttachment": m{}}},
		{400, "2.60", "ann", 59, "POST", attachPath(other), attachTo(shared)},
		{404, "is not attached", "ann", 95, "GET", attachPath(s, v), nil},
		{404, "is not attached", "ann", 95, "DELETE", attachPath(other, used), nil},
		{404, "could not be found", "ann", 95, "DELETE", attachPath(s, volumeID(99)), nil},
		{403, "swap", "ann", 95, "PUT", attachPath(s, used), attachTo(v)},
		{501, "Swapping", "admin", 95, "PUT", attachPath(s, used), attachTo(v)},
		{400, "cannot be changed", "ann", 95, "PUT", attachPath(s, used), attachTo(used, "device", "/dev/vde")},
		{404, "could not be found", "bob", 95, "POST", attachPath(s), attachTo(foreign)},
		{403, "os-volumes-attachments:create", "ray", 95, "POST", attachPath(s), attachTo(v)},
	} {
		w.refused(c.status, c.message, c.as, c.minor, c.method, c.path, c.body)
	}
	w.want(200, "ann", 60, "POST", attachPath(other), attachTo(shared)) // its type allows it
	w.settle(s.ID, func(s *cloud.Server) { s.Task = cloud.TaskMigrating })
	w.refused(409, "Cannot 'attach_volume' instance "+string(s.ID)+" while it is in task_state migrating", "ann", 95, "POST", attachPath(s), attachTo(v))
	w.refused(409, "Cannot 'detach_volume' instance "+string(s.ID)+" while it is in task_state migrating", "ann", 95, "DELETE", attachPath(s, used), nil)
	w.settle(s.ID, func(s *cloud.Server) { s.Locked = true })
	w.refused(409, "is locked", "ann", 95, "POST", attachPath(s), attachTo(v))
	if got := w.volume(v); got.Status != cloud.VolumeAvailable {
		t.Errorf("after all the refusals the volume is %s", got.Status)
	}
}

// made boots a server with the block devices and returns its record.
func (w *site) made(minor int, change m) *cloud.Server {
	w.Helper()
	body := newServer(change)
	r := w.want(202, "ann", minor, "POST", "/servers", body)
	return w.server(cloud.ServerID(r.str("server", "id")))
}

func TestAServerBootsFromAVolumeInBothForms(t *testing.T) {
	w := newSite(t)
	for i, c := range []struct {
		name    string
		devices func(v cloud.VolumeID) m
		image   cloud.ImageID
	}{
		{"old with an image", func(v cloud.VolumeID) m {
			return m{"block_device_mapping": []m{{"device_name": "vda", "volume_id": v, "delete_on_termination": "0"}}}
		}, imageID},
		{"old without an image", func(v cloud.VolumeID) m {
			return m{"imageRef": "", "block_device_mapping": []m{{"device_name": "/dev/vda", "volume_id": v, "delete_on_termination": "0"}}}
		}, ""},
		{"new", func(v cloud.VolumeID) m {
			return m{"imageRef": "", "block_device_mapping_v2": []m{{"source_type": "volume", "destination_type": "volume", "uuid": v, "boot_index": 0, "delete_on_termination": true}}}
		}, ""},
	} {
		v := w.addVolume(i + 1)
		s := w.made(95, c.devices(v))
		root := s.RootDevice()
		if root == nil || root.Volume != v || root.Device != "/dev/vda" || root.DeleteOnTermination != (c.name == "new") || s.Image != c.image || s.Resources().DiskGiB != 0 {
			t.Errorf("%s: server %+v", c.name, s)
		}
		if a, ok := store.Lookup(w.store, tables.Attachments, root.Attachment); !ok || a.Server != s.ID || w.volume(v).Status != cloud.VolumeReserved {
			t.Errorf("%s: attachment %+v, volume %s", c.name, a, w.volume(v).Status)
		}
	}
}

// What a client sends that is old enough for `nova boot --block_device_mapping vda=VOLUME:::0`.
func TestClientsOfOldBootFromVolumesByTheOldPath(t *testing.T) {
	w := newSite(t)
	v := w.addVolume(1)
	body := newServer(m{"block_device_mapping": []m{{"device_name": "vda", "volume_id": v, "volume_size": "", "delete_on_termination": "0"}}})
	id := w.want(202, "ann", 37, "POST", "/os-volumes_boot", body).str("server", "id")
	if root := w.server(cloud.ServerID(id)).RootDevice(); root == nil || root.Volume != v || root.DeleteOnTermination {
		t.Errorf("booted with %+v", root)
	}
	if got := w.want(200, "ann", 37, "GET", "/os-volumes_boot/"+id, nil).str("server", "id"); got != id {
		t.Errorf("shown as %s", got)
	}
}

func TestABootMakesTheVolumesItNeeds(t *testing.T) {
	w := newSite(t)
	data := w.addVolume(1)
	put(w, tables.VolumeSnapshots, cloud.SnapshotID("75000000-0000-4000-8000-000000000001"), cloud.VolumeSnapshot{ID: "75000000-0000-4000-8000-000000000001", Volume: data,
		Project: annProject, SizeGiB: 2, Status: cloud.SnapshotAvailable})
	s := w.made(95, m{"imageRef": "", "config_drive": true, "block_device_mapping_v2": []m{
		{"source_type": "image", "destination_type": "volume", "uuid": imageID, "boot_index": 0, "volume_size": 3, "delete_on_termination": true},
		{"source_type": "snapshot", "destination_type": "volume", "uuid": "75000000-0000-4000-8000-000000000001"},
		{"source_type": "blank", "destination_type": "volume", "volume_size": 1, "device_name": "/dev/vdf"},
		{"source_type": "volume", "destination_type": "volume", "uuid": data},
	}})
	var names []string
	for _, d := range s.Devices {
		names = append(names, d.Device)
		v := w.volume(d.Volume)
		if d.Volume == data {
			continue
		}
		asked := slices.ContainsFunc(store.All(w.store, tables.Intents), func(i *cloud.Intent) bool { return i.Kind == cloud.IntentVolumeCreate && i.Volume == v.ID })
		if v.Status != cloud.VolumeCreating || v.DeleteOnServerOf != s.ID || len(v.AttachmentIDs) != 1 || !asked {
			t.Errorf("%s: volume %+v, asked for %v", d.Device, v, asked)
		}
	}
	if !slices.Equal(names, []string{"/dev/vda", "/dev/vdb", "/dev/vdf", "/dev/vdc"}) {
		t.Errorf("devices %v", names)
	}
	if used, _ := store.Lookup(w.store, tables.VolumeUsages, cloud.ProjectID(annProject)); used == nil || used.Volumes != 3 || used.GiB != 6 {
		t.Errorf("quota %+v", used)
	}
}

func TestBlockDevicesNovaRefusesAreRefused(t *testing.T) {
	w := newSite(t)
	v, second := w.addVolume(1), w.addVolume(2)
	foreign := w.addVolume(3, func(v *cloud.Volume) { v.Project = bobProject })
	data := w.addVolume(4, func(v *cloud.Volume) { v.Bootable = false })
	busy := w.addVolume(5, func(v *cloud.Volume) { v.Status = cloud.VolumeInUse })
	from := func(id cloud.VolumeID, boot any) m {
		return m{"source_type": "volume", "destination_type": "volume", "uuid": id, "boot_index": boot}
	}
	for _, c := range []struct {
		message string
		change  m
	}{
		{"failed to get volume", m{"imageRef": "", "block_device_mapping_v2": []m{from(foreign, 0)}}},
		{"is not bootable", m{"imageRef": "", "block_device_mapping_v2": []m{from(data, 0)}}},
		{"current status is in-use", m{"imageRef": "", "block_device_mapping_v2": []m{from(busy, 0)}}},
		{"Boot sequence", m{"imageRef": "", "block_device_mapping_v2": []m{from(v, 1)}}},
		{"Boot sequence", m{"imageRef": "", "block_device_mapping_v2": []m{from(v, 0), from(second, 0)}}},
		{"Boot sequence", m{"imageRef": "", "block_device_mapping_v2": []m{from(v, nil)}}},
		{"Boot sequence", m{"block_device_mapping_v2": []m{from(v, 0)}}}, // an image besides
		{"Boot index is invalid", m{"imageRef": "", "block_device_mapping_v2": []m{from(v, "first")}}},
		{"Missing device UUID", m{"imageRef": "", "block_device_mapping_v2": []m{{"source_type": "volume", "destination_type": "volume", "boot_index": 0}}}},
		{"non-zero size", m{"imageRef": "", "block_device_mapping_v2": []m{{"source_type": "image", "destination_type": "volume", "uuid": imageID, "boot_index": 0}}}},
		{"non-zero size", m{"block_device_mapping_v2": []m{{"source_type": "image", "destination_type": "local", "uuid": imageID, "boot_index": 0}, {"source_type": "blank", "destination_type": "volume"}}}},
		{"Cannot attach one or more volumes to multiple instances", m{"imageRef": "", "max_count": 2, "block_device_mapping_v2": []m{from(v, 0)}}},
		{"is in use", m{"imageRef": "", "block_device_mapping_v2": []m{from(v, 0), {"source_type": "volume", "destination_type": "volume", "uuid": second, "device_name": "/dev/vda"}}}},
		{"different block_device_mapping syntaxes", m{"block_device_mapping": []m{{"device_name": "vda", "volume_id": v}}, "block_device_mapping_v2": []m{from(v, 0)}}},
	} {
		w.refused(400, c.message, "ann", 95, "POST", "/servers", newServer(c.change))
	}
	if n := store.Count(w.store, tables.Servers); n != 0 {
		t.Errorf("%d servers were made", n)
	}
	if w.volume(v).Status != cloud.VolumeAvailable || store.Count(w.store, tables.Attachments) != 0 {
		t.Errorf("the volume is %s", w.volume(v).Status)
	}
}

func TestARootVolumeIsNotDetachedAndNotCopied(t *testing.T) {
	w := newSite(t)
	v := w.addVolume(1)
	s := w.addServer(1, "compute-1", func(s *cloud.Server) {
		s.Devices = []cloud.BlockDevice{{Device: "/dev/vda", BootIndex: 0, Volume: v, Attachment: "a"}}
	})
	w.refused(403, "Cannot detach a root device volume", "ann", 95, "DELETE", attachPath(s, v), nil)
	move := func(block any) m { return m{"os-migrateLive": m{"host": nil, "block_migration": block}} }
	path := "/servers/" + string(s.ID) + "/action"
	w.refused(400, "compute-1 is not on local storage: Block migration can not be used with shared storage.", "admin", 25, "POST", path, move(true))
	w.want(202, "admin", 25, "POST", path, move(false)) // Nova: boot-from-volume with no local disks
}

func TestABootBeyondTheVolumeQuotaMakesNothing(t *testing.T) {
	w := newSite(t)
	w.addVolume(1) // for its type
	put(w, tables.VolumeQuotas, cloud.ProjectID(annProject), cloud.VolumeQuota{Project: annProject, Volumes: 1, Snapshots: -1, GiB: -1, PerVolumeGiB: -1})
	w.refused(403, "olume", "ann", 95, "POST", "/servers", newServer(m{"imageRef": "", "block_device_mapping_v2": []m{
		{"source_type": "image", "destination_type": "volume", "uuid": imageID, "boot_index": 0, "volume_size": 3},
		{"source_type": "blank", "destination_type": "volume", "volume_size": 1},
	}}))
	for name, n := range map[string]int{"servers": store.Count(w.store, tables.Servers), "volumes": store.Count(w.store, tables.Volumes) - 1,
		"ports": store.Count(w.store, tables.Ports), "intents": store.Count(w.store, tables.Intents)} {
		if n != 0 {
			t.Errorf("%d %s were made", n, name)
		}
	}
}
