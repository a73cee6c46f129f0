package volume

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/godwit-cloud/godwit/internal/attachments"
	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
	"github.com/godwit-cloud/godwit/internal/volumebook"
)

// act asks for an action on a volume.
func (w *site) act(status int, who string, v cloud.VolumeID, action string, arguments any) reply {
	w.Helper()
	return w.want(status, who, "POST", "/v3/volumes/"+string(v)+"/action", m{action: arguments})
}

// actRefused is refused for an action on a volume.
func (w *site) actRefused(status int, text, who string, v cloud.VolumeID, action string, arguments any) {
	w.Helper()
	w.refused(status, text, who, "POST", "/v3/volumes/"+string(v)+"/action", m{action: arguments})
}

func TestAVolumeGrowsAlsoInUse(t *testing.T) {
	w := newSite(t)
	v := w.volume()
	used := w.volume(func(v *cloud.Volume) { v.Status = cloud.VolumeInUse })
	w.act(202, "ann", v.ID, "os-extend", m{"new_size": 5})
	if i := w.takeIntent(cloud.IntentVolumeExtend); i.SizeGiB != 5 || i.Volume != v.ID {
		t.Errorf("%+v", i)
	}
	if got := w.stored(v.ID); got.Status != cloud.VolumeExtending || got.SizeGiB != 2 || got.PreviousStatus != cloud.VolumeAvailable {
		t.Errorf("%+v", got)
	}
	if u := volumebook.Usage(w.store, annProject); u.GiB != 3 {
		t.Errorf("usage %+v", u)
	}
	w.actRefused(400, "currently extending", "ann", v.ID, "os-extend", m{"new_size": 9})
	w.actRefused(400, "status must be 'available' to extend", "ann@3.41", used.ID, "os-extend", m{"new_size": 9})
	w.act(202, "ann@3.42", used.ID, "os-extend", m{"new_size": "9"})
	other := w.volume()
	w.actRefused(400, "must be greater than current size. (current: 2, extended: 2)", "ann", other.ID, "os-extend", m{"new_size": 2})
	w.actRefused(400, "is not of type", "ann", other.ID, "os-extend", m{"new_size": "big"})
	w.actRefused(400, "required", "ann", other.ID, "os-extend", m{})
	w.actRefused(413, "exceeds allowed gigabytes quota", "ann", other.ID, "os-extend", m{"new_size": 5000})
	w.actRefused(400, "no such action: os-explode", "ann", other.ID, "os-explode", m{})
	w.refused(400, "names 2 actions", "ann", "POST", "/v3/volumes/"+string(other.ID)+"/action", m{"os-extend": m{"new_size": 3}, "os-reserve": nil})
	w.actRefused(403, "volume:extend", "ray", other.ID, "os-extend", m{"new_size": 3})
}

func TestAVolumeBecomesAnImage(t *testing.T) {
	w := newSite(t)
	v := w.volume(func(v *cloud.Volume) {
		v.ImageMetadata = map[string]string{"image_id": imageID, "size": "1", "hw_disk_bus": "virtio"}
	})
	r := w.act(202, "ann@3.1", v.ID, "os-volume_upload_image", m{"image_name": "copy", "visibility": "private"})
	i := w.takeIntent(cloud.IntentVolumeUpload)
	image, ok := store.Lookup(w.store, tables.Images, i.Image)
	if !ok || image.Status != cloud.ImageQueued || image.Owner != annProject || image.DiskFormat != "raw" || fmt.Sprint(image.Properties) != "map[hw_disk_bus:virtio]" {
		t.Errorf("image %+v", image)
	}
	if r.str("os-volume_upload_image", "image_id") != string(i.Image) || w.stored(v.ID).Status != cloud.VolumeUploading {
		t.Errorf("%s, volume is %s", r.text, w.stored(v.ID).Status)
	}
	used := w.volume(func(v *cloud.Volume) { v.Status = cloud.VolumeInUse })
	w.actRefused(400, "current status is: in-use", "ann", used.ID, "os-volume_upload_image", m{"image_name": "x"})
	w.act(202, "ann", used.ID, "os-volume_upload_image", m{"image_name": "x", "force": true})
	w.actRefused(400, "qcow2 in bare is not offered", "ann", used.ID, "os-volume_upload_image", m{"image_name": "x", "disk_format": "qcow2"})
	w.actRefused(400, "unexpected", "ann", used.ID, "os-volume_upload_image", m{"image_name": "x", "protected": true})
	w.actRefused(403, "upload_public", "ann@3.1", used.ID, "os-volume_upload_image", m{"image_name": "x", "visibility": "public"})
}

func TestRetypeMovesDataOnlyWhenAsked(t *testing.T) {
	w := newSite(t)
	v := w.volume()
	w.actRefused(400, "Retype requires migration but is not allowed", "ann", v.ID, "os-retype", m{"new_type": "gold"})
	w.actRefused(404, "Volume type with name secret", "ann", v.ID, "os-retype", m{"new_type": "secret"})
	w.actRefused(400, "same as original", "ann", v.ID, "os-retype", m{"new_type": cloud.DefaultVolumeType})
	w.actRefused(400, "is not one of", "ann", v.ID, "os-retype", m{"new_type": "gold", "migration_policy": "sometimes"})
	used := w.volume(func(v *cloud.Volume) { v.Status = cloud.VolumeInUse })
	w.actRefused(400, "available state", "ann", used.ID, "os-retype", m{"new_type": "gold", "migration_policy": "on-demand"})
	w.actRefused(400, "multiattach", "ann", used.ID, "os-retype", m{"new_type": "shared"})
	w.act(202, "ann", v.ID, "os-retype", m{"new_type": "gold", "migration_policy": "on-demand"})
	if i := w.takeIntent(cloud.IntentVolumeRetype); i.VolumeType != "7a000000-0000-4000-8000-000000000001" {
		t.Errorf("%+v", i)
	}
	if got := w.stored(v.ID); got.Status != cloud.VolumeRetyping || got.MigrationStatus != "migrating" {
		t.Errorf("%+v", got)
	}
}

func TestRevertGoesToTheLatestSnapshotOnly(t *testing.T) {
	w := newSite(t)
	v := w.volume(func(v *cloud.Volume) { v.SnapshotIDs = []cloud.SnapshotID{"old", "new"} })
	for _, id := range v.SnapshotIDs {
		put(w, tables.VolumeSnapshots, id, cloud.VolumeSnapshot{ID: id, Volume: v.ID, Project: annProject, SizeGiB: 2, Status: cloud.SnapshotAvailable})
	}
	w.actRefused(400, "no such action: revert", "ann@3.39", v.ID, "revert", m{"snapshot_id": "new"})
	w.actRefused(400, "not the latest one", "ann@3.40", v.ID, "revert", m{"snapshot_id": "old"})
	w.act(202, "ann@3.40", v.ID, "revert", m{"snapshot_id": "new"})
	if i := w.takeIntent(cloud.IntentVolumeRevert); i.Snapshot != "new" {
		t.Errorf("%+v", i)
	}
	if s, _ := store.Lookup(w.store, tables.VolumeSnapshots, "new"); s.Status != cloud.SnapshotRestoring || w.stored(v.ID).Status != cloud.VolumeReverting {
		t.Errorf("snapshot %s, volume %s", s.Status, w.stored(v.ID).Status)
	}
	w.actRefused(409, "must be available to revert", "ann@3.40", v.ID, "revert", m{"snapshot_id": "new"})
	w.actRefused(400, "has no snapshots", "ann@3.40", w.volume().ID, "revert", m{"snapshot_id": "new"})
}

func TestAVolumeThatNobodyUsesGetsTheDataOfAnImage(t *testing.T) {
	w := newSite(t)
	to := m{"image_id": imageID, "reimage_reserved": false}
	for _, status := range []cloud.VolumeStatus{cloud.VolumeAvailable, cloud.VolumeError} {
		v := w.volume(func(v *cloud.Volume) { v.Status = status })
		w.actRefused(400, "no such action: os-reimage", "ann@3.67", v.ID, "os-reimage", to)
		w.actRefused(404, "could not be found", "bob@3.68", v.ID, "os-reimage", to)
		w.actRefused(403, "volume_actions:reimage", "ray@3.68", v.ID, "os-reimage", to)
		w.actRefused(400, "required", "ann@3.68", v.ID, "os-reimage", m{})
		w.actRefused(400, "Invalid image identifier", "ann@3.68", v.ID, "os-reimage", m{"image_id": nothing})
		w.actRefused(400, "is not a 'uuid'", "ann@3.68", v.ID, "os-reimage", m{"image_id": "guest"})
		w.act(202, "ann@3.68", v.ID, "os-reimage", to)
		i := w.takeIntent(cloud.IntentVolumeReimage)
		if i.Volume != v.ID || i.Reimage == nil || i.Reimage.Image != imageID || i.Reimage.Format != "qcow2" || i.Reimage.Bytes != 300<<20 || i.Reimage.Hash == "" {
			t.Errorf("%+v", i)
		}
		if got := w.stored(v.ID); got.Status != cloud.VolumeDownloading || got.SourceImage != "" {
			t.Errorf("%+v", got)
		}
		w.actRefused(400, "current status is: downloading", "ann@3.68", v.ID, "os-reimage", to)
	}
}

func TestAVolumeThatSomebodyUsesIsNotReimaged(t *testing.T) {
	w := newSite(t)
	to := m{"image_id": imageID}
	in := func(change func(*cloud.Volume)) cloud.VolumeID { return w.volume(change).ID }
	w.actRefused(400, "current status is: in-use", "ann@3.68", in(func(v *cloud.Volume) { v.Status = cloud.VolumeInUse }), "os-reimage", to)
	w.actRefused(400, "current status is: error_deleting", "ann@3.68", in(func(v *cloud.Volume) { v.Status = cloud.VolumeErrorDeleting }), "os-reimage", to)
	w.actRefused(400, "has attachments", "ann@3.68", in(func(v *cloud.Volume) { v.AttachmentIDs = []cloud.AttachmentID{"a"} }), "os-reimage", to)
	w.actRefused(400, "was never made", "ann@3.68", in(func(v *cloud.Volume) { v.Status, v.Service = cloud.VolumeError, "" }), "os-reimage", to)
	w.actRefused(400, "image minDisk size", "ann@3.68", in(func(*cloud.Volume) {
		w.change(func(tx *store.Tx) error {
			i, err := store.Get(tx, tables.Images, imageID)
			i.MinDiskGiB = 3
			return errors.Join(err, store.Put(tx, tables.Images, i.ID, i))
		})
	}), "os-reimage", to)
	reserved := in(func(v *cloud.Volume) { v.Status = cloud.VolumeReserved })
	w.actRefused(400, "current status is: reserved", "ann@3.68", reserved, "os-reimage", to)
	w.actRefused(501, "rebuild the server", "ann@3.68", reserved, "os-reimage", m{"image_id": imageID, "reimage_reserved": "true"})
	if i := w.intents(); len(i) != 0 {
		t.Errorf("%+v", i)
	}
}

func TestSmallActions(t *testing.T) {
	w := newSite(t)
	v := w.volume()
	w.act(200, "ann", v.ID, "os-set_bootable", m{"bootable": "True"})
	w.act(202, "ann", v.ID, "os-update_readonly_flag", m{"readonly": true})
	if got := w.stored(v.ID); !got.Bootable || !got.ReadOnly {
		t.Errorf("%+v", got)
	}
	if r := w.want(200, "ann", "GET", "/v3/volumes/"+string(v.ID), nil); r.str("volume", "metadata", "readonly") != "True" {
		t.Errorf("%s", r.text)
	}
	w.act(200, "ann", v.ID, "os-set_image_metadata", m{"metadata": m{"hw_disk_bus": "scsi"}})
	if r := w.act(200, "ann", v.ID, "os-show_image_metadata", nil); r.str("metadata", "hw_disk_bus") != "scsi" {
		t.Errorf("%s", r.text)
	}
	w.act(200, "ann", v.ID, "os-unset_image_metadata", m{"key": "hw_disk_bus"})
	w.actRefused(404, "Metadata item was not found", "ann", v.ID, "os-unset_image_metadata", m{"key": "hw_disk_bus"})
	w.actRefused(403, "reset_status", "ann", v.ID, "os-reset_status", m{"status": "error"})
	w.actRefused(400, "valid status", "admin", v.ID, "os-reset_status", m{"status": "happy"})
	w.act(202, "admin", v.ID, "os-reset_status", m{"status": "error"})
	if got := w.stored(v.ID); got.Status != cloud.VolumeError {
		t.Errorf("volume is %s", got.Status)
	}
	w.want(200, "ann", "PUT", "/v3/volumes/"+string(v.ID), m{"volume": m{"name": "new", "description": "text"}})
	if got := w.stored(v.ID); got.Name != "new" || got.Description != "text" {
		t.Errorf("%+v", got)
	}
	w.refused(400, "enough properties", "ann@3.53", "PUT", "/v3/volumes/"+string(v.ID), m{"volume": m{}})
	w.refused(400, "unexpected", "ann@3.53", "PUT", "/v3/volumes/"+string(v.ID), m{"volume": m{"size": 3}})
	for action, status := range map[string]int{
		"os-attach": 501, "os-initialize_connection": 501, "os-terminate_connection": 501, "os-migrate_volume": 501, "os-unmanage": 501, "os-reimage": 400,
	} {
		w.act(status, "ann", v.ID, action, m{})
	}
}

func TestReservationsAreKeptAndGivenBack(t *testing.T) {
	w := newSite(t)
	v := w.volume()
	w.act(202, "ann", v.ID, "os-reserve", nil)
	w.actRefused(400, "must be available or downloading to reserve, but the current status is reserved", "ann", v.ID, "os-reserve", nil)
	w.act(202, "ann", v.ID, "os-unreserve", nil)
	if got := w.stored(v.ID); got.Status != cloud.VolumeAvailable || len(got.AttachmentIDs) != 0 {
		t.Errorf("%+v", got)
	}
	r := w.want(200, "ann@3.54", "POST", "/v3/attachments", m{"attachment": m{"volume_uuid": v.ID, "instance_uuid": serverID, "mode": "ro"}})
	id := r.str("attachment", "id")
	if r.str("attachment", "status") != "reserved" || r.str("attachment", "attach_mode") != "ro" || w.stored(v.ID).Status != cloud.VolumeReserved {
		t.Errorf("%s", r.text)
	}
	w.refused(400, "status must be available", "ann@3.27", "POST", "/v3/attachments", m{"attachment": m{"volume_uuid": v.ID, "instance_uuid": nothing}})
	w.refused(501, "compute service", "ann@3.27", "POST", "/v3/attachments", m{"attachment": m{"volume_uuid": v.ID, "instance_uuid": nothing, "connector": m{"host": "x"}}})
	w.refused(501, "compute service", "ann@3.27", "PUT", "/v3/attachments/"+id, m{"attachment": m{"connector": m{"host": "x"}}})
	w.refused(400, "only the compute service connects", "ann@3.44", "POST", "/v3/attachments/"+id+"/action", m{"os-complete": nil})
	w.refused(404, "attachment_id = "+id, "bob@3.27", "GET", "/v3/attachments/"+id, nil)
	w.refused(400, "is not a 'uuid'", "ann@3.27", "POST", "/v3/attachments", m{"attachment": m{"volume_uuid": v.ID, "instance_uuid": "x"}})
	for _, query := range []string{"", "?volume_id=" + string(v.ID), "?instance_id=" + serverID, "?status=reserved"} {
		if got := w.want(200, "ann@3.27", "GET", "/v3/attachments"+query, nil); !strings.Contains(string(got.text), id) {
			t.Errorf("%q: %s", query, got.text)
		}
	}
	w.want(200, "ann@3.27", "DELETE", "/v3/attachments/"+id, nil)
	w.want(404, "ann@3.27", "GET", "/v3/attachments/"+id, nil)
	if got := w.stored(v.ID); got.Status != cloud.VolumeAvailable {
		t.Errorf("volume is %s", got.Status)
	}
}

func TestWhatAServerUsesIsDetachedThroughCompute(t *testing.T) {
	w := newSite(t)
	v := w.volume()
	w.change(func(tx *store.Tx) error {
		_, err := attachments.Reserve(tx, attachments.Reservation{ID: "a", Volume: v.ID, Server: serverID, Project: annProject, Now: noon})
		if err != nil {
			return err
		}
		return attachments.Complete(tx, "a", noon)
	})
	through := "Detach volume from instance " + serverID + " using the Compute API"
	w.refused(409, through, "ann@3.27", "DELETE", "/v3/attachments/a", nil)
	w.actRefused(409, through, "ann", v.ID, "os-detach", m{"attachment_id": "a"})
	w.actRefused(409, through, "admin", v.ID, "os-begin_detaching", nil)
	w.want(204, "ann@3.44", "POST", "/v3/attachments/a/action", m{"os-complete": nil})
	if got := w.stored(v.ID); got.Status != cloud.VolumeInUse {
		t.Errorf("volume is %s", got.Status)
	}
	w.act(202, "ann", w.volume().ID, "os-detach", m{})
}

func TestAnAdministratorGivesUpWhatADeadServerLeft(t *testing.T) {
	w := newSite(t)
	v := w.volume()
	w.change(func(tx *store.Tx) error {
		_, err := attachments.Reserve(tx, attachments.Reservation{ID: "a", Volume: v.ID, Server: serverID, Project: annProject, Now: noon})
		if err != nil {
			return err
		}
		return attachments.Complete(tx, "a", noon)
	})
	put(w, tables.Servers, serverID, cloud.Server{ID: serverID, Project: annProject})
	w.actRefused(409, "using the Compute API", "admin", v.ID, "os-reset_status", m{"attach_status": "detached"})
	w.change(func(tx *store.Tx) error { return store.Delete(tx, tables.Servers, serverID) })
	w.act(202, "admin", v.ID, "os-reset_status", m{"attach_status": "detached"})
	if got := w.stored(v.ID); got.Status != cloud.VolumeAvailable || len(got.AttachmentIDs) != 0 {
		t.Errorf("%+v", got)
	}
	w.actRefused(400, "has no attachment", "admin", v.ID, "os-reset_status", m{"attach_status": "attached"})
}
