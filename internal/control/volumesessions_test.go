package control

import (
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

func volumeFacts(generation, seq, free int64) *hostpb.VolumeFacts {
	return &hostpb.VolumeFacts{
		Name: "storage", Generation: generation, Seq: seq, Version: "1", Engine: "threads", EngineWhy: "seccomp",
		Backends: []*hostpb.Backend{{Name: "main", Kind: "file", Reflink: true, TotalBytes: 100, FreeBytes: free, Volumes: 3, Error: "full"}},
	}
}

func TestAVolumeServiceIsKnownFromItsFirstSession(t *testing.T) {
	w := newWorld(t)
	s := NewSessions(w.store, "test", w.log)
	if err := s.VolumesUp(t.Context(), "storage", volumeFacts(2, 5, 40)); err != nil {
		t.Fatal(err)
	}
	v := w.store.View()
	service, known := store.Lookup(v, tables.VolumeServices, "storage")
	report, reported := store.Lookup(v, tables.VolumeReports, "storage")
	_, up := store.Lookup(v, tables.VolumeSessions, "storage")
	if !known || !reported || !up {
		t.Fatalf("known %t, reported %t, up %t", known, reported, up)
	}
	if service.Zone != cloud.DefaultZone || service.Disabled {
		t.Errorf("service %+v", service)
	}
	want := cloud.VolumeBackend{Name: "main", Kind: "file", Reflink: true, TotalBytes: 100, FreeBytes: 40, Volumes: 3, Error: "full"}
	if report.Engine != "threads" || report.EngineWhy != "seccomp" || !reflect.DeepEqual(report.Backends, []cloud.VolumeBackend{want}) {
		t.Errorf("report %+v", report)
	}
	s.VolumesDown("storage")
	w.until("the service is down and still known", func(v store.View) bool {
		_, up := store.Lookup(v, tables.VolumeSessions, cloud.HostName("storage"))
		_, known := store.Lookup(v, tables.VolumeServices, cloud.HostName("storage"))
		return !up && known
	})
}

func TestAnOlderVolumeReportNeverReplacesANewerOne(t *testing.T) {
	w := newWorld(t)
	s := NewSessions(w.store, "test", w.log)
	if err := s.VolumesUp(t.Context(), "storage", volumeFacts(2, 5, 40)); err != nil {
		t.Fatal(err)
	}
	for _, f := range []*hostpb.VolumeFacts{volumeFacts(1, 9, 1), volumeFacts(2, 5, 2), volumeFacts(2, 6, 39)} {
		if err := s.VolumesEvent(t.Context(), "storage", &hostpb.HostEvent{Event: &hostpb.HostEvent_VolumeFacts{VolumeFacts: f}}); err != nil {
			t.Fatal(err)
		}
	}
	w.until("the newest report is there", func(v store.View) bool {
		r, ok := store.Lookup(v, tables.VolumeReports, cloud.HostName("storage"))
		if ok && r.Backends[0].FreeBytes < 39 {
			t.Errorf("an older report won: %+v", r)
		}
		return ok && r.Backends[0].FreeBytes == 39
	})
}

func TestHostsAndVolumeServicesShareNoName(t *testing.T) {
	w := newWorld(t)
	s := NewSessions(w.store, "test", w.log)
	if err := s.VolumesUp(t.Context(), "storage", volumeFacts(1, 1, 1)); err != nil {
		t.Fatal(err)
	}
	if err := s.HostUp(t.Context(), "storage", &hostpb.HostFacts{Name: "storage", Generation: 1, Seq: 1}); !cloud.Is(err, cloud.KindConflict) {
		t.Errorf("a host took a volume service's name: %v", err)
	}
	if err := s.HostUp(t.Context(), "compute", &hostpb.HostFacts{Name: "compute", Generation: 1, Seq: 1}); err != nil {
		t.Fatal(err)
	}
	if err := s.VolumesUp(t.Context(), "compute", volumeFacts(1, 1, 1)); !cloud.Is(err, cloud.KindConflict) {
		t.Errorf("a volume service took a host's name: %v", err)
	}
}

func TestANewLeaderWaitsOnlyForVolumeServicesThatWereThereAMomentAgo(t *testing.T) {
	w := newWorld(t)
	now := time.Now().UTC()
	w.write(func(tx *store.Tx) error {
		err := store.Put(tx, tables.VolumeReports, "fresh", cloud.VolumeReport{Service: "fresh", At: now.Add(-10 * time.Second)})
		if err != nil {
			return err
		}
		return store.Put(tx, tables.VolumeReports, "stale", cloud.VolumeReport{Service: "stale", At: now.Add(-time.Hour)})
	})
	recent := recentVolumes(w.store.View(), now)
	if slices.Contains(recent, "stale") || !slices.Contains(withoutSession(w.store.View(), tables.VolumeSessions, recent), "fresh") {
		t.Errorf("waited for are %v", recent)
	}
}

func TestAVolumeServiceIsUpWhileItIsConnected(t *testing.T) {
	w := newWorld(t)
	_, stop := w.wire.StartFakeVolumes(t, w.fleet.AddVolumes("storage"))
	up := func(v store.View) bool {
		_, ok := store.Lookup(v, tables.VolumeSessions, cloud.HostName("storage"))
		return ok
	}
	w.until("the service is up and can be called", func(v store.View) bool {
		_, err := w.wire.Server.Pool().Volumes("storage")
		return up(v) && err == nil
	})
	if n := store.Count(w.store.View(), tables.Hosts); n != 0 {
		t.Errorf("%d compute hosts are known", n)
	}
	stop()
	w.until("the service is down", func(v store.View) bool { return !up(v) })
}
