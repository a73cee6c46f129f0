package volume

import (
	"testing"

	"github.com/gophercloud/gophercloud/v2"
	gcattachments "github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/attachments"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/availabilityzones"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/limits"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/quotasets"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/schedulerstats"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/services"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/snapshots"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumes"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumetypes"
	"github.com/gophercloud/gophercloud/v2/pagination"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// client is gophercloud as one of the callers, at a microversion (empty: none).
func (w *site) client(as, microversion string) *gophercloud.ServiceClient {
	url := w.url + "/volume/v3/" + string(callers[as].Project) + "/"
	return &gophercloud.ServiceClient{
		ProviderClient: &gophercloud.ProviderClient{TokenID: as}, Endpoint: url, ResourceBase: url, Type: "block-storage", Microversion: microversion,
	}
}

// must fails the test on an error and otherwise returns v.
func must[T any](t *testing.T) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func all[T any](t *testing.T, p pagination.Pager, extract func(pagination.Page) ([]T, error)) []T {
	t.Helper()
	return must[[]T](t)(extract(must[pagination.Page](t)(p.AllPages(t.Context()))))
}

// settle makes a volume what the flows would have made it.
func (w *site) settle(id string, change func(*cloud.Volume)) {
	w.Helper()
	w.change(func(tx *store.Tx) error {
		v, err := store.Get(tx, tables.Volumes, id)
		if err != nil {
			return err
		}
		change(&v)
		return store.Put(tx, tables.Volumes, id, v)
	})
}

func TestGophercloudRunsAVolumesLife(t *testing.T) {
	w := newSite(t)
	ctx := t.Context()
	available := func(v *cloud.Volume) { v.Status, v.Service, v.Backend = cloud.VolumeAvailable, storage, "fast" }
	for _, microversion := range []string{"", "3.27", "3.44", "3.59", "3.70"} {
		c := w.client("ann", microversion)
		made := must[*volumes.Volume](t)(volumes.Create(ctx, c, volumes.CreateOpts{Size: 2, Name: "data", ImageID: imageID, Metadata: map[string]string{"a": "b"}}, nil).Extract())
		if made.Status != "creating" || made.Bootable != "true" || made.CreatedAt.IsZero() {
			t.Errorf("%s: %+v", microversion, made)
		}
		w.takeIntent(cloud.IntentVolumeCreate)
		w.settle(made.ID, available)
		if err := volumes.ExtendSize(ctx, c, made.ID, volumes.ExtendSizeOpts{NewSize: 3}).ExtractErr(); err != nil {
			t.Error(err)
		}
		w.takeIntent(cloud.IntentVolumeExtend)
		w.settle(made.ID, func(v *cloud.Volume) { available(v); v.SizeGiB = 3 })
		name := "renamed"
		if got := must[*volumes.Volume](t)(volumes.Update(ctx, c, made.ID, volumes.UpdateOpts{Name: &name}).Extract()); got.Name != name || got.Size != 3 {
			t.Errorf("%s: %+v", microversion, got)
		}
		if found := all(t, volumes.List(c, volumes.ListOpts{Name: name, Metadata: map[string]string{"a": "b"}}), volumes.ExtractVolumes); len(found) != 1 {
			t.Errorf("%s: found %+v", microversion, found)
		}
		snapshot := must[*snapshots.Snapshot](t)(snapshots.Create(ctx, c, snapshots.CreateOpts{VolumeID: made.ID, Name: "before"}).Extract())
		w.takeIntent(cloud.IntentSnapshotCreate)
		if got := all(t, snapshots.List(c, snapshots.ListOpts{VolumeID: made.ID}), snapshots.ExtractSnapshots); len(got) != 1 || got[0].ID != snapshot.ID {
			t.Errorf("%s: %+v", microversion, got)
		}
		w.change(func(tx *store.Tx) error {
			s, err := store.Get(tx, tables.VolumeSnapshots, snapshot.ID)
			s.Status = cloud.SnapshotAvailable
			if err != nil {
				return err
			}
			return store.Put(tx, tables.VolumeSnapshots, snapshot.ID, s)
		})
		w.gophercloudAttaches(t, microversion, made.ID)
		if err := volumes.SetBootable(ctx, c, made.ID, volumes.BootableOpts{Bootable: false}).ExtractErr(); err != nil {
			t.Error(err)
		}
		upload := must[volumes.VolumeImage](t)(volumes.UploadImage(ctx, c, made.ID, volumes.UploadImageOpts{ImageName: "copy", DiskFormat: "raw", ContainerFormat: "bare"}).Extract())
		if upload.ImageID == "" || upload.VolumeType.Name != cloud.DefaultVolumeType {
			t.Errorf("%s: %+v", microversion, upload)
		}
		w.takeIntent(cloud.IntentVolumeUpload)
		w.settle(made.ID, available)
		if err := volumes.Delete(ctx, c, made.ID, volumes.DeleteOpts{Cascade: true}).ExtractErr(); err != nil {
			t.Error(err)
		}
		w.takeIntent(cloud.IntentVolumeDelete)
		w.settle(made.ID, func(v *cloud.Volume) { v.Name = "gone" })
	}
}

// gophercloudAttaches reserves a volume and gives it back, where the microversion has attachments.
func (w *site) gophercloudAttaches(t *testing.T, microversion, id string) {
	t.Helper()
	if microversion == "" {
		return
	}
	c, ctx := w.client("ann", microversion), t.Context()
	a := must[*gcattachments.Attachment](t)(gcattachments.Create(ctx, c, gcattachments.CreateOpts{VolumeUUID: id, InstanceUUID: serverID}).Extract())
	if a.Status != "reserved" || a.VolumeID != id {
		t.Errorf("%s: %+v", microversion, a)
	}
	if got := all(t, gcattachments.List(c, gcattachments.ListOpts{VolumeID: id}), gcattachments.ExtractAttachments); len(got) != 1 {
		t.Errorf("%s: %+v", microversion, got)
	}
	if err := gcattachments.Delete(ctx, c, a.ID).ExtractErr(); err != nil {
		t.Error(err)
	}
}

func TestGophercloudAdministersVolumes(t *testing.T) {
	w := newSite(t)
	ctx, c := t.Context(), w.client("admin", "3.70")
	public := true
	made := must[*volumetypes.VolumeType](t)(volumetypes.Create(ctx, c, volumetypes.CreateOpts{Name: "bronze", IsPublic: &public, ExtraSpecs: map[string]string{cloud.SpecIOPSMax: "50"}}).Extract())
	if _, err := volumetypes.CreateExtraSpecs(ctx, c, made.ID, volumetypes.ExtraSpecsOpts{cloud.SpecBackend: "fast"}).Extract(); err != nil {
		t.Error(err)
	}
	if got := must[*volumetypes.VolumeType](t)(volumetypes.Get(ctx, c, made.ID).Extract()); got.ExtraSpecs[cloud.SpecBackend] != "fast" || !got.IsPublic {
		t.Errorf("%+v", got)
	}
	if err := volumetypes.DeleteExtraSpec(ctx, c, made.ID, cloud.SpecBackend).ExtractErr(); err != nil {
		t.Error(err)
	}
	if got := all(t, volumetypes.List(c, volumetypes.ListOpts{}), volumetypes.ExtractVolumeTypes); len(got) != 5 {
		t.Errorf("%+v", got)
	}
	if err := volumetypes.Delete(ctx, c, made.ID).ExtractErr(); err != nil {
		t.Error(err)
	}
	volumesMax := 3
	if q := must[*quotasets.QuotaSet](t)(quotasets.Update(ctx, c, annProject, quotasets.UpdateOpts{Volumes: &volumesMax}).Extract()); q.Volumes != 3 || q.Gigabytes != 1000 {
		t.Errorf("%+v", q)
	}
	if u := must[quotasets.QuotaUsageSet](t)(quotasets.GetUsage(ctx, c, annProject).Extract()); u.Volumes.Limit != 3 {
		t.Errorf("%+v", u)
	}
	if l := must[*limits.Limits](t)(limits.Get(ctx, w.client("ann", "")).Extract()); l.Absolute.MaxTotalVolumes != 3 {
		t.Errorf("%+v", l)
	}
	if got := all(t, services.List(c, services.ListOpts{}), services.ExtractServices); len(got) != 1 || got[0].State != "up" {
		t.Errorf("%+v", got)
	}
	if got := all(t, schedulerstats.List(c, schedulerstats.ListOpts{Detail: true}), schedulerstats.ExtractStoragePools); len(got) != 2 || got[0].Capabilities.VolumeBackendName != "fast" {
		t.Errorf("%+v", got)
	}
	if got := all(t, availabilityzones.List(c), availabilityzones.ExtractAvailabilityZones); len(got) != 1 || !got[0].ZoneState.Available {
		t.Errorf("%+v", got)
	}
}
