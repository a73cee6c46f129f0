package control

import (
	"cmp"
	"context"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/optimize"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
	"github.com/godwit-cloud/godwit/internal/telemetry"
)

const (
	// accountEvery is how often use is added up, unless Optimising says otherwise.
	accountEvery = 5 * time.Second
	// FlushTimes is after how many such times sums are written; what a leader that dies has not written is lost.
	FlushTimes = 12
	// accountSpanMax bounds what one look accounts for: a leader that was stopped does not make up what it did not see.
	accountSpanMax = time.Minute
	// accountDays is how long accounts are kept.
	accountDays = 400
	// waitShort is the share of what it uses that a server waits for from which on it counts as short of CPU.
	waitShort = 0.1
	// hostShort is the share of a host's CPU from which on it counts as overloaded.
	hostShort = 0.99
)

// books are sums that are not written yet. Only the optimiser's loop touches them.
type books struct {
	last    time.Time // of the last look
	flushed time.Time
	open    map[string]*cloud.Account // additions, by AccountKey
	counted map[cloud.MigrationID]bool
	begun   bool

	awake, short time.Duration // of all hosts, since the caution was last adjusted
}

// takeShort returns the share of the awake hosts' time that was short of CPU since it was last asked.
func (b *books) takeShort() float64 {
	awake, short := b.awake, b.short
	b.awake, b.short = 0, 0
	if awake == 0 {
		return 0
	}
	return short.Seconds() / awake.Seconds()
}

func (b *books) at(now time.Time, kind cloud.AccountKind, subject string) *cloud.Account {
	day := now.Format(time.DateOnly)
	key := tables.AccountKey(day, kind, subject)
	a := b.open[key]
	if a == nil {
		a = &cloud.Account{Day: day, Kind: kind, Subject: subject}
		b.open[key] = a
	}
	return a
}

// account adds up what was used since the last look, and writes the sums now and then.
func (o *optimiser) account(ctx context.Context, v store.View, now time.Time) error {
	b := &o.books
	if b.open == nil {
		b.open, b.counted, b.last, b.flushed = map[string]*cloud.Account{}, map[cloud.MigrationID]bool{}, now, now
	}
	span := min(now.Sub(b.last), accountSpanMax)
	every := cmp.Or(o.Optimising.AccountEvery, accountEvery)
	if span < every {
		return nil
	}
	b.last = now
	snap := tables.Snapshot(v, now)
	o.accountUse(v, &snap, o.Optimising.Book.Readings(), now, span)
	o.accountMoves(v, now)
	if now.Sub(b.flushed) < FlushTimes*every {
		return nil
	}
	b.flushed = now
	return o.flush(ctx, now)
}

// accountUse adds hosts' and servers' energy, CPU and overload.
func (o *optimiser) accountUse(v store.View, snap *cloud.Snapshot, readings telemetry.Readings, now time.Time, span time.Duration) {
	b, models, powers := &o.books, optimize.PowerOf(snap, o.Optimising.Settings), powersOf(v)
	for i := range snap.Hosts {
		view := &snap.Hosts[i]
		name := view.Host.Name
		if powers[name].State == cloud.HostAsleep {
			b.at(now, cloud.AccountHost, string(name)).Asleep += span
			o.Optimising.Metrics.sleeps(name)
			continue
		}
		reading, known := readings.Hosts[name]
		if !known || now.Sub(reading.At) > 2*readings.Step || view.Report.VCPUs == 0 {
			continue
		}
		a := b.at(now, cloud.AccountHost, string(name))
		a.Seen += span
		a.CPUSeconds += reading.CPUUsed * span.Seconds()
		cpus := float64(view.Report.VCPUs)
		model := models[name]
		watts, by := o.draws(name, reading, model.At(reading.CPUUsed/cpus), now)
		draw(a, watts, by, span)
		b.awake += span
		o.Optimising.Metrics.used(name, watts, span.Seconds())
		if o.accountServers(v, view, readings, share{watts, min(watts, model[0]), by}, now, span) || reading.CPUUsed >= hostShort*cpus {
			a.Overload += span
			b.short += span
			o.Optimising.Metrics.short(name, span.Seconds())
		}
	}
}

// draw adds energy to an account.
func draw(a *cloud.Account, watts float64, by cloud.PowerSource, span time.Duration) {
	a.WattSeconds += watts * span.Seconds()
	if by != cloud.PowerByModel {
		a.Measured += watts * span.Seconds()
	}
	a.PowerBy = by
}

// share is what a host draws, and of that what it would draw idle.
type share struct {
	watts, idle float64
	by          cloud.PowerSource
}

// accountServers gives a host's energy to its servers: what it draws idle by their memory, the rest by their CPU use. It reports whether they wait so
// much that the host counts as overloaded.
func (o *optimiser) accountServers(v store.View, view *cloud.HostView, readings telemetry.Readings, s share, now time.Time, span time.Duration) bool {
	var memory, used, waited float64
	servers := store.By(v, tables.Servers, tables.ByHost, view.Host.Name)
	for _, server := range servers {
		if r, ok := readings.Servers[server.ID]; ok {
			memory += float64(server.Flavor.RAMMiB)
			used += r.CPUUsed
			waited += r.CPUWait
		}
	}
	for _, server := range servers {
		r, ok := readings.Servers[server.ID]
		if !ok {
			continue
		}
		a := o.books.at(now, cloud.AccountServer, string(server.ID))
		a.Name, a.Project = server.Name, server.Project
		a.Seen += span
		a.CPUSeconds += r.CPUUsed * span.Seconds()
		watts := s.idle * float64(server.Flavor.RAMMiB) / max(memory, 1)
		if used > 0 {
			watts += (s.watts - s.idle) * r.CPUUsed / used
		}
		draw(a, watts, s.by, span)
		if r.CPUWait > waitShort*r.CPUUsed && r.CPUUsed > 0.05 {
			a.Overload += span
		}
	}
	return used > 0.5 && waited > waitShort*used
}

// accountMoves adds live migrations that have ended since the last look.
func (o *optimiser) accountMoves(v store.View, now time.Time) {
	b := &o.books
	for _, m := range store.By(v, tables.Migrations, tables.ByStatus, cloud.MigrationCompleted) {
		if b.counted[m.ID] || m.Type != cloud.TypeLiveMigration {
			continue
		}
		b.counted[m.ID] = true
		if !b.begun { // those of the past were counted by whoever saw them end
			continue
		}
		down := time.Duration(0)
		if m.Totals != nil {
			down = m.Totals.Downtime
		}
		for _, a := range []*cloud.Account{b.at(now, cloud.AccountHost, string(m.Source)), b.at(now, cloud.AccountServer, string(m.Server))} {
			a.Migrations++
			a.Downtime += down
			if a.Kind == cloud.AccountServer {
				a.Project = m.Project
			}
		}
	}
	b.begun = true
}

// flush adds the sums to the records.
func (o *optimiser) flush(ctx context.Context, now time.Time) error {
	open := o.books.open
	o.books.open = map[string]*cloud.Account{}
	err := o.write(ctx, func(tx *store.Tx) error {
		for key, add := range open {
			held, err := store.Peek(tx, tables.Accounts, key)
			if err != nil {
				return err
			}
			next := *add
			if held != nil {
				next = sumOf(*held, *add)
			}
			next.Updated = now
			if err := store.Put(tx, tables.Accounts, key, next); err != nil {
				return err
			}
		}
		return dropOld(tx, now)
	})
	if err != nil { // nothing is lost: it is added again with the next
		for key, a := range open {
			if later := o.books.open[key]; later != nil {
				*a = sumOf(*a, *later)
			}
			o.books.open[key] = a
		}
	}
	return err
}

func sumOf(a, b cloud.Account) cloud.Account {
	if b.Name != "" {
		a.Name, a.Project = b.Name, b.Project
	}
	a.Add(&b)
	return a
}

// dropOld removes the accounts of the day that has become too old.
func dropOld(tx *store.Tx, now time.Time) error {
	old, err := store.PeekList(tx, tables.Accounts, tables.AccountKey(now.AddDate(0, 0, -accountDays).Format(time.DateOnly), "", ""))
	if err != nil {
		return err
	}
	for _, a := range old {
		if err := store.Delete(tx, tables.Accounts, tables.AccountKey(a.Day, a.Kind, a.Subject)); err != nil {
			return err
		}
	}
	return nil
}
