package flows

import (
	"context"
	"fmt"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostpower"
	"github.com/godwit-cloud/godwit/internal/placement"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

const (
	// wakeWaitMin is how long a server waits at least for a host that is woken for it; a host that was timed gets three times what it took.
	wakeWaitMin = 5 * time.Minute
	wakeWaits   = 3
)

// wakeFor wakes a sleeping host that would take the server and waits until it is awake. It reports false when none would, and when the one asked did
// not wake in time: the request then fails for want of a host, as it would have.
func (f *Flows) wakeFor(ctx context.Context, r *run, request placement.Request) (bool, error) {
	host, ok := f.sleeper(request)
	if !ok {
		return false, nil
	}
	wish := hostpower.Wish{Host: host, Ask: cloud.AskWake, Reason: fmt.Sprintf("server %s fits nowhere else", request.Server)}
	var power cloud.HostPower
	_, err := f.Records.UpdateVisible(ctx, func(tx *store.Tx) (err error) {
		if err = hostpower.Ask(tx, wish, now()); err != nil {
			return err
		}
		power, err = hostpower.Get(tx, host)
		return err
	})
	if err != nil {
		return false, err
	}
	logger(r).Info("no awake host fits; waking one", "host", host, "server", request.Server)
	patience := max(wakeWaitMin, wakeWaits*power.WakeTook)
	wait, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	changed := f.Records.Watch(wait, tables.HostPowers, tables.HostSessions)
	for {
		view, ok := hostIn(f.Records.View(), host)
		if ok && view.Up {
			return true, nil
		}
		select {
		case _, open := <-changed:
			if !open && wait.Err() == nil {
				return false, cloud.Errorf(cloud.KindUnavailable, "the store is closing")
			}
		case <-wait.Done():
			if ctx.Err() != nil {
				return false, context.Cause(ctx)
			}
			logger(r).Warn("a host that was woken for a server did not come", "host", host, "waited", patience)
			return false, nil
		}
	}
}

// sleeper returns the sleeping host, or one that is about to sleep, that placement would choose if it were awake.
func (f *Flows) sleeper(request placement.Request) (cloud.HostName, bool) {
	v := f.Records.View()
	snap := tables.Snapshot(v, now())
	for i := range snap.Hosts {
		p, ok := store.Lookup(v, tables.HostPowers, snap.Hosts[i].Host.Name)
		if ok && p.Resting() && !snap.Hosts[i].Host.ForcedDown {
			snap.Hosts[i].Up = true
		} else {
			snap.Hosts[i].Host.Disabled = true // those awake have refused already
		}
	}
	verdicts := placement.Rank(f.Policy, &snap, request)
	if len(verdicts) == 0 || !verdicts[0].Fits {
		return "", false
	}
	return verdicts[0].Host, true
}

func hostIn(v store.View, name cloud.HostName) (cloud.HostView, bool) {
	snap := tables.Snapshot(v, now())
	for _, h := range snap.Hosts {
		if h.Host.Name == name {
			return h, true
		}
	}
	return cloud.HostView{}, false
}
