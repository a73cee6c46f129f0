package control

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/fence"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
	"github.com/godwit-cloud/godwit/internal/telemetry"
)

const (
	// meterPeriod is how often BMCs are asked what their hosts draw. Their own sampling is no finer than a second, and many are slow.
	meterPeriod = 10 * time.Second
	// meterCallMax bounds one reading, meterCallsMax those under way at a time.
	meterCallMax  = 8 * time.Second
	meterCallsMax = 16
	// meterFreshMax is how old a reading may be that still counts.
	meterFreshMax = 30 * time.Second
	// meterFailedAfter and meterLacksAfter are when a BMC is asked again that did not answer, and one that said that it has no meter.
	meterFailedAfter = time.Minute
	meterLacksAfter  = time.Hour
)

// meters are what hosts draw as their BMCs say. Safe for concurrent use.
type meters struct {
	mu    sync.Mutex // guards what follows
	hosts map[cloud.HostName]meterReading
}

// meterReading is a BMC's last word.
type meterReading struct {
	watts float64
	at    time.Time
	next  time.Time // when it is asked again
}

func newMeters() *meters { return &meters{hosts: map[cloud.HostName]meterReading{}} }

// watts returns what a host's BMC said lately.
func (m *meters) watts(host cloud.HostName, now time.Time) (float64, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.hosts[host]
	return r.watts, r.watts > 0 && now.Sub(r.at) <= meterFreshMax
}

// due reports whether a host's BMC is asked now.
func (m *meters) due(host cloud.HostName, now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !now.Before(m.hosts[host].next)
}

// note keeps what a BMC answered.
func (m *meters) note(host cloud.HostName, watts float64, err error, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.hosts[host]
	switch {
	case err == nil:
		r = meterReading{watts: watts, at: now, next: now}
	case cloud.Is(err, cloud.KindUnsupported):
		r.next = now.Add(meterLacksAfter)
	default:
		r.next = now.Add(meterFailedAfter)
	}
	m.hosts[host] = r
}

// keep forgets hosts that are no more, or have no BMC any more.
func (m *meters) keep(hosts map[cloud.HostName]bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for host := range m.hosts {
		if !hosts[host] {
			delete(m.hosts, host)
		}
	}
}

// meter reads BMCs until ctx ends.
func (l *leader) meter(ctx context.Context) error {
	if l.Optimising.Book == nil { // nobody accounts for anything
		<-ctx.Done()
		return nil
	}
	return l.loop(ctx, "reading what hosts draw", meterPeriod, l.Store.Watch(ctx, tables.BMCs), func(ctx context.Context) error {
		l.readMeters(ctx, time.Now())
		return nil
	})
}

func (l *leader) readMeters(ctx context.Context, now time.Time) {
	v := l.Store.View()
	present := map[cloud.HostName]bool{}
	var g errgroup.Group
	g.SetLimit(meterCallsMax)
	for _, bmc := range store.All(v, tables.BMCs) {
		present[bmc.Host] = true
		_, awake := store.Lookup(v, tables.HostSessions, bmc.Host)
		if !awake || !l.meters.due(bmc.Host, now) {
			continue
		}
		g.Go(func() error {
			watts, err := readMeter(ctx, bmc)
			if err != nil && ctx.Err() == nil {
				l.log.Debug("a BMC has not told what its host draws", "host", bmc.Host, "error", err)
			}
			l.meters.note(bmc.Host, watts, err, time.Now())
			return nil
		})
	}
	_ = g.Wait() // none fails
	l.meters.keep(present)
}

func readMeter(ctx context.Context, bmc *cloud.BMC) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, meterCallMax)
	defer cancel()
	driver, err := fence.New(fence.SettingsOf(bmc))
	if err != nil {
		return 0, err
	}
	meter, ok := driver.(fence.Meter)
	if !ok {
		return 0, cloud.Errorf(cloud.KindUnsupported, "BMC %s is no meter", driver)
	}
	return meter.Watts(ctx)
}

// draws returns what a host draws and how that is known: its BMC measures all of it, its own counters (RAPL) processors and memory, and else its power
// model says what such a host draws at this load.
func (o *optimiser) draws(host cloud.HostName, reading telemetry.HostReading, modelled float64, now time.Time) (float64, cloud.PowerSource) {
	if watts, ok := o.meters.watts(host, now); ok {
		return watts, cloud.PowerByBMC
	}
	if reading.Watts > 0 {
		return reading.Watts, cloud.PowerByHost
	}
	return modelled, cloud.PowerByModel
}
