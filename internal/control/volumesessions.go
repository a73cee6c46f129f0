package control

import (
	"context"
	"fmt"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// volumeSession is what is remembered of one volume service's stream. Only the service's own calls, which come in turn, touch it.
type volumeSession struct {
	since time.Time
	lease *store.Lease
	seen  time.Time // of the last write of the session record
}

// VolumesUp implements hostapi.VolumeSessionHandler. A name that a compute host has is refused with cloud.KindConflict.
func (s *Sessions) VolumesUp(ctx context.Context, name cloud.HostName, facts *hostpb.VolumeFacts) error {
	ctx, cancel := context.WithTimeout(ctx, writeMax)
	defer cancel()
	lease, err := s.leased(ctx)
	if err != nil {
		return err
	}
	now := time.Now().UTC()
	_, err = s.store.UpdateVisible(ctx, func(tx *store.Tx) error {
		if err := introduceVolumes(tx, name, now); err != nil {
			return err
		}
		if err := putVolumeReport(tx, name, facts, now); err != nil {
			return err
		}
		return store.PutLease(tx, tables.VolumeSessions, name, cloud.HostSession{Host: name, Endpoint: s.endpoint, Since: now, Seen: now}, lease)
	})
	if err != nil {
		return fmt.Errorf("volume service %s: begin session: %w", name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.volumes[name] = &volumeSession{since: now, lease: lease, seen: now}
	return nil
}

// introduceVolumes makes the record of a volume service that is seen for the first time.
func introduceVolumes(tx *store.Tx, name cloud.HostName, now time.Time) error {
	host, err := store.Peek(tx, tables.Hosts, name)
	if err != nil {
		return err
	}
	if host != nil {
		return cloud.Errorf(cloud.KindConflict, "%s is the name of a compute host: give the volume service another one (volumes.name)", name)
	}
	known, err := store.Peek(tx, tables.VolumeServices, name)
	if err != nil || known != nil {
		return err
	}
	return store.Put(tx, tables.VolumeServices, name, cloud.VolumeService{Name: name, Zone: cloud.DefaultZone, Created: now, Updated: now})
}

// putVolumeReport writes the service's report unless a newer one is there.
func putVolumeReport(tx *store.Tx, name cloud.HostName, f *hostpb.VolumeFacts, now time.Time) error {
	held, err := store.Peek(tx, tables.VolumeReports, name)
	if err != nil {
		return err
	}
	if held != nil && older(f.GetGeneration(), f.GetSeq(), held.Generation, held.Seq) {
		return nil
	}
	return store.Put(tx, tables.VolumeReports, name, volumeReportOf(name, f, now))
}

func volumeReportOf(name cloud.HostName, f *hostpb.VolumeFacts, now time.Time) cloud.VolumeReport {
	r := cloud.VolumeReport{
		Service: name, Generation: f.GetGeneration(), Seq: f.GetSeq(), Version: f.GetVersion(), Engine: f.GetEngine(), EngineWhy: f.GetEngineWhy(),
		Backends: []cloud.VolumeBackend{}, At: now,
	}
	for _, b := range f.GetBackends() {
		r.Backends = append(r.Backends, cloud.VolumeBackend{
			Name: b.GetName(), Kind: b.GetKind(), Reflink: b.GetReflink(), TotalBytes: b.GetTotalBytes(), FreeBytes: b.GetFreeBytes(),
			Volumes: int(b.GetVolumes()), Error: b.GetError(), Troubles: troublesOf(b.GetTroubles()), Troubled: int(b.GetTroubled()),
		})
	}
	return r
}

func troublesOf(all []*hostpb.VolumeTrouble) []cloud.VolumeTrouble {
	var out []cloud.VolumeTrouble
	for _, t := range all {
		told := cloud.VolumeTrouble{Volume: cloud.VolumeID(t.GetVolumeId()), What: cloud.VolumeTroubleKind(t.GetWhat()), Detail: t.GetDetail()}
		if since := t.GetSince(); since != 0 {
			told.Since = time.Unix(0, since).UTC()
		}
		out = append(out, told)
	}
	return out
}

// VolumesEvent implements hostapi.VolumeSessionHandler.
func (s *Sessions) VolumesEvent(ctx context.Context, name cloud.HostName, event *hostpb.HostEvent) error {
	s.mu.Lock()
	on := s.volumes[name]
	s.mu.Unlock()
	if lost(on.lease) {
		return cloud.Errorf(cloud.KindUnavailable, "volume service %s: this server lost its lease in the store", name)
	}
	ctx, cancel := context.WithTimeout(ctx, writeMax)
	defer cancel()
	now := time.Now().UTC()
	if facts := event.GetVolumeFacts(); facts != nil {
		return s.write(ctx, func(tx *store.Tx) error { return putVolumeReport(tx, name, facts, now) })
	}
	if event.GetHeartbeat() == nil || now.Sub(on.seen) < seenEvery {
		return nil
	}
	on.seen = now
	return s.write(ctx, func(tx *store.Tx) error {
		return store.PutLease(tx, tables.VolumeSessions, name, cloud.HostSession{Host: name, Endpoint: s.endpoint, Since: on.since, Seen: now}, on.lease)
	})
}

// VolumesDown implements hostapi.VolumeSessionHandler.
func (s *Sessions) VolumesDown(name cloud.HostName) {
	s.mu.Lock()
	on := s.volumes[name]
	delete(s.volumes, name)
	s.mu.Unlock()
	if err := s.endSession(tables.VolumeSessions, name, on.since); err != nil {
		s.log.Warn("cannot write that a volume service is down; its lease will", "service", name, "error", err)
	}
}
