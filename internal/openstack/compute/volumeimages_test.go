package compute

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// volumeBacked puts in a server of ann's that runs on the first volume and has the second as /dev/vdb.
func (w *site) volumeBacked() *cloud.Server {
	w.Helper()
	use := func(v *cloud.Volume) { v.Status = cloud.VolumeInUse }
	root, data := w.addVolume(1, use, func(v *cloud.Volume) {
		v.ImageMetadata = map[string]string{"image_id": imageID, "hw_architecture": "x86_64"}
	}), w.addVolume(2, use)
	return w.addServer(1, "compute-1", func(s *cloud.Server) {
		s.Image, s.Flavor.ExtraSpecs = "", nil
		s.Devices = []cloud.BlockDevice{
			{Device: "/dev/vda", BootIndex: 0, Volume: root, Attachment: "a", DeleteOnTermination: true}, {Device: "/dev/vdb", BootIndex: -1, Volume: data, Attachment: "b"},
		}
	})
}

// keep makes an image of a server on volumes and returns it, with the snapshots that its run would take.
func (w *site) keep(s *cloud.Server) (*cloud.Image, []*cloud.Intent) {
	w.Helper()
	r := w.want(202, "ann", 95, "POST", "/servers/"+string(s.ID)+"/action", m{"createImage": m{"name": "keep"}})
	i, ok := store.Lookup(w.store, tables.Images, cloud.ImageID(r.str("image_id")))
	if !ok {
		w.Fatalf("no image: %s", r.text)
	}
	var intents []*cloud.Intent
	for _, one := range store.All(w.store, tables.Intents) {
		if one.Kind == cloud.IntentSnapshotCreate {
			intents = append(intents, one)
		}
	}
	return i, intents
}

func TestAnImageOfAServerOnVolumesIsSnapshotsAndSaysSoInNovasProperties(t *testing.T) {
	w := newSite(t)
	s := w.volumeBacked()
	i, intents := w.keep(s)
	if i.Status != cloud.ImageQueued || i.SizeBytes != 0 || len(i.Snapshots) != 2 || i.DiskFormat != "qcow2" || i.Properties["bdm_v2"] != "True" ||
		i.Properties["root_device_name"] != "/dev/vda" || i.Properties["instance_uuid"] != string(s.ID) {
		t.Errorf("image %+v", i)
	}
	var listed []map[string]any
	if err := json.Unmarshal([]byte(i.Properties["block_device_mapping"]), &listed); err != nil || len(listed) != 2 {
		t.Fatalf("%v: %s", err, i.Properties["block_device_mapping"])
	}
	root, data := listed[0], listed[1]
	if root["source_type"] != "snapshot" || root["destination_type"] != "volume" || root["boot_index"] != float64(0) || root["volume_size"] != float64(2) ||
		root["snapshot_id"] != string(i.Snapshots[0]) || root["delete_on_termination"] != true || root["device_name"] != "/dev/vda" || root["volume_id"] != nil {
		t.Errorf("root %v", root)
	}
	if data["boot_index"] != nil || data["delete_on_termination"] != false || data["device_name"] != "/dev/vdb" {
		t.Errorf("data %v", data)
	}
	if len(intents) != 2 || intents[0].Image != i.ID || intents[1].Image != i.ID {
		t.Errorf("intents %+v", intents)
	}
	for _, id := range i.Snapshots {
		if snapshot, ok := store.Lookup(w.store, tables.VolumeSnapshots, id); !ok || snapshot.Name != "snapshot for keep" || snapshot.Status != cloud.SnapshotCreating {
			t.Errorf("snapshot %+v", snapshot)
		}
	}
	if used, _ := store.Lookup(w.store, tables.VolumeUsages, cloud.ProjectID(annProject)); used == nil || used.Snapshots != 2 {
		t.Errorf("quota %+v", used)
	}
	if got := w.server(s.ID); got.Task != cloud.TaskNone || len(w.intents(s.ID)) != 0 {
		t.Errorf("the server is busy: %q", got.Task)
	}
}

func TestAnImageOfVolumesThatCannotBeTakenLeavesNothing(t *testing.T) {
	w := newSite(t)
	s := w.volumeBacked()
	path, ask := "/servers/"+string(s.ID)+"/action", m{"createImage": m{"name": "keep"}}
	images := store.Count(w.store, tables.Images)
	put(w, tables.VolumeQuotas, cloud.ProjectID(annProject), cloud.VolumeQuota{Project: annProject, Volumes: -1, Snapshots: 1, GiB: -1, PerVolumeGiB: -1})
	w.refused(403, "Maximum number of snapshots allowed (1) exceeded", "ann", 95, "POST", path, ask)
	put(w, tables.VolumeQuotas, cloud.ProjectID(annProject), cloud.DefaultVolumeQuota(annProject))
	v := *w.volume(volumeID(2))
	v.Status = cloud.VolumeUploading
	put(w, tables.Volumes, v.ID, v)
	w.refused(400, "status must be available or in-use, but current status is: uploading", "ann", 95, "POST", path, ask)
	if n := store.Count(w.store, tables.VolumeSnapshots) + store.Count(w.store, tables.Intents) + store.Count(w.store, tables.Images) - images; n != 0 {
		t.Errorf("%d records were left", n)
	}
}

func TestAServerBootsFromAnImageMadeOfSnapshots(t *testing.T) {
	w := newSite(t)
	i, _ := w.keep(w.volumeBacked())
	boot := m{"imageRef": string(i.ID)}
	w.refused(400, "is not active", "ann", 95, "POST", "/servers", newServer(boot))
	w.change(func(tx *store.Tx) error {
		for _, id := range i.Snapshots {
			s, err := store.Get(tx, tables.VolumeSnapshots, id)
			if err != nil {
				return err
			}
			s.Status = cloud.SnapshotAvailable
			if err := store.Put(tx, tables.VolumeSnapshots, id, s); err != nil {
				return err
			}
		}
		done := *i
		done.Status = cloud.ImageActive
		return store.Put(tx, tables.Images, i.ID, done)
	})
	extra := m{"source_type": "blank", "destination_type": "volume", "volume_size": 1}
	local := m{"source_type": "image", "destination_type": "local", "uuid": string(i.ID), "boot_index": 0, "delete_on_termination": true}
	for _, c := range []struct {
		name   string
		change m
		want   string // devices with what they are made from
	}{
		{"as novaclient asks", boot, "/dev/vda=snapshot:" + string(i.Snapshots[0]) + " /dev/vdb=snapshot:" + string(i.Snapshots[1])},
		{"as openstackclient asks with a further disk", m{"imageRef": string(i.ID), "block_device_mapping_v2": []m{local, extra}},
			"/dev/vdc=blank: /dev/vda=snapshot:" + string(i.Snapshots[0]) + " /dev/vdb=snapshot:" + string(i.Snapshots[1])},
		{"with another disk in the image's place", m{"imageRef": string(i.ID), "block_device_mapping_v2": []m{{"source_type": "blank", "destination_type": "volume", "volume_size": 1, "device_name": "vdb"}}},
			"/dev/vdb=blank: /dev/vda=snapshot:" + string(i.Snapshots[0])},
	} {
		s := w.made(95, c.change)
		var got []string
		for _, d := range s.Devices {
			got = append(got, d.Device+"="+d.Source+":"+d.SourceID)
			if v := w.volume(d.Volume); v.Status != cloud.VolumeCreating || d.Source == "snapshot" && string(v.SourceSnapshot) != d.SourceID {
				t.Errorf("%s: volume %+v", c.name, v)
			}
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %v, want %s", c.name, got, c.want)
		}
		if root := s.RootDevice(); root == nil || !root.DeleteOnTermination || s.Image != i.ID || s.ImageProperties["hw_architecture"] != "x86_64" {
			t.Errorf("%s: server %+v", c.name, s)
		}
	}
	s := w.addServer(2, "compute-1", func(s *cloud.Server) { s.Flavor.ExtraSpecs = nil })
	w.refused(400, "has no data of its own", "ann", 95, "POST", "/servers/"+string(s.ID)+"/action", m{"rebuild": m{"imageRef": string(i.ID)}})
	w.refused(400, "Can not find requested image", "bob", 95, "POST", "/servers", newServer(m{"imageRef": "", "block_device_mapping_v2": []m{local}}))
}

func TestABadListOfDisksInAnImageIsRefused(t *testing.T) {
	w := newSite(t)
	for _, c := range []struct{ message, list string }{
		{"is not a list of disks", `{}`},
		{"is not a list of disks", `[{"boot_index":`},
		{"does not name its source", `[{"source_type":"snapshot","destination_type":"volume","boot_index":0}]`},
		{"does not name its source", `[{"device_name":"vda","snapshot_id":"x"}]`},
		{"Boot index is invalid", `[{"source_type":"snapshot","destination_type":"volume","snapshot_id":"x","boot_index":"first"}]`},
		{"failed to get snapshot x", `[{"source_type":"snapshot","destination_type":"volume","snapshot_id":"x","boot_index":"0"}]`},
	} {
		w.change(func(tx *store.Tx) error {
			i, err := store.Get(tx, tables.Images, cloud.ImageID(imageID))
			if err != nil {
				return err
			}
			i.Properties = map[string]string{"block_device_mapping": c.list, "bdm_v2": "True"}
			return store.Put(tx, tables.Images, i.ID, i)
		})
		w.refused(400, c.message, "ann", 95, "POST", "/servers", newServer(nil))
	}
	if n := store.Count(w.store, tables.Servers); n != 0 {
		t.Errorf("%d servers were made", n)
	}
}

func TestAServerOnAVolumeIsRebuiltByTheRulesOfItsMicroversion(t *testing.T) {
	w := newSite(t)
	s := w.volumeBacked()
	other := cloud.ImageID("60000000-0000-4000-8000-0000000000ff")
	w.change(func(tx *store.Tx) error {
		i, err := store.Get(tx, tables.Images, cloud.ImageID(imageID))
		if err != nil {
			return err
		}
		i.ID, i.VirtualBytes = other, 3<<30
		return store.Put(tx, tables.Images, other, i)
	})
	path := "/servers/" + string(s.ID) + "/action"
	rebuild := func(id cloud.ImageID) m { return m{"rebuild": m{"imageRef": string(id)}} }
	w.refused(400, "Unable to rebuild with a different image for a volume-backed server.", "ann", 92, "POST", path, rebuild(other))
	w.refused(400, "is larger than the volume", "ann", 93, "POST", path, rebuild(other))
	for _, minor := range []int{92, 93} {
		w.want(202, "ann", minor, "POST", path, rebuild(imageID))
		i := w.intents(s.ID)
		if len(i) != 1 || i[0].Kind != cloud.IntentRebuild || i[0].Reimage.KeepVolume != (minor == 92) || (i[0].Reimage.Volume == volumeID(1)) != (minor == 93) {
			t.Errorf("2.%d: %+v", minor, i)
		}
		w.settle(s.ID)
		for _, one := range i {
			w.change(func(tx *store.Tx) error { return store.Delete(tx, tables.Intents, one.ID) })
		}
	}
	v := *w.volume(volumeID(1))
	v.Multiattach = true
	put(w, tables.Volumes, v.ID, v)
	w.refused(400, "several servers may use", "ann", 93, "POST", path, rebuild(imageID))
}
