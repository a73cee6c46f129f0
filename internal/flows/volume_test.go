package flows

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostapitest"
	"github.com/godwit-cloud/godwit/internal/placement"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
	"github.com/godwit-cloud/godwit/internal/workflow"
	"github.com/godwit-cloud/godwit/internal/workflow/workflowtest"
)

const (
	volumeID   = cloud.VolumeID("v1")
	snapshotID = cloud.SnapshotID("snap")
	storageA   = cloud.HostName("storage-a")
	uploadID   = cloud.ImageID("uploaded")
)

// volumeWorld is an untouched cloud with one volume service of two back ends, and one volume in the state in which the edge leaves it.
type volumeWorld struct {
	*world
	storage *hostapitest.FakeVolumeHost
	images  *fakeImages
}

// fakeImages keeps what it is filled with.
type fakeImages struct {
	w    *volumeWorld
	data map[cloud.ImageID]string
	size int64
}

func (f *fakeImages) Fill(_ context.Context, id cloud.ImageID, size int64, next func() (int64, []byte, error)) error {
	var text strings.Builder
	for {
		_, data, err := next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		text.Write(data)
	}
	f.data[id], f.size = text.String(), size
	f.w.write(func(tx *store.Tx) error {
		i, err := store.Get(tx, tables.Images, id)
		i.Status = cloud.ImageActive
		return errors.Join(err, store.Put(tx, tables.Images, id, i))
	})
	return nil
}

func wipeVolumes(tx *store.Tx) error {
	return errors.Join(
		wipe(tx, tables.Volumes, func(v *cloud.Volume) cloud.VolumeID { return v.ID }),
		wipe(tx, tables.VolumeSnapshots, func(v *cloud.VolumeSnapshot) cloud.SnapshotID { return v.ID }),
		wipe(tx, tables.VolumeTypes, func(v *cloud.VolumeType) cloud.VolumeTypeID { return v.ID }),
		wipe(tx, tables.VolumeServices, func(v *cloud.VolumeService) cloud.HostName { return v.Name }),
		wipe(tx, tables.VolumeReports, func(v *cloud.VolumeReport) cloud.HostName { return v.Service }),
		wipe(tx, tables.VolumeUsages, func(v *cloud.VolumeUsage) cloud.ProjectID { return v.Project }),
		wipe(tx, tables.Attachments, func(v *cloud.Attachment) cloud.AttachmentID { return v.ID }),
		wipe(tx, tables.Images, func(v *cloud.Image) cloud.ImageID { return v.ID }),
		wipe(tx, tables.Intents, func(v *cloud.Intent) cloud.IntentID { return v.ID }),
	)
}

// newVolumeWorld makes a service with the back ends main and gold, the types plain and gold, and a volume of 2 GiB with an intent of the kind.
func newVolumeWorld(t *testing.T, kind cloud.IntentKind, change func(w *volumeWorld, v *cloud.Volume)) *volumeWorld {
	t.Helper()
	w := &volumeWorld{world: &world{t: t, store: theStore, fleet: hostapitest.NewFleet(hostA)}}
	w.storage = w.fleet.AddVolumes(storageA, "main", "gold")
	w.images = &fakeImages{w: w, data: map[cloud.ImageID]string{}}
	w.flows = New(Options{Records: theStore, Hosts: fleetHosts{w.fleet}, Volumes: w.fleet, Images: w.images, Policy: placement.DefaultPolicy()})
	var err error
	if w.lease, err = theStore.Lease(context.Background(), time.Minute); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.write(wipeVolumes) // other worlds share the store, and some know no volumes
		w.write(func(tx *store.Tx) error { return store.Delete(tx, tables.Servers, serverID) })
		if v := w.fleet.Violations(); len(v) > 0 {
			t.Errorf("the volume service was misused: %v", v)
		}
		if err := w.lease.Release(context.Background()); err != nil {
			t.Error(err)
		}
	})
	w.write(wipeVolumes)
	w.addStorage(storageA, "main", "gold")
	v := cloud.Volume{ID: volumeID, Project: "p", SizeGiB: 2, Type: "plain", Status: cloud.VolumeAvailable, Zone: "nova", Service: storageA, Backend: "main", Generation: 7}
	w.intent = cloud.Intent{ID: "i1", Kind: kind, Volume: volumeID, RequestID: "req-1", Project: "p", Created: now()}
	if change != nil {
		change(w, &v)
	}
	if v.Service != "" {
		w.storage.Place(volumeID, v.Bytes(), v.Generation)
	}
	w.write(func(tx *store.Tx) error {
		return errors.Join(
			store.Put(tx, tables.VolumeTypes, "plain", cloud.VolumeType{ID: "plain", Name: "plain", ExtraSpecs: map[string]string{cloud.SpecBackend: "main"}}),
			store.Put(tx, tables.VolumeTypes, "gold", cloud.VolumeType{ID: "gold", Name: "gold", ExtraSpecs: map[string]string{cloud.SpecBackend: "gold", cloud.SpecIOPSMax: "500"}}),
			store.Put(tx, tables.VolumeUsages, "p", cloud.VolumeUsage{Project: "p", Volumes: 1, GiB: v.SizeGiB}),
			store.Put(tx, tables.Volumes, v.ID, v), store.Put(tx, tables.Intents, w.intent.ID, w.intent))
	})
	return w
}

func (w *volumeWorld) addStorage(name cloud.HostName, backends ...string) {
	w.t.Helper()
	report := cloud.VolumeReport{Service: name, Generation: 1}
	for _, b := range backends {
		report.Backends = append(report.Backends, cloud.VolumeBackend{Name: b, Kind: "file", Reflink: true, TotalBytes: 1 << 40, FreeBytes: 1 << 40})
	}
	w.write(func(tx *store.Tx) error {
		return errors.Join(store.Put(tx, tables.VolumeServices, name, cloud.VolumeService{Name: name, Zone: "nova"}),
			store.Put(tx, tables.VolumeReports, name, report), store.PutLease(tx, tables.VolumeSessions, name, cloud.HostSession{Host: name}, w.lease))
	})
}

// snapshot gives the volume a snapshot, at the service too.
func (w *volumeWorld) snapshot(id cloud.SnapshotID, status cloud.SnapshotStatus) {
	w.t.Helper()
	w.write(func(tx *store.Tx) error {
		v, err := store.Get(tx, tables.Volumes, volumeID)
		v.SnapshotIDs = []cloud.SnapshotID{id}
		return errors.Join(err, store.Put(tx, tables.Volumes, volumeID, v),
			store.Put(tx, tables.VolumeSnapshots, id, cloud.VolumeSnapshot{ID: id, Volume: volumeID, Project: "p", SizeGiB: 2, Status: status, Created: now()}),
			store.Put(tx, tables.VolumeUsages, "p", cloud.VolumeUsage{Project: "p", Volumes: 1, Snapshots: 1, GiB: 4}))
	})
}

func (w *volumeWorld) volume() cloud.Volume {
	v, _ := store.Lookup(w.store, tables.Volumes, volumeID)
	if v == nil {
		return cloud.Volume{}
	}
	return *v
}

func (w *volumeWorld) usage() cloud.VolumeUsage {
	u, _ := store.Lookup(w.store, tables.VolumeUsages, cloud.ProjectID("p"))
	return *u
}

// concluded begins a check of the world after a run: the intent must be gone.
func (w *volumeWorld) concluded() *check {
	c := &check{}
	c.must(store.Count(w.store, tables.Intents) == 0, "intents are left: %d", store.Count(w.store, tables.Intents))
	return c
}

// is checks the volume's status and whether it says why.
func (c *check) is(w *volumeWorld, status cloud.VolumeStatus, fault bool) {
	v := w.volume()
	c.must(v.Status == status && (v.Fault != nil) == fault, "volume is %q, fault %+v, want %s", v.Status, v.Fault, status)
}

func (w *volumeWorld) kept() []string { return w.fleet.VolumeLeftovers(volumeID) }

func creating(t *testing.T) *volumeWorld {
	t.Helper()
	return newVolumeWorld(t, cloud.IntentVolumeCreate, func(w *volumeWorld, v *cloud.Volume) {
		v.Status, v.Service, v.Backend, v.SourceImage = cloud.VolumeCreating, "", "", "img"
		w.write(func(tx *store.Tx) error {
			return store.Put(tx, tables.Images, "img", cloud.Image{ID: "img", DiskFormat: "qcow2", Hash: "abc", SizeBytes: 1 << 20, VirtualBytes: 1 << 30})
		})
	})
}

func TestVolumeCreateKeepsTheEnginesPromises(t *testing.T) {
	workflowtest.Run(t, func(t *testing.T) workflowtest.Case[cloud.Intent] {
		w := creating(t)
		return workflowtest.Case[cloud.Intent]{Definition: w.flows.VolumeCreate(), Args: w.intent,
			Done: func() error {
				c, v := w.concluded(), w.volume()
				c.is(w, cloud.VolumeAvailable, false)
				c.must(v.Service == storageA && v.Backend == "main" && !v.Launched.IsZero(), "volume is on %s@%s, launched %v", v.Service, v.Backend, v.Launched)
				c.must(slices.Equal(w.kept(), []string{"storage-a: main, 2147483648 bytes"}), "the service keeps %v", w.kept())
				c.must(string(w.storage.Content(volumeID)) == "image:img abc", "content %q", w.storage.Content(volumeID))
				return c.err()
			},
			Clean: func() error {
				c, v := w.concluded(), w.volume()
				c.is(w, cloud.VolumeError, true)
				c.must(v.Service == "" && len(w.kept()) == 0, "volume is on %q, the service keeps %v", v.Service, w.kept())
				return c.err()
			}}
	})
}

func TestVolumeDeleteKeepsTheEnginesPromises(t *testing.T) {
	workflowtest.Run(t, func(t *testing.T) workflowtest.Case[cloud.Intent] {
		w := newVolumeWorld(t, cloud.IntentVolumeDelete, func(w *volumeWorld, v *cloud.Volume) { v.Status, w.intent.Cascade = cloud.VolumeDeleting, true })
		w.snapshot(snapshotID, cloud.SnapshotDeleting)
		w.write(func(tx *store.Tx) error {
			return store.Put(tx, tables.Attachments, "a", cloud.Attachment{ID: "a", Volume: volumeID, Status: cloud.AttachmentReserved})
		})
		return workflowtest.Case[cloud.Intent]{Definition: w.flows.VolumeDelete(), Args: w.intent,
			Done: func() error {
				c := w.concluded()
				c.must(w.volume().ID == "" && len(w.kept()) == 0, "record %q, the service keeps %v", w.volume().ID, w.kept())
				c.must(store.Count(w.store, tables.VolumeSnapshots) == 0, "the snapshot is still there")
				c.must(w.usage() == cloud.VolumeUsage{Project: "p"}, "usage is %+v", w.usage())
				return c.err()
			},
			Clean: func() error {
				c := w.concluded()
				if w.volume().ID == "" { // the failure came after the end
					return c.err()
				}
				c.is(w, cloud.VolumeErrorDeleting, true)
				for _, s := range store.All(w.store, tables.VolumeSnapshots) {
					c.must(s.Status == cloud.SnapshotErrorDeleting, "snapshot is %s", s.Status)
				}
				return c.err()
			}}
	})
}

func extending(t *testing.T) *volumeWorld {
	t.Helper()
	return newVolumeWorld(t, cloud.IntentVolumeExtend, func(w *volumeWorld, v *cloud.Volume) {
		v.Status, w.intent.SizeGiB = cloud.VolumeExtending, 5
	})
}

func TestVolumeExtendKeepsTheEnginesPromises(t *testing.T) {
	workflowtest.Run(t, func(t *testing.T) workflowtest.Case[cloud.Intent] {
		w := extending(t)
		w.write(func(tx *store.Tx) error {
			return store.Put(tx, tables.VolumeUsages, "p", cloud.VolumeUsage{Project: "p", Volumes: 1, GiB: 5})
		})
		grown := func() error {
			c := w.concluded()
			c.is(w, cloud.VolumeAvailable, false)
			c.must(w.volume().SizeGiB == 5 && w.storage.State(volumeID).GetBytes() == 5<<30 && w.usage().GiB == 5, "size %d, at the service %d, usage %d",
				w.volume().SizeGiB, w.storage.State(volumeID).GetBytes(), w.usage().GiB)
			return c.err()
		}
		return workflowtest.Case[cloud.Intent]{Definition: w.flows.VolumeExtend(), Args: w.intent, Done: grown,
			Clean: func() error {
				if w.storage.State(volumeID).GetBytes() == 5<<30 { // the failure came after the growth, which is a fact
					return grown()
				}
				c := w.concluded()
				c.is(w, cloud.VolumeErrorExtending, true)
				c.must(w.volume().SizeGiB == 2 && w.usage().GiB == 2, "size %d, usage %d", w.volume().SizeGiB, w.usage().GiB)
				return c.err()
			}}
	})
}

// attach joins the volume to the server, on paper.
func (w *volumeWorld) attach() {
	w.t.Helper()
	w.write(func(tx *store.Tx) error {
		v, err := store.Get(tx, tables.Volumes, volumeID)
		v.AttachmentIDs = []cloud.AttachmentID{"a"}
		return errors.Join(err, store.Put(tx, tables.Volumes, volumeID, v), store.Put(tx, tables.Attachments, "a",
			cloud.Attachment{ID: "a", Volume: volumeID, Server: serverID, Host: hostA, Status: cloud.AttachmentAttached}))
	})
}

// uploading is a volume in use that is to become an image.
func uploading(t *testing.T) *volumeWorld {
	t.Helper()
	w := newVolumeWorld(t, cloud.IntentVolumeUpload, func(w *volumeWorld, v *cloud.Volume) { v.Status, w.intent.Image = cloud.VolumeUploading, uploadID })
	w.attach()
	w.storage.SetContent(volumeID, []byte("boot sector"))
	w.write(func(tx *store.Tx) error {
		return store.Put(tx, tables.Images, uploadID, cloud.Image{ID: uploadID, Status: cloud.ImageQueued})
	})
	return w
}

func (w *volumeWorld) uploaded() cloud.ImageStatus {
	i, ok := store.Lookup(w.store, tables.Images, uploadID)
	if !ok {
		return ""
	}
	return i.Status
}

func TestVolumeUploadKeepsTheEnginesPromises(t *testing.T) {
	workflowtest.Run(t, func(t *testing.T) workflowtest.Case[cloud.Intent] {
		w := uploading(t)
		return workflowtest.Case[cloud.Intent]{Definition: w.flows.VolumeUpload(), Args: w.intent,
			Done: func() error {
				c := w.concluded()
				c.is(w, cloud.VolumeInUse, false)
				c.must(w.uploaded() == cloud.ImageActive && w.images.data[uploadID] == "boot sector" && w.images.size == 2<<30, "image is %s, %q, %d bytes",
					w.uploaded(), w.images.data[uploadID], w.images.size)
				c.must(len(w.storage.State(volumeID).GetSnapshotIds()) == 0, "the service keeps %v", w.kept())
				return c.err()
			},
			Clean: func() error {
				c := w.concluded()
				want := cloud.ImageKilled
				if len(w.images.data) > 0 { // the failure came after the image was whole
					want = cloud.ImageActive
				}
				c.is(w, cloud.VolumeInUse, want == cloud.ImageKilled)
				c.must(w.uploaded() == want, "image is %s, want %s", w.uploaded(), want)
				c.must(len(w.storage.State(volumeID).GetSnapshotIds()) == 0, "the service keeps %v", w.kept())
				return c.err()
			}}
	})
}

func TestAnImageOfAVolumeInUseIsOfOneMoment(t *testing.T) {
	w := uploading(t)
	w.fleet.Inject(hostapitest.Fault{Call: "ReadVolume", Do: func() { w.storage.SetContent(volumeID, []byte("written meanwhile")) }})
	if rec := w.run(w.flows.VolumeUpload()); rec.Phase != workflow.Done {
		t.Fatalf("run is %s", rec.Phase)
	}
	if got := w.images.data[uploadID]; got != "boot sector" {
		t.Errorf("the image holds %q", got)
	}
}

func TestAVolumeNobodyHasIsReadWithoutASnapshot(t *testing.T) {
	w := uploading(t)
	w.write(func(tx *store.Tx) error { return store.Delete(tx, tables.Attachments, "a") })
	w.fleet.Inject(hostapitest.Fault{Call: "CreateSnapshot", Times: -1, Err: cloud.Errorf(cloud.KindInternal, "nobody asked for this")})
	if rec := w.run(w.flows.VolumeUpload()); rec.Phase != workflow.Done || w.uploaded() != cloud.ImageActive {
		t.Errorf("run is %s, image %s", rec.Phase, w.uploaded())
	}
}

func TestDeletingAVolumeRemovesWhatHasNoRecord(t *testing.T) {
	w := newVolumeWorld(t, cloud.IntentSnapshotCreate, func(w *volumeWorld, _ *cloud.Volume) { w.intent.Snapshot = "left by an upload" })
	w.run(w.flows.SnapshotCreate())
	w.intent.Kind = cloud.IntentVolumeDelete
	w.write(func(tx *store.Tx) error { return store.Put(tx, tables.Intents, w.intent.ID, w.intent) })
	if rec := w.run(w.flows.VolumeDelete()); rec.Phase != workflow.Done || len(w.kept()) != 0 {
		t.Errorf("run is %s, the service keeps %v", rec.Phase, w.kept())
	}
}

func TestAGuestIsToldOfItsLargerVolume(t *testing.T) {
	w := extending(t)
	w.attach()
	w.write(func(tx *store.Tx) error {
		return store.Put(tx, tables.Servers, serverID, cloud.Server{ID: serverID, Host: hostA, Generation: 4})
	})
	told := 0
	w.fleet.Inject(hostapitest.Fault{Call: "ResizeVolume", Times: -1, Do: func() { told++ }, Err: cloud.Errorf(cloud.KindUnavailable, "the agent restarts")})
	if rec := w.run(w.flows.VolumeExtend()); rec.Phase != workflow.Done {
		t.Fatalf("run is %s", rec.Phase)
	}
	if v := w.volume(); told != tidyAttemptsMax || v.SizeGiB != 5 || v.Status != cloud.VolumeInUse {
		t.Errorf("the host was told %d times, the volume has %d GiB and is %s", told, v.SizeGiB, v.Status)
	}
}

func TestVolumeRetypeKeepsTheEnginesPromises(t *testing.T) {
	workflowtest.Run(t, func(t *testing.T) workflowtest.Case[cloud.Intent] {
		w := newVolumeWorld(t, cloud.IntentVolumeRetype, func(w *volumeWorld, v *cloud.Volume) { v.Status, w.intent.VolumeType = cloud.VolumeRetyping, "gold" })
		return workflowtest.Case[cloud.Intent]{Definition: w.flows.VolumeRetype(), Args: w.intent,
			Done: func() error {
				c, v := w.concluded(), w.volume()
				c.is(w, cloud.VolumeAvailable, false)
				c.must(v.Type == "gold" && v.Backend == "gold" && w.storage.State(volumeID).GetBackend() == "gold", "type %s, back end %s, at the service %s",
					v.Type, v.Backend, w.storage.State(volumeID).GetBackend())
				return c.err()
			},
			Clean: func() error {
				c, v := w.concluded(), w.volume()
				c.is(w, cloud.VolumeAvailable, true)
				c.must(v.Type == "plain" && v.Backend == "main" && w.storage.State(volumeID).GetBackend() == "main", "type %s, back end %s, at the service %s",
					v.Type, v.Backend, w.storage.State(volumeID).GetBackend())
				return c.err()
			}}
	})
}

func TestVolumeRevertKeepsTheEnginesPromises(t *testing.T) {
	workflowtest.Run(t, func(t *testing.T) workflowtest.Case[cloud.Intent] {
		w := newVolumeWorld(t, cloud.IntentSnapshotCreate, func(w *volumeWorld, _ *cloud.Volume) { w.intent.Snapshot = snapshotID })
		w.storage.SetContent(volumeID, []byte("before"))
		w.run(w.flows.SnapshotCreate())
		w.storage.SetContent(volumeID, []byte("after"))
		w.snapshot(snapshotID, cloud.SnapshotRestoring)
		w.intent.Kind, w.intent.Snapshot = cloud.IntentVolumeRevert, snapshotID
		w.write(func(tx *store.Tx) error {
			v, err := store.Get(tx, tables.Volumes, volumeID)
			v.Status = cloud.VolumeReverting
			return errors.Join(err, store.Put(tx, tables.Volumes, volumeID, v), store.Put(tx, tables.Intents, w.intent.ID, w.intent))
		})
		restored := func() cloud.SnapshotStatus {
			s, _ := store.Lookup(w.store, tables.VolumeSnapshots, snapshotID)
			return s.Status
		}
		return workflowtest.Case[cloud.Intent]{Definition: w.flows.VolumeRevert(), Args: w.intent,
			Done: func() error {
				c := w.concluded()
				c.is(w, cloud.VolumeAvailable, false)
				c.must(string(w.storage.Content(volumeID)) == "before" && restored() == cloud.SnapshotAvailable, "content %q, snapshot %s",
					w.storage.Content(volumeID), restored())
				return c.err()
			},
			Clean: func() error {
				c := w.concluded()
				c.is(w, cloud.VolumeErrorRestoring, true)
				c.must(restored() == cloud.SnapshotAvailable, "snapshot %s", restored())
				return c.err()
			}}
	})
}

func TestVolumeReimageKeepsTheEnginesPromises(t *testing.T) {
	workflowtest.Run(t, func(t *testing.T) workflowtest.Case[cloud.Intent] {
		w := newVolumeWorld(t, cloud.IntentVolumeReimage, func(w *volumeWorld, v *cloud.Volume) {
			v.Status, v.PreviousStatus, v.SourceSnapshot = cloud.VolumeDownloading, cloud.VolumeError, "earlier"
			w.intent.Reimage = &cloud.Reimage{Image: "other", Format: "raw", Bytes: 1, VirtualBytes: 1, Hash: "h"}
		})
		w.storage.SetContent(volumeID, []byte("before"))
		of := func() (cloud.ImageID, cloud.SnapshotID) {
			v, _ := store.Lookup(w.store, tables.Volumes, volumeID)
			return v.SourceImage, v.SourceSnapshot
		}
		return workflowtest.Case[cloud.Intent]{Definition: w.flows.VolumeReimage(), Args: w.intent,
			Done: func() error {
				c := w.concluded()
				c.is(w, cloud.VolumeAvailable, false)
				image, snapshot := of()
				c.must(string(w.storage.Content(volumeID)) == "image:other h" && image == "other" && snapshot == "", "content %q, of image %q, snapshot %q",
					w.storage.Content(volumeID), image, snapshot)
				return c.err()
			},
			Clean: func() error {
				c := w.concluded()
				c.is(w, cloud.VolumeError, true)
				return c.err()
			}}
	})
}

func TestSnapshotCreateKeepsTheEnginesPromises(t *testing.T) {
	workflowtest.Run(t, func(t *testing.T) workflowtest.Case[cloud.Intent] {
		w := newVolumeWorld(t, cloud.IntentSnapshotCreate, func(w *volumeWorld, _ *cloud.Volume) { w.intent.Snapshot = snapshotID })
		w.snapshot(snapshotID, cloud.SnapshotCreating)
		at := func() ([]string, cloud.SnapshotStatus) {
			s, _ := store.Lookup(w.store, tables.VolumeSnapshots, snapshotID)
			return w.storage.State(volumeID).GetSnapshotIds(), s.Status
		}
		return workflowtest.Case[cloud.Intent]{Definition: w.flows.SnapshotCreate(), Args: w.intent,
			Done: func() error {
				c := w.concluded()
				there, status := at()
				c.is(w, cloud.VolumeAvailable, false)
				c.must(slices.Equal(there, []string{"snap"}) && status == cloud.SnapshotAvailable, "the service has %v, the snapshot is %s", there, status)
				return c.err()
			},
			Clean: func() error {
				c := w.concluded()
				there, status := at()
				c.is(w, cloud.VolumeAvailable, false)
				c.must(len(there) == 0 && status == cloud.SnapshotError, "the service has %v, the snapshot is %s", there, status)
				return c.err()
			}}
	})
}

// waiting puts in an image that waits for the volume's snapshot and for another one, which stands as other.
func (w *volumeWorld) waiting(other cloud.SnapshotStatus) {
	w.t.Helper()
	w.snapshot(snapshotID, cloud.SnapshotCreating)
	w.intent.Image = uploadID
	w.write(func(tx *store.Tx) error {
		return errors.Join(store.Put(tx, tables.Intents, w.intent.ID, w.intent),
			store.Put(tx, tables.VolumeSnapshots, "other", cloud.VolumeSnapshot{ID: "other", Volume: "v2", Project: "p", Status: other}),
			store.Put(tx, tables.Images, uploadID, cloud.Image{ID: uploadID, Status: cloud.ImageQueued, Snapshots: []cloud.SnapshotID{snapshotID, "other"}}))
	})
}

func TestAnImageMadeOfSnapshotsBecomesActiveWithTheLastOfThem(t *testing.T) {
	for _, c := range []struct {
		name  string
		other cloud.SnapshotStatus
		fails bool
		want  cloud.ImageStatus
	}{
		{"the last", cloud.SnapshotAvailable, false, cloud.ImageActive},
		{"not the last", cloud.SnapshotCreating, false, cloud.ImageQueued},
		{"another failed", cloud.SnapshotError, false, cloud.ImageKilled},
		{"this one fails", cloud.SnapshotAvailable, true, cloud.ImageKilled},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newVolumeWorld(t, cloud.IntentSnapshotCreate, func(w *volumeWorld, _ *cloud.Volume) { w.intent.Snapshot = snapshotID })
			w.waiting(c.other)
			if c.fails {
				w.fleet.Inject(hostapitest.Fault{Call: "CreateSnapshot", Times: -1, Err: cloud.Errorf(cloud.KindInvalid, "no room")})
			}
			w.run(w.flows.SnapshotCreate())
			i, _ := store.Lookup(w.store, tables.Images, uploadID)
			if i.Status != c.want || (i.Hash != "") != (c.want == cloud.ImageActive) {
				t.Errorf("image %+v, want it %s", i, c.want)
			}
		})
	}
}

func TestSnapshotDeleteKeepsTheEnginesPromises(t *testing.T) {
	workflowtest.Run(t, func(t *testing.T) workflowtest.Case[cloud.Intent] {
		w := newVolumeWorld(t, cloud.IntentSnapshotDelete, func(w *volumeWorld, _ *cloud.Volume) { w.intent.Snapshot = snapshotID })
		w.snapshot(snapshotID, cloud.SnapshotDeleting)
		return workflowtest.Case[cloud.Intent]{Definition: w.flows.SnapshotDelete(), Args: w.intent,
			Done: func() error {
				c := w.concluded()
				c.must(len(w.volume().SnapshotIDs) == 0, "the volume lists %v", w.volume().SnapshotIDs)
				c.must(store.Count(w.store, tables.VolumeSnapshots) == 0 && w.usage() == cloud.VolumeUsage{Project: "p", Volumes: 1, GiB: 2}, "usage %+v", w.usage())
				return c.err()
			},
			Clean: func() error {
				c := w.concluded()
				s, ok := store.Lookup(w.store, tables.VolumeSnapshots, snapshotID)
				c.must(ok && s.Status == cloud.SnapshotErrorDeleting && s.Fault != nil, "snapshot %+v", s)
				return c.err()
			}}
	})
}

func TestAVolumeThatOneBackendFailsIsMadeOnAnother(t *testing.T) {
	w := creating(t)
	w.fleet.AddVolumes("storage-b", "main")
	w.addStorage("storage-b", "main")
	w.fleet.Inject(hostapitest.Fault{Call: "CreateVolume", Err: cloud.Errorf(cloud.KindExhausted, "the disk is full")})
	w.run(w.flows.VolumeCreate())
	again := store.All(w.store, tables.Intents)
	if len(again) != 1 || again[0].ID != "i1-2" || len(again[0].Tried) != 1 || w.volume().Status != cloud.VolumeCreating {
		t.Fatalf("next intent %+v, volume %s", again, w.volume().Status)
	}
	w.intent = *again[0]
	w.run(w.flows.VolumeCreate())
	if v := w.volume(); v.Status != cloud.VolumeAvailable || placement.BackendName(v.Service, v.Backend) == again[0].Tried[0] {
		t.Errorf("volume is %s on %s@%s; tried %v", v.Status, v.Service, v.Backend, again[0].Tried)
	}
}

func TestAVolumeThatFitsNowhereSaysWhy(t *testing.T) {
	w := creating(t)
	w.write(func(tx *store.Tx) error { return store.Delete(tx, tables.VolumeSessions, storageA) })
	if rec := w.run(w.flows.VolumeCreate()); rec.Phase != workflow.Failed {
		t.Fatalf("run is %s", rec.Phase)
	}
	if v := w.volume(); v.Status != cloud.VolumeError || !strings.Contains(v.Fault.Message, "not connected") {
		t.Errorf("volume is %s, fault %+v", v.Status, v.Fault)
	}
}

func TestAVolumeMadeForAServerWaitsForIt(t *testing.T) {
	w := creating(t)
	w.write(func(tx *store.Tx) error {
		v, err := store.Get(tx, tables.Volumes, volumeID)
		v.AttachmentIDs = []cloud.AttachmentID{"a"}
		return errors.Join(err, store.Put(tx, tables.Volumes, volumeID, v),
			store.Put(tx, tables.Attachments, "a", cloud.Attachment{ID: "a", Volume: volumeID, Server: serverID, Status: cloud.AttachmentReserved}))
	})
	w.run(w.flows.VolumeCreate())
	if v := w.volume(); v.Status != cloud.VolumeReserved {
		t.Errorf("volume is %s", v.Status)
	}
}

func TestACallOvertakenByAnotherRunIsMadeAgain(t *testing.T) {
	w := newVolumeWorld(t, cloud.IntentSnapshotCreate, func(w *volumeWorld, _ *cloud.Volume) { w.intent.Snapshot = snapshotID })
	w.snapshot(snapshotID, cloud.SnapshotCreating)
	w.fleet.Inject(hostapitest.Fault{Call: "CreateSnapshot", Err: cloud.Errorf(cloud.KindStale, "generation 8 is older than 9")})
	if rec := w.run(w.flows.SnapshotCreate()); rec.Phase != workflow.Done {
		t.Errorf("run is %s", rec.Phase)
	}
}

func TestAVolumeWhoseServiceIsLostWhileItIsMadeKeepsItsPlace(t *testing.T) {
	w := creating(t)
	w.fleet.Inject(hostapitest.Fault{Call: "CreateVolume", Times: -1, Do: w.storage.Crash, After: true, Err: cloud.Errorf(cloud.KindUnavailable, "connection lost")})
	w.run(w.flows.VolumeCreate())
	if v := w.volume(); v.Status != cloud.VolumeError || v.Service != storageA {
		t.Errorf("volume is %s on %q; a delete must find what the service kept", v.Status, v.Service)
	}
}
