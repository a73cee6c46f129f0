package operator

import (
	"testing"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

func TestVolumeServicesShowWhatTheyPromisedAndWhetherTheyAreThere(t *testing.T) {
	w := newWorld(t)
	w.put(func(tx *store.Tx) error {
		for _, err := range []error{
			store.Put(tx, tables.VolumeServices, "storage-1", cloud.VolumeService{Name: "storage-1", Zone: "nova", Created: epoch, Updated: epoch}),
			store.Put(tx, tables.VolumeServices, "storage-2", cloud.VolumeService{Name: "storage-2", Zone: "nova", Created: epoch, Updated: epoch}),
			store.Put(tx, tables.VolumeReports, "storage-1", cloud.VolumeReport{Service: "storage-1", Engine: "io_uring", Backends: []cloud.VolumeBackend{{Name: "main"}}}),
			store.Put(tx, tables.VolumeSessions, "storage-1", cloud.HostSession{Host: "storage-1", Since: epoch, Seen: epoch}),
			store.Put(tx, tables.Volumes, "v1", cloud.Volume{ID: "v1", Service: "storage-1", SizeGiB: 5}),
			store.Put(tx, tables.Volumes, "v2", cloud.Volume{ID: "v2", Service: "storage-1", SizeGiB: 2}),
			store.Put(tx, tables.Volumes, "v3", cloud.Volume{ID: "v3", SizeGiB: 9}),
		} {
			if err != nil {
				return err
			}
		}
		return nil
	})
	list := get[struct {
		Services []VolumeService `json:"volume_services"`
	}](w, Root+"/volume-services").Services
	if len(list) != 2 {
		t.Fatalf("got %d services", len(list))
	}
	if a := list[0]; a.State != HostUp || a.Session == nil || a.Report == nil || a.Report.Engine != "io_uring" || a.Volumes != 2 || a.PromisedGiB != 7 {
		t.Errorf("storage-1: %+v", a)
	}
	if b := list[1]; b.State != HostDown || b.Session != nil || b.Report != nil || b.Volumes != 0 {
		t.Errorf("storage-2: %+v", b)
	}
}
