package flows

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/godwit-cloud/godwit/internal/attachments"
	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostapitest"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
	"github.com/godwit-cloud/godwit/internal/workflow"
	"github.com/godwit-cloud/godwit/internal/workflow/workflowtest"
)

const (
	rootVolume = cloud.VolumeID("root")
	dataVolume = cloud.VolumeID("data")
)

// diskWorld is a world with a volume service.
type diskWorld struct {
	*volumeWorld
}

// withStorage adds a volume service to a world, with the volumes root and data, available.
func withStorage(w *world) *diskWorld {
	w.t.Helper()
	d := &diskWorld{&volumeWorld{world: w, storage: w.fleet.AddVolumes(storageA, "main")}}
	w.flows.Volumes = w.fleet
	w.write(func(tx *store.Tx) error { // wipeVolumes takes intents too
		return errors.Join(wipeVolumes(tx), store.Put(tx, tables.Intents, w.intent.ID, w.intent))
	})
	d.addStorage(storageA, "main")
	for _, id := range []cloud.VolumeID{rootVolume, dataVolume} {
		v := cloud.Volume{ID: id, Project: "p", SizeGiB: 1, Status: cloud.VolumeAvailable, Service: storageA, Backend: "main", Generation: 1}
		d.storage.Place(id, v.Bytes(), 1)
		w.write(func(tx *store.Tx) error { return store.Put(tx, tables.Volumes, id, v) })
	}
	return d
}

// give lists a volume among the server's disks and reserves it, as the edge does.
func (w *diskWorld) give(id cloud.VolumeID, device string, bootIndex int) cloud.AttachmentID {
	w.t.Helper()
	a := cloud.AttachmentID("a-" + string(id))
	w.server.Devices = append(w.server.Devices, cloud.BlockDevice{Device: device, BootIndex: bootIndex, Source: "volume", Volume: id, Attachment: a})
	w.write(func(tx *store.Tx) error {
		_, err := attachments.Reserve(tx, attachments.Reservation{ID: a, Volume: id, Server: serverID, Project: "p", Device: device, Now: now()})
		return errors.Join(err, store.Put(tx, tables.Servers, serverID, w.server))
	})
	return a
}

// use opens and attaches the server's volumes on host a, where the guest then runs with them.
func (w *diskWorld) use() {
	w.t.Helper()
	for _, d := range w.server.Devices {
		state, err := w.storage.OpenAttachment(w.t.Context(), &hostpb.OpenAttachmentRequest{
			Call:         &hostpb.VolumeCall{VolumeId: string(d.Volume), Generation: 1, RunId: "test"},
			AttachmentId: string(d.Attachment), Host: string(hostA),
		})
		if err != nil {
			w.t.Fatal(err)
		}
		link := attachments.Link{Host: hostA, Epoch: state.GetEpoch(), Connection: cloud.Connection{Export: state.GetExport(), Address: state.GetAddress(), Port: int(state.GetPort()),
			TLS: state.GetTls(), TLSHostname: state.GetTlsHostname()}}
		w.write(func(tx *store.Tx) error {
			return errors.Join(attachments.Connect(tx, d.Attachment, link, now()), attachments.Complete(tx, d.Attachment, now()))
		})
	}
	spec, err := Spec(w.store.View(), &w.server)
	if err != nil {
		w.t.Fatal(err)
	}
	w.fleet.Host(hostA).Place(spec, 1)
}

func (w *diskWorld) volumeNow(id cloud.VolumeID) cloud.Volume {
	v, ok := store.Lookup(w.store, tables.Volumes, id)
	if !ok {
		return cloud.Volume{}
	}
	return *v
}

// has checks that the server uses the volume on host, by every record and by the service, and nobody else does.
func (c *check) has(w *diskWorld, id cloud.VolumeID, host cloud.HostName) {
	v, s := w.volumeNow(id), w.now()
	c.must(v.Status == cloud.VolumeInUse && len(v.AttachmentIDs) == 1, "volume %s is %s with %v", id, v.Status, v.AttachmentIDs)
	d := s.Device(id)
	if d == nil || len(v.AttachmentIDs) != 1 {
		c.must(false, "the server has disks %+v", s.Devices)
		return
	}
	a, ok := store.Lookup(w.store, tables.Attachments, d.Attachment)
	c.must(ok && a.ID == v.AttachmentIDs[0] && a.Host == host && a.Status == cloud.AttachmentAttached && a.Migration == "", "volume %s: attachment %+v", id, a)
	want := fmt.Sprintf("%s on %s writer", d.Attachment, host)
	left := strings.Join(w.fleet.VolumeLeftovers(id), "; ")
	c.must(strings.Contains(left, want) && strings.Count(left, " on ") == 1, "the service keeps %s, want %q alone", left, want)
}

// free checks that nobody uses the volume.
func (c *check) free(w *diskWorld, id cloud.VolumeID) {
	v := w.volumeNow(id)
	c.must(v.Status == cloud.VolumeAvailable && len(v.AttachmentIDs) == 0, "volume %s is %s with %v", id, v.Status, v.AttachmentIDs)
	left := strings.Join(w.fleet.VolumeLeftovers(id), "; ")
	c.must(!strings.Contains(left, " on "), "the service keeps %s", left)
}

func attaching(t *testing.T) *diskWorld {
	t.Helper()
	w := withStorage(running(t, cloud.IntentAttach, func(*cloud.Server) {}))
	w.intent.Volume, w.intent.Attachment = dataVolume, w.give(dataVolume, "/dev/vdb", -1)
	w.write(func(tx *store.Tx) error { return store.Put(tx, tables.Intents, w.intent.ID, w.intent) })
	return w
}

func TestAttachKeepsTheEnginesPromises(t *testing.T) {
	workflowtest.Run(t, func(t *testing.T) workflowtest.Case[cloud.Intent] {
		w := attaching(t)
		return workflowtest.Case[cloud.Intent]{Definition: w.flows.Attach(), Args: w.intent,
			Done: func() error {
				c := w.settled()
				c.livesOn(w.world, hostA)
				c.has(w, dataVolume, hostA)
				return c.err()
			},
			Clean: func() error {
				c := w.settled()
				c.livesOn(w.world, hostA)
				c.free(w, dataVolume)
				c.must(len(w.now().Devices) == 0, "the server has disks %+v", w.now().Devices)
				return c.err()
			}}
	})
}

func detaching(t *testing.T) *diskWorld {
	t.Helper()
	w := withStorage(running(t, cloud.IntentDetach, func(*cloud.Server) {}))
	w.intent.Volume, w.intent.Attachment = dataVolume, w.give(dataVolume, "/dev/vdb", -1)
	w.use()
	w.write(func(tx *store.Tx) error {
		return errors.Join(attachments.BeginDetach(tx, w.intent.Attachment, now()), store.Put(tx, tables.Intents, w.intent.ID, w.intent))
	})
	return w
}

func TestDetachKeepsTheEnginesPromises(t *testing.T) {
	workflowtest.Run(t, func(t *testing.T) workflowtest.Case[cloud.Intent] {
		w := detaching(t)
		return workflowtest.Case[cloud.Intent]{Definition: w.flows.Detach(), Args: w.intent,
			Done: func() error {
				c := w.settled()
				c.livesOn(w.world, hostA)
				c.free(w, dataVolume)
				c.must(len(w.now().Devices) == 0, "the server has disks %+v", w.now().Devices)
				return c.err()
			},
			Clean: func() error {
				c := w.settled()
				c.livesOn(w.world, hostA)
				if len(w.now().Devices) == 0 { // the guest had let go
					v := w.volumeNow(dataVolume)
					c.must(v.Status == cloud.VolumeAvailable && len(v.AttachmentIDs) == 0, "volume is %s with %v", v.Status, v.AttachmentIDs)
					return c.err()
				}
				c.has(w, dataVolume, hostA)
				return c.err()
			}}
	})
}

func TestAGuestThatKeepsItsVolumeStillHasIt(t *testing.T) {
	w := detaching(t)
	w.fleet.Inject(hostapitest.Fault{Call: "DetachVolume", Times: -1, Err: cloud.Errorf(cloud.KindConflict, "the guest has not let go")})
	if rec := w.run(w.flows.Detach()); rec.Phase != workflow.Failed {
		t.Fatalf("run is %s", rec.Phase)
	}
	c := w.settled()
	c.has(w, dataVolume, hostA)
	action, _ := store.Lookup(w.store, tables.Actions, tables.ActionKey(serverID, "req-1"))
	c.must(action.Message == "Error", "the action says %q", action.Message)
	if err := c.err(); err != nil {
		t.Error(err)
	}
}

// bootingFromVolume is a server that is to boot from one volume and has another.
func bootingFromVolume(t *testing.T) *diskWorld {
	t.Helper()
	w := withStorage(newWorld(t, cloud.IntentBoot))
	w.server.Image = ""
	w.give(rootVolume, "/dev/vda", 0)
	w.give(dataVolume, "/dev/vdb", -1)
	return w
}

func TestBootFromAVolumeKeepsTheEnginesPromises(t *testing.T) {
	workflowtest.Run(t, func(t *testing.T) workflowtest.Case[cloud.Intent] {
		w := bootingFromVolume(t)
		return workflowtest.Case[cloud.Intent]{Definition: w.flows.Boot(), Args: w.intent,
			Done: func() error {
				c, host := w.settled(), w.now().Host
				c.livesOn(w.world, host)
				c.has(w, rootVolume, host)
				c.has(w, dataVolume, host)
				return c.err()
			},
			Clean: func() error {
				c, s := w.settled(), w.now()
				c.must(s.VMState == cloud.VMError && s.Host == "" && s.Fault != nil, "server is %s on %q, fault %v", s.VMState, s.Host, s.Fault)
				c.must(len(w.fleet.Leftovers(serverID)) == 0, "hosts keep %v", w.fleet.Leftovers(serverID))
				c.free(w, rootVolume)
				c.free(w, dataVolume)
				return c.err()
			}}
	})
}

func TestAServerOnAVolumeTakesNoDiskFromItsHost(t *testing.T) {
	w := bootingFromVolume(t)
	if rec := w.run(w.flows.Boot()); rec.Phase != workflow.Done {
		t.Fatalf("run is %s: %+v", rec.Phase, rec.Cause)
	}
	s := w.now()
	usage, _ := store.Lookup(w.store, tables.Usages, s.Host)
	if claim := usage.Claims[cloud.ClaimKey(serverID)]; claim.Resources.DiskGiB != 0 || claim.Resources.VCPUs != 1 {
		t.Errorf("claim %+v", claim)
	}
	spec, err := Spec(w.store.View(), &s)
	if err != nil || spec.GetRoot() != nil || len(spec.GetVolumes()) != 2 || spec.GetVolumes()[0].GetDevice() != "vda" {
		t.Errorf("spec %v, %v", spec, err)
	}
}

func TestABootWaitsForItsVolumesAndFailsWithThem(t *testing.T) {
	for _, end := range []cloud.VolumeStatus{cloud.VolumeReserved, cloud.VolumeError} {
		t.Run(string(end), func(t *testing.T) {
			w := bootingFromVolume(t)
			w.write(func(tx *store.Tx) error {
				v, err := store.Get(tx, tables.Volumes, rootVolume)
				v.Status = cloud.VolumeDownloading
				return errors.Join(err, store.Put(tx, tables.Volumes, rootVolume, v))
			})
			watched := &watchedRecords{Records: theStore, watched: make(chan struct{})}
			w.flows.Records = watched
			done := make(chan workflow.Record, 1)
			go func() { done <- w.run(w.flows.Boot()) }()
			<-watched.watched
			w.write(func(tx *store.Tx) error {
				v, err := store.Get(tx, tables.Volumes, rootVolume)
				v.Status, v.Fault = end, &cloud.Fault{Message: "disk full"}
				return errors.Join(err, store.Put(tx, tables.Volumes, rootVolume, v))
			})
			rec := <-done
			s := w.now()
			if end == cloud.VolumeReserved {
				if rec.Phase != workflow.Done {
					t.Errorf("run is %s: %+v", rec.Phase, rec.Cause)
				}
				return
			}
			if rec.Phase != workflow.Failed || s.VMState != cloud.VMError || !strings.Contains(s.Fault.Message, "disk full") {
				t.Errorf("run is %s, server %s, fault %+v", rec.Phase, s.VMState, s.Fault)
			}
		})
	}
}

func movingOnVolumes(t *testing.T, localRoot bool) *diskWorld {
	t.Helper()
	w := withStorage(moving(t))
	w.write(func(tx *store.Tx) error {
		m, err := store.Get(tx, tables.Migrations, "m1")
		m.Asked = cloud.MigrateAuto
		return errors.Join(err, store.Put(tx, tables.Migrations, "m1", m))
	})
	if !localRoot {
		w.server.Image = ""
		w.give(rootVolume, "/dev/vda", 0)
		w.write(func(tx *store.Tx) error { // what running claimed was for a local disk
			usage, err := store.Get(tx, tables.Usages, hostA)
			claim := usage.Claims[cloud.ClaimKey(serverID)]
			claim.Resources.DiskGiB = 0
			usage.Claims[cloud.ClaimKey(serverID)] = claim
			return errors.Join(err, store.Put(tx, tables.Usages, hostA, usage))
		})
	}
	w.give(dataVolume, "/dev/vdb", -1)
	w.use()
	return w
}

func TestMigrateWithVolumesKeepsTheEnginesPromises(t *testing.T) {
	workflowtest.Run(t, func(t *testing.T) workflowtest.Case[cloud.Intent] {
		w := movingOnVolumes(t, false)
		on := func(c *check, host cloud.HostName) error {
			c.has(w, rootVolume, host)
			c.has(w, dataVolume, host)
			return c.err()
		}
		return workflowtest.Case[cloud.Intent]{Definition: w.flows.Migrate(), Args: w.intent,
			Done: func() error {
				c := &check{}
				c.must(w.migration().Kind == cloud.MigrateVolume, "kind is %s", w.migration().Kind)
				return errors.Join(moved(w.world), on(c, hostB))
			},
			Clean: func() error {
				status := cloud.MigrationError
				if w.migration().Status == cloud.MigrationFailed {
					status = cloud.MigrationFailed
				}
				return errors.Join(stayed(w.world, status), on(&check{}, hostA))
			}}
	})
}

func TestOnlyLocalDisksAreCopied(t *testing.T) {
	for _, localRoot := range []bool{false, true} {
		w := movingOnVolumes(t, localRoot)
		var got *hostpb.MigrateRequest
		w.fleet.ScriptMigrations(func(r *hostpb.MigrateRequest) hostapitest.Migration {
			got = r
			return hostapitest.Migration{}
		})
		if rec := w.run(w.flows.Migrate()); rec.Phase != workflow.Done {
			t.Fatalf("run is %s: %+v", rec.Phase, rec.Cause)
		}
		volumes := len(w.server.Devices)
		if got.GetCopyDisks() != localRoot || len(got.GetTargetVolumes()) != volumes || got.GetSharedDirectory() {
			t.Errorf("local root %v: request %v", localRoot, got)
		}
		c := &check{}
		c.has(w, dataVolume, hostB)
		if err := errors.Join(moved(w.world), c.err()); err != nil {
			t.Errorf("local root %v: %v", localRoot, err)
		}
	}
}

func TestAMoveThatFailsLeavesTheSourceWriting(t *testing.T) {
	w := movingOnVolumes(t, false)
	w.fleet.ScriptMigrations(script(hostpb.MigrateOutcome_MIGRATE_OUTCOME_FAILED, "no route"))
	w.run(w.flows.Migrate())
	c := &check{}
	c.has(w, rootVolume, hostA)
	c.has(w, dataVolume, hostA)
	if err := errors.Join(stayed(w.world, cloud.MigrationFailed), c.err()); err != nil {
		t.Error(err)
	}
}

func TestDeleteWithVolumesKeepsTheEnginesPromises(t *testing.T) {
	workflowtest.Run(t, func(t *testing.T) workflowtest.Case[cloud.Intent] {
		w := withStorage(running(t, cloud.IntentDelete, func(s *cloud.Server) { s.Task = cloud.TaskDeleting }))
		w.give(rootVolume, "/dev/vda", 0)
		w.give(dataVolume, "/dev/vdb", -1)
		w.server.Devices[0].DeleteOnTermination = true
		w.saveServer()
		w.use()
		buried := func() error {
			c, root := &check{}, w.volumeNow(rootVolume)
			c.free(w, dataVolume)
			c.must(root.Status == cloud.VolumeDeleting && len(root.AttachmentIDs) == 0, "the root volume is %s with %v", root.Status, root.AttachmentIDs)
			asked := slices.IndexFunc(store.All(w.store, tables.Intents), func(i *cloud.Intent) bool { return i.Kind == cloud.IntentVolumeDelete && i.Volume == rootVolume })
			c.must(asked >= 0 && store.Count(w.store, tables.Intents) == 1, "intents: %+v", store.All(w.store, tables.Intents))
			return errors.Join(gone(w.world), c.err())
		}
		return workflowtest.Case[cloud.Intent]{Definition: w.flows.Delete(), Args: w.intent,
			Done: buried,
			Clean: func() error {
				if w.now().VMState == cloud.VMDeleted {
					return buried()
				}
				c, s := w.settled(), w.now()
				c.must(s.VMState == cloud.VMError && s.Fault != nil, "server is %s", s.VMState)
				return c.err()
			}}
	})
}

func TestAServerIsDeletedThoughItsVolumeServiceIsAway(t *testing.T) {
	w := withStorage(running(t, cloud.IntentDelete, func(s *cloud.Server) { s.Task = cloud.TaskDeleting }))
	w.give(dataVolume, "/dev/vdb", -1)
	w.use()
	w.storage.Crash()
	if rec := w.run(w.flows.Delete()); rec.Phase != workflow.Done {
		t.Fatalf("run is %s: %+v", rec.Phase, rec.Cause)
	}
	if v := w.volumeNow(dataVolume); v.Status != cloud.VolumeAvailable {
		t.Errorf("volume is %s", v.Status)
	}
}
