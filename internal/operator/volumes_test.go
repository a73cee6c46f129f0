package operator

import (
	"errors"
	"slices"
	"strings"
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

// TestAVolumeWhoseServersStandStillIsNamedInTheListAndInTheStream, with its name and servers, when it begins and when it is over.
func TestAVolumeWhoseServersStandStillIsNamedInTheListAndInTheStream(t *testing.T) {
	w := newWorld(t)
	w.hosts("a")
	guest := w.guest("web", "a")
	report := func(troubles ...cloud.VolumeTrouble) {
		w.put(func(tx *store.Tx) error {
			return store.Put(tx, tables.VolumeReports, "storage-1", cloud.VolumeReport{Service: "storage-1", At: epoch,
				Backends: []cloud.VolumeBackend{{Name: "main"}, {Name: "second", Troubles: troubles, Troubled: len(troubles)}}})
		})
	}
	w.put(func(tx *store.Tx) error {
		return errors.Join(
			store.Put(tx, tables.VolumeServices, "storage-1", cloud.VolumeService{Name: "storage-1", Zone: "nova", Created: epoch, Updated: epoch}),
			store.Put(tx, tables.Volumes, "v1", cloud.Volume{ID: "v1", Name: "data", Service: "storage-1", SizeGiB: 5}),
			store.Put(tx, tables.Attachments, "at1", cloud.Attachment{ID: "at1", Volume: "v1", Server: guest.ID}),
		)
	})
	full := cloud.VolumeTrouble{Volume: "v1", What: cloud.TroubleFull, Since: epoch}
	report()
	in, other := w.listen("", adminToken), w.listen("?server="+string(guest.ID), adminToken)
	in.until(EventReady)
	other.until(EventReady)
	report(full)
	for name, stream := range map[string]*eventStream{"all": in, "of the server": other} {
		events := stream.until(EventVolumeTrouble)
		got := decode[VolumeTrouble](stream, events[len(events)-1])
		if got.Volume != "v1" || got.Name != "data" || got.Backend != "second" || got.Service != "storage-1" || got.What != cloud.TroubleFull || got.Over ||
			!slices.Equal(got.Servers, []cloud.ServerID{guest.ID}) {
			t.Errorf("%s: %+v", name, got)
		}
	}
	list := get[struct {
		Services []VolumeService `json:"volume_services"`
	}](w, Root+"/volume-services").Services
	if len(list) != 1 || len(list[0].Troubles) != 1 || list[0].Troubles[0].Name != "data" {
		t.Errorf("listed: %+v", list)
	}
	late := w.listen("", adminToken)
	if events := late.until(EventReady); !strings.Contains(names(events), EventVolumeTrouble) {
		t.Errorf("who comes later is told %s", names(events))
	}
	report(full) // as it was
	report()
	events := in.until(EventVolumeTrouble)
	if got := decode[VolumeTrouble](in, events[0]); len(events) != 1 || got.Volume != "v1" || !got.Over {
		t.Errorf("at its end: %+v of %d events", got, len(events))
	}
}
