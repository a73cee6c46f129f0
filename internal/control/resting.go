package control

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/fence"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/hostpower"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

const (
	restingPeriod = time.Second
	// sleepCallMax bounds the call that tells a host to sleep: it answers before it sleeps.
	sleepCallMax = 15 * time.Second
	// fallAsleepMax is how long a host that was told to sleep may still be heard; then it is taken to have refused. Machines save their disks first.
	fallAsleepMax = 3 * time.Minute
	// tellAgainAfter is when a host that did not answer the call to sleep and is still heard is called again.
	tellAgainAfter = 2 * time.Second
	// wakeTryMax bounds one try to wake a host; a BMC takes seconds.
	wakeTryMax = 30 * time.Second
	// wakeAgainMin is the least time between two tries; a host that was timed gets one and a half times what it took before the next.
	wakeAgainMin = 20 * time.Second
	// wakeAgainMax bounds it, for a host that fails.
	wakeAgainMax = 5 * time.Minute
	// wakeTriesMax is after how many tries a wake has failed. It is tried on, more rarely: somebody may plug the host in again.
	wakeTriesMax = 4
)

// rester puts hosts to sleep and wakes them: what their records ask for, one step at each look. Calls to hosts and BMCs run beside the looks, one for
// each host at a time.
type rester struct {
	*leader
	work sync.WaitGroup
	mu   sync.Mutex
	busy map[cloud.HostName]bool // guarded by mu
}

// rest runs until ctx ends.
func (l *leader) rest(ctx context.Context) error {
	r := &rester{leader: l, busy: map[cloud.HostName]bool{}}
	defer r.work.Wait()
	watch := l.Store.Watch(ctx, tables.HostPowers, tables.HostSessions)
	return l.loop(ctx, "putting hosts to sleep and waking them", restingPeriod, watch, r.round)
}

func (r *rester) round(ctx context.Context) error {
	v, now := r.Store.View(), time.Now().UTC()
	var errs []error
	for _, p := range store.All(v, tables.HostPowers) {
		errs = append(errs, r.look(ctx, v, p, now))
	}
	return errors.Join(errs...)
}

// look does what is next for one host.
func (r *rester) look(ctx context.Context, v store.View, p *cloud.HostPower, now time.Time) error {
	session, connected := store.Lookup(v, tables.HostSessions, p.Host)
	report, reported := store.Lookup(v, tables.HostReports, p.Host)
	began := reported && connected && report.Generation > p.AgentGeneration // another life of the agent than that which was told to sleep
	switch p.State {
	case cloud.HostAwake, "":
		switch p.Asked {
		case cloud.AskSleep, cloud.AskTest:
			if !connected {
				return r.update(ctx, p, func(n *cloud.HostPower) {
					n.Asked, n.Reason = cloud.AskNothing, "it did not sleep: its agent is not connected"
				})
			}
			return r.fallAsleep(ctx, p, report, now)
		case cloud.AskWake:
			return r.update(ctx, p, func(n *cloud.HostPower) { n.Asked = cloud.AskNothing })
		case cloud.AskNothing:
		}
	case cloud.HostFallingAsleep:
		switch {
		case !connected:
			return r.update(ctx, p, func(n *cloud.HostPower) {
				n.SleepTook = learn(n.SleepTook, now.Sub(n.Since))
				n.State, n.Since = cloud.HostAsleep, now
			})
		case began:
			return r.awake(ctx, p, now, "it came back by itself")
		case !p.NextTry.IsZero() && now.After(p.NextTry):
			return r.tellAgain(ctx, v, p)
		case now.Sub(p.Since) > fallAsleepMax:
			return r.update(ctx, p, func(n *cloud.HostPower) {
				n.State, n.Since, n.Asked, n.Reason = cloud.HostAwake, now, cloud.AskNothing, fmt.Sprintf("it was told to sleep and is still awake after %s", fallAsleepMax)
			})
		}
	case cloud.HostAsleep:
		switch {
		case began || connected && session.Since.After(p.Since):
			return r.awake(ctx, p, now, "it came back by itself")
		case p.Asked == cloud.AskWake || p.Asked == cloud.AskTest:
			return r.update(ctx, p, func(n *cloud.HostPower) { n.State, n.Since, n.WakeTries, n.NextTry = cloud.HostWaking, now, 0, now })
		}
	case cloud.HostWaking:
		if connected && (began || session.Since.After(p.Since)) {
			return r.awoken(ctx, p, now)
		}
		r.tryWake(ctx, v, p, now)
	}
	return nil
}

// update writes a host's next state unless somebody changed the record meanwhile.
func (r *rester) update(ctx context.Context, was *cloud.HostPower, change func(next *cloud.HostPower)) error {
	_, err := r.records.UpdateVisible(ctx, func(tx *store.Tx) error {
		held, err := store.Get(tx, tables.HostPowers, was.Host)
		if err != nil || !alike(&held, was) {
			return ignore(err, cloud.KindNotFound)
		}
		change(&held)
		return store.Put(tx, tables.HostPowers, was.Host, held)
	})
	if err == nil {
		if next, ok := store.Lookup(r.Store.View(), tables.HostPowers, was.Host); ok && next.State != was.State {
			r.log.Info("host power", "host", was.Host, "state", next.State, "reason", next.Reason)
		}
	}
	return err
}

// alike reports whether nobody has changed what decides: the state, since when, what is asked, and how often was tried.
func alike(a, b *cloud.HostPower) bool {
	return a.State == b.State && a.Since.Equal(b.Since) && a.Asked == b.Asked && a.WakeTries == b.WakeTries
}

// awake notes that a host is there without having been woken.
func (r *rester) awake(ctx context.Context, p *cloud.HostPower, now time.Time, why string) error {
	return r.update(ctx, p, func(n *cloud.HostPower) {
		n.State, n.Since, n.Asked, n.Reason, n.WakeTries = cloud.HostAwake, now, cloud.AskNothing, why, 0
	})
}

// learn leans what is known to what was just seen.
func learn(known, seen time.Duration) time.Duration {
	if known == 0 {
		return seen
	}
	return (known + seen) / 2
}

// awoken notes a wake that succeeded, and what it took.
func (r *rester) awoken(ctx context.Context, p *cloud.HostPower, now time.Time) error {
	return r.update(ctx, p, func(n *cloud.HostPower) {
		took := now.Sub(n.Since)
		n.WakeTook = learn(n.WakeTook, took)
		n.State, n.Since, n.Asked, n.WakeTries, n.WakeFailures, n.WakeProven = cloud.HostAwake, now, cloud.AskNothing, 0, 0, now
		n.Reason = fmt.Sprintf("woken by %s in %s: %s", n.WakeBy, took.Round(100*time.Millisecond), n.Reason)
	})
}

// fallAsleep marks the host first, so that nobody places a server on it, and tells it then.
func (r *rester) fallAsleep(ctx context.Context, p *cloud.HostPower, report *cloud.HostReport, now time.Time) error {
	mode := p.AskedMode
	if mode == "" {
		mode = r.Optimising.SleepMode
	}
	if mode == "" {
		mode = cloud.SleepPowerOff
	}
	next := *p
	next.State, next.Since, next.Mode, next.AgentGeneration, next.NextTry = cloud.HostFallingAsleep, now, mode, report.Generation, time.Time{}
	if next.Asked == cloud.AskSleep {
		next.Asked = cloud.AskNothing
	}
	var refusal error
	_, err := r.records.UpdateVisible(ctx, func(tx *store.Tx) error {
		refusal = nil
		held, err := store.Get(tx, tables.HostPowers, p.Host)
		if err != nil || !alike(&held, p) {
			return cloud.Errorf(cloud.KindStale, "host %s: somebody was faster: %v", p.Host, err)
		}
		if refusal = hostpower.Quiet(tx, p.Host); refusal != nil {
			held.Asked, held.Reason = cloud.AskNothing, refusal.Error()
			return store.Put(tx, tables.HostPowers, p.Host, held)
		}
		return store.Put(tx, tables.HostPowers, p.Host, next)
	})
	if err != nil || refusal != nil {
		return ignore(err, cloud.KindStale)
	}
	bmc, _ := store.Lookup(r.Store.View(), tables.BMCs, p.Host)
	r.begin(p.Host, func() { r.tellSleep(ctx, &next, bmc) })
	return nil
}

// tellSleep calls the host. One that refuses is awake again; one that does not answer is looked at again when the time is over.
func (r *rester) tellSleep(ctx context.Context, p *cloud.HostPower, bmc *cloud.BMC) {
	ctx, cancel := context.WithTimeout(ctx, sleepCallMax)
	defer cancel()
	mode := p.Mode
	if mode == cloud.SleepBMC && bmc == nil {
		mode = cloud.SleepPowerOff
	}
	host, err := r.Hosts.Host(p.Host)
	if err == nil { // also when its BMC does it: the host knows whether something runs on it
		_, err = host.Sleep(ctx, &hostpb.SleepRequest{Mode: string(mode), Reason: p.Reason})
	}
	if err == nil && mode == cloud.SleepBMC {
		if err = shutDown(ctx, bmc); cloud.Is(err, cloud.KindUnavailable) { // nothing has happened, and the host is there to hear of it
			err = cloud.E(cloud.KindConflict, "shut down", string(p.Host), err)
		}
	}
	if err == nil || ctx.Err() != nil {
		return
	}
	if cloud.Is(err, cloud.KindUnavailable) { // it may have heard, and its answer be lost; one that has not heard is told again
		err := r.update(ctx, p, func(n *cloud.HostPower) { n.NextTry = time.Now().UTC().Add(tellAgainAfter) })
		if err != nil {
			r.log.Warn("that a host did not answer was not written", "host", p.Host, "error", err)
		}
		return
	}
	r.log.Warn("a host does not want to sleep", "host", p.Host, "error", err)
	if err := r.update(ctx, p, func(n *cloud.HostPower) {
		n.State, n.Since, n.Asked, n.Reason = cloud.HostAwake, time.Now().UTC(), cloud.AskNothing, "it refused to sleep: "+err.Error()
	}); err != nil {
		r.log.Warn("that a host refused to sleep was not written", "host", p.Host, "error", err)
	}
}

// tellAgain repeats the call to a host that may not have heard it.
func (r *rester) tellAgain(ctx context.Context, v store.View, p *cloud.HostPower) error {
	if err := r.update(ctx, p, func(n *cloud.HostPower) { n.NextTry = time.Time{} }); err != nil {
		return err
	}
	bmc, _ := store.Lookup(v, tables.BMCs, p.Host)
	r.begin(p.Host, func() { r.tellSleep(ctx, p, bmc) })
	return nil
}

// shutDown has a host's BMC press its power button.
func shutDown(ctx context.Context, bmc *cloud.BMC) error {
	driver, err := fence.New(fence.SettingsOf(bmc))
	if err != nil {
		return err
	}
	button, ok := driver.(fence.Shutdowner)
	if !ok {
		return cloud.Errorf(cloud.KindUnsupported, "BMC %s shuts nothing down in order", driver)
	}
	return button.ShutDown(ctx)
}

// begin runs work beside the looks, unless something is under way for that host.
func (r *rester) begin(host cloud.HostName, work func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.busy[host] {
		return
	}
	r.busy[host] = true
	r.work.Go(func() {
		work()
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.busy, host)
	})
}

// tryWake begins a try when one is due: odd ones by the BMC if there is one, even ones by magic packet, so that neither way's failure is the end.
func (r *rester) tryWake(ctx context.Context, v store.View, p *cloud.HostPower, now time.Time) {
	if now.Before(p.NextTry) {
		return
	}
	bmc, hasBMC := store.Lookup(v, tables.BMCs, p.Host)
	way := "bmc"
	if !hasBMC || p.WakeTries%2 == 1 {
		way = "lan"
	}
	r.begin(p.Host, func() {
		var err error
		try, cancel := context.WithTimeout(ctx, wakeTryMax)
		defer cancel()
		if way == "bmc" {
			err = wakeByBMC(try, bmc)
		} else {
			err = r.wakeByLAN(try, v, p.Host)
		}
		if ctx.Err() != nil {
			return
		}
		r.noteTry(ctx, p, way, err)
	})
}

func (r *rester) noteTry(ctx context.Context, p *cloud.HostPower, way string, failure error) {
	err := r.update(ctx, p, func(n *cloud.HostPower) {
		n.WakeTries++
		again := max(wakeAgainMin, n.WakeTook*3/2)
		if failure != nil {
			n.Reason = fmt.Sprintf("wake by %s: %v", way, failure)
			again = 2 * time.Second // the other way, soon
		} else {
			n.WakeBy = way
		}
		if n.WakeTries == wakeTriesMax {
			n.WakeFailures++
			n.Reason = fmt.Sprintf("it does not wake after %d tries (%s)", n.WakeTries, n.Reason)
			r.log.Error("needs a person", "host", n.Host, "reason", n.Reason)
		}
		if n.WakeTries >= wakeTriesMax {
			again = wakeAgainMax
		}
		n.NextTry = time.Now().UTC().Add(min(again, wakeAgainMax))
	})
	if err != nil {
		r.log.Warn("a try to wake a host was not written", "host", p.Host, "error", err)
	}
}

func wakeByBMC(ctx context.Context, bmc *cloud.BMC) error {
	driver, err := fence.New(fence.SettingsOf(bmc))
	if err != nil {
		return err
	}
	_, err = fence.Wake(ctx, driver, fence.Patience{})
	return err
}

// wakersMax is how many hosts send magic packets: each is on the same networks, and some may be about to go.
const wakersMax = 3

// wakeByLAN has other hosts send magic packets.
func (r *rester) wakeByLAN(ctx context.Context, v store.View, name cloud.HostName) error {
	report, ok := store.Lookup(v, tables.HostReports, name)
	if !ok || len(report.WakeMACs) == 0 {
		return cloud.Errorf(cloud.KindUnsupported, "host %s has told no interface that a magic packet wakes", name)
	}
	sent := 0
	var errs []error
	for _, s := range store.All(v, tables.HostSessions) {
		if s.Host == name || sent == wakersMax {
			continue
		}
		other, err := r.Hosts.Host(s.Host)
		if err == nil {
			_, err = other.Wake(ctx, &hostpb.WakeRequest{Macs: report.WakeMACs})
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("from host %s: %w", s.Host, err))
			continue
		}
		sent++
	}
	if sent == 0 {
		return errors.Join(append(errs, errors.New("no other host could send a magic packet"))...)
	}
	return nil
}
