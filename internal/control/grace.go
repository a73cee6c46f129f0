package control

import (
	"context"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

const (
	// fleetGraceMax is how long a new leader waits for the hosts its predecessor had before it decides anything: longer than agents take to
	// find a restarted server (their first tries are a fraction of a second apart), short beside what people notice. Without it, whatever was
	// asked during a restart would find every host down.
	fleetGraceMax = 5 * time.Second
	// recentlySeen is how fresh a host's last report must be for the host to be waited for. Hosts report every ten seconds.
	recentlySeen = time.Minute
)

// awaitFleet returns when every host and volume service that was there a moment ago is connected to this instance and known to be up, or after
// fleetGraceMax.
func (l *leader) awaitFleet(ctx context.Context) {
	bounded, cancel := context.WithTimeout(ctx, fleetGraceMax)
	defer cancel()
	hosts, services := recentHosts(l.Store.View(), time.Now()), recentVolumes(l.Store.View(), time.Now())
	for _, name := range hosts {
		_, _ = l.Hosts.WaitHost(bounded, name) // one that does not come is reported below
	}
	for _, name := range services {
		_, _ = l.Volumes.WaitVolumes(bounded, name)
	}
	watch := l.Store.Watch(bounded, tables.HostSessions, tables.VolumeSessions)
	for {
		v := l.Store.View()
		absent := append(withoutSession(v, tables.HostSessions, hosts), withoutSession(v, tables.VolumeSessions, services)...)
		if len(absent) == 0 {
			return
		}
		select {
		case <-watch:
			if bounded.Err() == nil {
				continue
			}
		case <-bounded.Done():
		}
		if ctx.Err() == nil {
			l.log.Warn("leading without hosts that were there a moment ago", "absent", absent)
		}
		return
	}
}

// recentVolumes lists the volume services that reported not long before now.
func recentVolumes(v store.View, now time.Time) []cloud.HostName {
	var recent []cloud.HostName
	for _, r := range store.All(v, tables.VolumeReports) {
		if now.Sub(r.At) <= recentlySeen {
			recent = append(recent, r.Service)
		}
	}
	return recent
}

// recentHosts lists the hosts that reported not long before now, that nobody has forced down and that do not sleep.
func recentHosts(v store.View, now time.Time) []cloud.HostName {
	var recent []cloud.HostName
	for _, h := range store.All(v, tables.Hosts) {
		r, reported := store.Lookup(v, tables.HostReports, h.Name)
		p, asked := store.Lookup(v, tables.HostPowers, h.Name)
		sleeps := asked && p.Resting()
		if !h.ForcedDown && !sleeps && reported && now.Sub(r.At) <= recentlySeen {
			recent = append(recent, h.Name)
		}
	}
	return recent
}

func withoutSession(v store.View, sessions store.Table[cloud.HostSession], names []cloud.HostName) []cloud.HostName {
	var out []cloud.HostName
	for _, name := range names {
		if _, up := store.Lookup(v, sessions, name); !up {
			out = append(out, name)
		}
	}
	return out
}
