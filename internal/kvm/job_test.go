package kvm

import (
	"context"
	"encoding/binary"
	"math"
	"testing"
	"time"

	libvirt "github.com/digitalocean/go-libvirt"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

func TestJobFiguresAreBytesAndTimes(t *testing.T) {
	list := []libvirt.TypedParam{
		{Field: "memory_total", Value: *libvirt.NewTypedParamValueUllong(1 << 30)},
		{Field: "memory_page_size", Value: *libvirt.NewTypedParamValueUllong(4096)},
		{Field: "memory_dirty_rate", Value: *libvirt.NewTypedParamValueUllong(10)},
		{Field: "disk_remaining", Value: *libvirt.NewTypedParamValueUllong(7)},
		{Field: "downtime", Value: *libvirt.NewTypedParamValueUllong(58)},
		{Field: "time_elapsed", Value: *libvirt.NewTypedParamValueUllong(1100)},
		{Field: "errmsg", Value: *libvirt.NewTypedParamValueString("none")},
	}
	got := decodeParams(list).stats()
	want := cloud.MigrationStats{MemoryTotal: 1 << 30, MemoryPageSize: 4096, DirtyBytesPerSecond: 40960, DiskRemaining: 7,
		Downtime: 58 * time.Millisecond, Elapsed: 1100 * time.Millisecond}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// FuzzJobFigures feeds values of every type under every name: whatever a libvirt of tomorrow sends, figures stay in range.
func FuzzJobFigures(f *testing.F) {
	f.Add(uint8(0), []byte{1, 2, 3, 4, 5, 6, 7, 8})
	f.Add(uint8(3), []byte{255, 255, 255, 255, 255, 255, 255, 255})
	f.Add(uint8(4), []byte{127, 248, 0, 0, 0, 0, 0, 1})
	names := []string{libvirt.DomainJobMemoryTotal, libvirt.DomainJobMemoryPageSize, libvirt.DomainJobMemoryDirtyRate, libvirt.DomainJobDowntime,
		libvirt.DomainJobSetupTime, libvirt.DomainJobTimeElapsed, libvirt.DomainJobOperationStr}
	f.Fuzz(func(t *testing.T, kind uint8, raw []byte) {
		if len(raw) < 8 {
			return
		}
		v := binary.BigEndian.Uint64(raw)
		values := []any{int32(v), uint32(v), int64(v), v, math.Float64frombits(v), "text", nil}
		p := params{}
		for _, name := range names {
			p[name] = values[int(kind)%len(values)]
		}
		s := p.stats()
		if s.Downtime < 0 || s.Setup < 0 || s.Elapsed < 0 {
			t.Errorf("negative time in %+v from %v", s, values[int(kind)%len(values)])
		}
	})
}

func TestRunTellsTheTwoSidesOfAMigrationApart(t *testing.T) {
	for _, c := range []struct {
		state  libvirt.DomainState
		reason string
		job    job
		want   Run
	}{
		{libvirt.DomainRunning, "booted", jobNone, Running},
		{libvirt.DomainRunning, "booted", jobOut, Outgoing},
		{libvirt.DomainRunning, ReasonPostcopy, jobIn, Running},
		{libvirt.DomainPaused, ReasonMigration, jobIn, Incoming},
		{libvirt.DomainPaused, ReasonMigration, jobOut, Outgoing},
		{libvirt.DomainPaused, ReasonPostcopy, jobOut, Paused},
		{libvirt.DomainPaused, ReasonPostcopyFailed, jobOut, Paused},
		{libvirt.DomainPaused, ReasonPostcopyFailed, jobIn, Paused},
		{libvirt.DomainRunning, ReasonPostcopyFailed, jobIn, Running},
		{libvirt.DomainPaused, ReasonMigration, jobNone, Paused},
		{libvirt.DomainPaused, "user", jobNone, Paused},
		{libvirt.DomainShutdown, "user", jobNone, Running},
		{libvirt.DomainShutoff, ReasonMigrated, jobNone, Shutoff},
		{libvirt.DomainShutoff, "crashed", jobNone, Crashed},
		{libvirt.DomainShutoff, "failed", jobNone, Crashed},
		{libvirt.DomainCrashed, "panicked", jobNone, Crashed},
		{libvirt.DomainPmsuspended, "unknown", jobNone, Running},
	} {
		if got := runOf(c.state, c.reason, c.job); got != c.want {
			t.Errorf("state %d (%s) with job %d is %s, want %s", c.state, c.reason, c.job, got, c.want)
		}
	}
}

func TestLifecycleEventsSayWhoArrivedAndWhoLeft(t *testing.T) {
	for _, c := range []struct {
		event  libvirt.DomainEventType
		detail int32
		want   Notice
	}{
		{libvirt.DomainEventStarted, int32(libvirt.DomainEventStartedMigrated), Changed},
		{libvirt.DomainEventResumed, int32(libvirt.DomainEventResumedMigrated), Changed | Resumed | Arrived},
		{libvirt.DomainEventResumed, int32(libvirt.DomainEventResumedPostcopy), Changed | Resumed | Arrived},
		{libvirt.DomainEventResumed, int32(libvirt.DomainEventResumedUnpaused), Changed | Resumed},
		{libvirt.DomainEventResumed, int32(libvirt.DomainEventResumedPostcopyFailed), Changed | Resumed},
		{libvirt.DomainEventSuspended, int32(libvirt.DomainEventSuspendedPostcopy), Changed | PostCopied},
		{libvirt.DomainEventSuspended, int32(libvirt.DomainEventSuspendedPostcopyFailed), Changed | PostCopied},
		{libvirt.DomainEventSuspended, int32(libvirt.DomainEventSuspendedMigrated), Changed},
		{libvirt.DomainEventStopped, int32(libvirt.DomainEventStoppedMigrated), Changed | Departed},
		{libvirt.DomainEventStopped, int32(libvirt.DomainEventStoppedCrashed), Changed | Stopped},
		{libvirt.DomainEventCrashed, int32(libvirt.DomainEventCrashedPanicked), Changed | Stopped | Panicked},
		{libvirt.DomainEventCrashed, int32(libvirt.DomainEventCrashedPanicked) + 1, Changed | Stopped}, // crash-loaded: libvirt starts it again
		{libvirt.DomainEventUndefined, 0, Changed},
	} {
		if got := lifecycleNotice(int32(c.event), c.detail); got != c.want {
			t.Errorf("event %d detail %d: %s, want %s", c.event, c.detail, got, c.want)
		}
	}
}

func TestUnreadNoticesMerge(t *testing.T) {
	m := newMailbox()
	for range 1000 {
		m.put("a", Changed)
		m.put("b", Changed|Rebooted)
	}
	m.put("a", Stopped)
	m.resync()
	b, err := m.take(t.Context())
	if err != nil || !b.Resync || len(b.Domains) != 2 || b.Domains["a"] != Changed|Stopped || b.Domains["b"] != Changed|Rebooted {
		t.Errorf("read %+v, %v", b, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if b, err := m.take(ctx); err == nil {
		t.Errorf("read %+v a second time", b)
	}
}

func TestMoveAsksLibvirtForWhatItSays(t *testing.T) {
	m := Move{ID: testID, TargetAddress: "2001:db8::7", CopyDisks: []string{"vda"}, Shallow: true, BandwidthMax: 5<<20 + 1, PostCopy: true, Parallel: 2, AutoConverge: true}
	want := libvirt.MigrateLive | libvirt.MigratePeer2peer | libvirt.MigratePersistDest | libvirt.MigrateTLS | libvirt.MigrateNonSharedInc |
		libvirt.MigratePostcopy | libvirt.MigrateParallel | libvirt.MigrateAutoConverge
	if m.flags() != want {
		t.Errorf("flags %#x, want %#x", m.flags(), want)
	}
	if m.targetURI() != "qemu+tls://[2001:db8::7]/system" {
		t.Errorf("uri %s", m.targetURI())
	}
	got := decodeParams(m.params())
	if got["migrate_uri"] != "tcp://[2001:db8::7]" || got["migrate_disks"] != "vda" || got.integer("bandwidth") != 5 || got.integer("bandwidth.postcopy") != 5 || got.integer("parallel.connections") != 2 {
		t.Errorf("parameters %v", got)
	}
	shared := Move{ID: testID, TargetAddress: "192.0.2.1", Shallow: true}
	if shared.flags()&(libvirt.MigrateNonSharedInc|libvirt.MigrateNonSharedDisk) != 0 {
		t.Error("a move without disks to copy copies disks")
	}
}

func TestErrorsOfLibvirtGetTheirKind(t *testing.T) {
	for code, want := range map[libvirt.ErrorNumber]cloud.Kind{
		libvirt.ErrNoDomain: cloud.KindNotFound, libvirt.ErrOperationInvalid: cloud.KindConflict, libvirt.ErrOperationAborted: cloud.KindCancelled,
		libvirt.ErrInternalError: cloud.KindInternal,
	} {
		if err := wrap("op", testID, libvirt.Error{Code: uint32(code), Message: "m"}); !cloud.Is(err, want) {
			t.Errorf("code %d: kind %s, want %s", code, cloud.KindOf(err), want)
		}
	}
	if err := wrap("op", testID, libvirt.ErrInterrupted); !cloud.Is(err, cloud.KindUnavailable) {
		t.Errorf("lost connection: %v", err)
	}
	if wrap("op", testID, nil) != nil {
		t.Error("no error became one")
	}
}

func TestCapabilitiesListUsableModels(t *testing.T) {
	caps, err := parseCapabilities([]byte(`<domainCapabilities><path>/usr/bin/q</path><machine>pc-i440fx-7.2</machine><cpu>
<mode name='host-model' supported='yes'><model fallback='forbid'>EPYC</model><vendor>AMD</vendor></mode>
<mode name='custom' supported='yes'><model usable='yes'>qemu64</model><model usable='no'>Nehalem</model><model usable='unknown'>kvm64</model></mode>
</cpu></domainCapabilities>`))
	if err != nil || caps.HostModel != "EPYC" || caps.Vendor != "AMD" || len(caps.CPUModels) != 2 || caps.CPUModels[0] != "kvm64" {
		t.Errorf("read %+v, %v", caps, err)
	}
	if _, err := parseCapabilities([]byte("<x/>")); err == nil {
		t.Error("another document was accepted")
	}
}
