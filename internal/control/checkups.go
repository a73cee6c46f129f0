package control

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

const (
	// checkupEvery is how often each host is looked at: what is looked for changes by hand or over days.
	checkupEvery = time.Minute
	// checkupPeriod is how often it is asked who is due.
	checkupPeriod = 5 * time.Second
	// checkupMax bounds one look.
	checkupMax = 20 * time.Second
	// checkupsAtOnce bounds the looks under way.
	checkupsAtOnce = 4
	// checkupTargets bounds the hosts to which a host tries its ways in one look: all of a small fleet, and of a large one others each time.
	checkupTargets = 32
)

// checkups looks at what moves need of hosts, one after another and again and again, until ctx ends.
func (l *leader) checkups(ctx context.Context) error {
	c := &examiner{leader: l, last: map[cloud.HostName]time.Time{}}
	return l.loop(ctx, "checkups", checkupPeriod, l.Store.Watch(ctx, tables.HostSessions), c.round)
}

// An examiner remembers when hosts were looked at. Only its loop touches it.
type examiner struct {
	*leader
	last map[cloud.HostName]time.Time
	turn int // of the next look, for which others a host of a large fleet tries
}

// round looks at all hosts that are due. A host that has just connected is, and so is one whose fellow has: ways go both ways.
func (c *examiner) round(ctx context.Context) error {
	v, now := c.Store.View(), time.Now().UTC()
	var newest time.Time
	var due []cloud.HostName
	for _, s := range store.All(v, tables.HostSessions) {
		if s.Since.After(newest) {
			newest = s.Since
		}
	}
	for _, s := range store.All(v, tables.HostSessions) {
		if last := c.last[s.Host]; now.Sub(last) >= checkupEvery || last.Before(newest) {
			due = append(due, s.Host)
			c.last[s.Host] = now
		}
	}
	turns := make(chan struct{}, checkupsAtOnce)
	var work sync.WaitGroup
	for _, name := range due {
		targets := c.targets(v, name)
		turns <- struct{}{}
		work.Go(func() {
			defer func() { <-turns }()
			if err := c.examine(ctx, name, targets); err != nil && !cloud.Is(err, cloud.KindUnavailable) && ctx.Err() == nil {
				c.log.Warn("a host was not looked at", "host", name, "error", err)
			}
		})
	}
	work.Wait()
	return c.forget(ctx, v)
}

// targets are the hosts to which a host tries its ways this time.
func (c *examiner) targets(v store.View, name cloud.HostName) []*hostpb.CheckupTarget {
	var all []*hostpb.CheckupTarget
	for _, s := range store.All(v, tables.HostSessions) {
		if r, ok := store.Lookup(v, tables.HostReports, s.Host); ok && s.Host != name && r.MigrationAddress != "" {
			all = append(all, &hostpb.CheckupTarget{Host: string(s.Host), Address: r.MigrationAddress, PeerPort: int64(r.PeerPort)})
		}
	}
	if len(all) <= checkupTargets {
		return all
	}
	from := c.turn % len(all)
	c.turn += checkupTargets
	return slices.Concat(all[from:], all[:from])[:checkupTargets]
}

// examine looks at one host and writes down what was found.
func (c *examiner) examine(ctx context.Context, name cloud.HostName, targets []*hostpb.CheckupTarget) error {
	host, err := c.Hosts.Host(name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, checkupMax)
	defer cancel()
	ways, err := host.Checkup(ctx, &hostpb.CheckupRequest{Targets: targets})
	if err != nil {
		return err
	}
	// The clock by a question of its own, as the first one took as long as the slowest way.
	asked := time.Now()
	clock, err := host.Checkup(ctx, &hostpb.CheckupRequest{})
	if err != nil {
		return err
	}
	took := time.Since(asked)
	found := cloud.Checkup{
		Host: name, At: asked.UTC(), ClockAhead: clock.GetClock().AsTime().Sub(asked.Add(took / 2)), ClockMargin: took / 2, CertificateError: ways.GetCertificateError(),
	}
	if end := ways.GetCertificateEnd(); end != nil {
		found.CertificateEnd = end.AsTime()
	}
	for _, t := range targets {
		found.Looked = append(found.Looked, cloud.HostName(t.GetHost()))
	}
	for _, r := range ways.GetResults() {
		found.Closed = append(found.Closed, cloud.ClosedWay{To: cloud.HostName(r.GetHost()), Way: r.GetWay(), Error: r.GetError()})
	}
	_, err = c.records.UpdateVisible(ctx, func(tx *store.Tx) error { return store.Put(tx, tables.Checkups, name, found) })
	return err
}

// forget removes what was found of hosts that are no more.
func (c *examiner) forget(ctx context.Context, v store.View) error {
	for _, one := range store.All(v, tables.Checkups) {
		if _, ok := store.Lookup(v, tables.Hosts, one.Host); ok {
			continue
		}
		if _, err := c.records.UpdateVisible(ctx, func(tx *store.Tx) error { return store.Delete(tx, tables.Checkups, one.Host) }); err != nil {
			return err
		}
	}
	return nil
}
