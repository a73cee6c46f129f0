package control

import (
	"context"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/spare"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

const (
	// sparePeriod is how often the fleet's spare room is judged without a change that is watched: hosts' reports change all the time, and rarely matter.
	sparePeriod = 30 * time.Second
	// sparePause bounds how often it is judged: a thousand hosts take 35 ms.
	sparePause = time.Second
)

// spare keeps the record of whether the servers of the largest hosts would find room elsewhere.
func (l *leader) spare(ctx context.Context) error {
	watch := l.Store.Watch(ctx, tables.Hosts, tables.HostSessions, tables.HostVerdicts, tables.HostPowers, tables.Usages, tables.Servers, tables.Aggregates, tables.ServerGroups, tables.SegmentHosts)
	return l.loop(ctx, "judging spare room", sparePeriod, watch, func(ctx context.Context) error {
		if err := l.judgeSpare(ctx); err != nil {
			return err
		}
		return pause(ctx, sparePause)
	})
}

// judgeSpare judges once, and writes and says what is new. A leader that does not judge removes what another wrote.
func (l *leader) judgeSpare(ctx context.Context) error {
	v := l.Store.View()
	held, known := store.Lookup(v, tables.SpareRooms, tables.SpareRoomKey)
	p := l.SparePolicy()
	if p.Hosts == 0 {
		if !known {
			return nil
		}
		_, err := l.records.UpdateVisible(ctx, func(tx *store.Tx) error { return store.Delete(tx, tables.SpareRooms, tables.SpareRoomKey) })
		return err
	}
	now := time.Now().UTC()
	snap := tables.Snapshot(v, now)
	found := spare.Judge(p, &snap, store.All(v, tables.Servers))
	l.Metrics.spare(found)
	if known && spare.Same(*held, found) {
		return nil
	}
	found.Since = now
	if known && held.Short() == found.Short() {
		found.Since = held.Since
	}
	if _, err := l.records.UpdateVisible(ctx, func(tx *store.Tx) error { return store.Put(tx, tables.SpareRooms, tables.SpareRoomKey, found) }); err != nil {
		return err
	}
	switch {
	case found.Short() && (!known || !held.Short()):
		l.log.Warn("the fleet is short of spare room", "reason", found.Describe())
	case !found.Short() && known && held.Short():
		l.log.Info("the fleet has spare room again", "lost", found.Lost)
	}
	return nil
}

// SparePolicy is what package spare is asked with.
func (o Options) SparePolicy() spare.Policy {
	return spare.Policy{Placement: o.Policy, Hosts: o.SpareHosts, Automatic: o.Recovery.Automatic}
}

// spare notes a judgement.
func (m *Metrics) spare(r cloud.SpareRoom) {
	if m != nil {
		m.homeless.Set(float64(r.Homeless))
	}
}
