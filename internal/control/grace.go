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

// awaitFleet returns when every host that was there a moment ago is connected to this instance and known to be up, or after fleetGraceMax.
func (l *leader) awaitFleet(ctx context.Context) {
	bounded, cancel := context.WithTimeout(ctx, fleetGraceMax)
	defer cancel()
	recent := recentHosts(l.Store.View(), time.Now())
	for _, name := range recent {
		_, _ = l.Hosts.WaitHost(bounded, name) // one that does not come is reported below
	}
	watch := l.Store.Watch(bounded, tables.HostSessions)
	for {
		absent := withoutSession(l.Store.View(), recent)
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

// recentHosts lists the hosts that reported not long before now and that nobody has forced down.
func recentHosts(v store.View, now time.Time) []cloud.HostName {
	var recent []cloud.HostName
	for _, h := range store.All(v, tables.Hosts) {
		r, reported := store.Lookup(v, tables.HostReports, h.Name)
		if !h.ForcedDown && reported && now.Sub(r.At) <= recentlySeen {
			recent = append(recent, h.Name)
		}
	}
	return recent
}

func withoutSession(v store.View, hosts []cloud.HostName) []cloud.HostName {
	var out []cloud.HostName
	for _, name := range hosts {
		if _, up := store.Lookup(v, tables.HostSessions, name); !up {
			out = append(out, name)
		}
	}
	return out
}
