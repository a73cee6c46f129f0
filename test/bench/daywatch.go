package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/lab"
	"github.com/godwit-cloud/godwit/test/labcloud"
)

// dayRecord is what was seen of a day.
type dayRecord struct {
	options       dayOptions
	traces        dayLoads
	began, ended  time.Time
	before, after dayAccounts
	sample        atomic.Int64  // of the traces, that guests follow now
	whole         int           // disk logs
	missed        int           // loads that were not told in time
	busy          time.Duration // CPU time of the whole machine meanwhile

	mu     sync.Mutex // guards what follows
	looks  []dayLook
	wakes  map[string]int // by "bmc" or "lan"
	sleeps int
	moves  map[cloud.MigrationID]*dayMove
}

// dayLook is a moment: how many hosts were awake, what guests were told to use.
type dayLook struct {
	at    time.Time
	awake int
	asked float64
	short int // hosts whose guests were told to use more than they have
}

// dayMove is a migration and what a peer saw of it.
type dayMove struct {
	cloud.Migration
	blackout time.Duration
	seen     bool // the peer had an answer before the move ended
}

// hour says when in the day something was.
func (r *dayRecord) hour(t time.Time) float64 { return t.Sub(r.began).Hours() * r.options.speed }

func (r *dayRecord) progress() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	text := fmt.Sprintf("hour %.1f: %d moves, %d sleeps, wakes %v", r.hour(time.Now()), len(r.moves), r.sleeps, r.wakes)
	if n := len(r.looks); n > 0 {
		text += fmt.Sprintf(", %d hosts awake", r.looks[n-1].awake)
	}
	return text
}

// dayHost is a host as the operator API shows it.
type dayHost struct {
	Name  string           `json:"name"`
	State string           `json:"state"`
	Power *cloud.HostPower `json:"power"`
}

func (s *stage) dayHosts(ctx context.Context) ([]dayHost, error) {
	var out struct {
		Hosts []dayHost `json:"hosts"`
	}
	err := s.Operator(ctx, http.MethodGet, "hosts", nil, &out)
	return slices.DeleteFunc(out.Hosts, func(h dayHost) bool { return h.Name == dayObserver }), err
}

const (
	dayLookEvery  = time.Second
	dayMovesEvery = 200 * time.Millisecond
	// dayMoveMax bounds what is waited for of one move.
	dayMoveMax = 5 * time.Minute
)

// watchHosts notes every second what the hosts do.
func (s *stage) watchHosts(ctx context.Context, r *dayRecord, guests dayFollowers) error {
	states := map[string]string{}
	for every(ctx, dayLookEvery) {
		hosts, err := s.dayHosts(ctx)
		if err != nil {
			return ignoreEnd(ctx, err)
		}
		page, err := servers.List(s.Compute, servers.ListOpts{}).AllPages(ctx)
		if err != nil {
			return ignoreEnd(ctx, err)
		}
		list, err := servers.ExtractServers(page)
		if err != nil {
			return err
		}
		r.look(hosts, list, guests, states)
	}
	return nil
}

// look notes a moment and, by what the states were before, sleeps and wakes.
func (r *dayRecord) look(hosts []dayHost, list []servers.Server, guests dayFollowers, states map[string]string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	loads := r.traces.at(int(r.sample.Load()))
	asked := map[string]float64{}
	l := dayLook{at: time.Now()}
	for i, g := range guests {
		l.asked += float64(loads[i]) / 1000
		for _, one := range list {
			if one.ID == g.server.ID {
				asked[one.Host] += float64(loads[i]) / 1000
			}
		}
	}
	for _, h := range hosts {
		if h.State != string(cloud.HostAsleep) {
			l.awake++
		}
		if asked[h.Name] > dayHostCPUs {
			l.short++
		}
		was := states[h.Name]
		states[h.Name] = h.State
		switch {
		case was == "" || was == h.State || h.Power == nil:
		case h.State == string(cloud.HostAsleep):
			r.sleeps++
		case h.State == "up" && (was == string(cloud.HostWaking) || was == string(cloud.HostAsleep)):
			if r.wakes == nil {
				r.wakes = map[string]int{}
			}
			r.wakes[h.Power.WakeBy]++
		}
	}
	r.looks = append(r.looks, l)
}

// every waits for the next turn; false when ctx is over.
func every(ctx context.Context, period time.Duration) bool {
	select {
	case <-time.After(period):
		return true
	case <-ctx.Done():
		return false
	}
}

func ignoreEnd(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// watchMoves has the peer ping every server that moves, from when the move is seen to a moment after it has ended.
func (s *stage) watchMoves(ctx context.Context, r *dayRecord) error {
	var work sync.WaitGroup
	defer work.Wait()
	r.mu.Lock()
	r.moves = map[cloud.MigrationID]*dayMove{}
	r.mu.Unlock()
	for every(ctx, dayMovesEvery) {
		var out struct {
			Migrations []cloud.Migration `json:"migrations"`
		}
		if err := s.Operator(ctx, http.MethodGet, "migrations?status=unfinished", nil, &out); err != nil {
			return ignoreEnd(ctx, err)
		}
		for _, m := range out.Migrations {
			r.mu.Lock()
			known := r.moves[m.ID] != nil
			move := &dayMove{Migration: m}
			if !known {
				r.moves[m.ID] = move
			}
			r.mu.Unlock()
			if !known {
				work.Go(func() { s.watchMove(context.WithoutCancel(ctx), r, m) })
			}
		}
	}
	return nil
}

// watchMove measures one move. What cannot be measured is told, and the move is listed without a blackout.
func (s *stage) watchMove(ctx context.Context, r *dayRecord, m cloud.Migration) {
	ctx, cancel := context.WithTimeout(ctx, dayMoveMax)
	defer cancel()
	blackout, seen, err := s.traceMove(ctx, m)
	if err != nil {
		log.Printf("  move %d of %s was not measured: %v", m.Number, m.Server, err)
	}
	record, recordErr := s.Record(ctx, string(m.ID))
	if recordErr != nil {
		log.Printf("  move %d has no record: %v", m.Number, recordErr)
		record = m
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	*r.moves[m.ID] = dayMove{Migration: record, blackout: blackout, seen: seen && err == nil}
}

// pingEvery is fine enough for blackouts of a tenth of a second, and leaves the two cores to the guests.
const pingEvery = 5 * time.Millisecond

func (s *stage) traceMove(ctx context.Context, m cloud.Migration) (blackout time.Duration, seen bool, err error) {
	server, err := s.Server(ctx, string(m.Server))
	if err != nil {
		return 0, false, err
	}
	address, err := netip.ParseAddr(labcloud.Address(server))
	if err != nil {
		return 0, false, err
	}
	var trace *lab.Trace
	if trace, err = s.Peer.StartTrace(ctx, address, pingEvery); err != nil {
		return 0, false, err
	}
	err = trace.AwaitReply(ctx)
	answered := time.Now()
	if err == nil {
		err = labcloud.Until(ctx, "move ended", func() (bool, error) {
			now, err := s.Record(ctx, string(m.ID))
			if err == nil && now.Status.Final() {
				seen = now.Finished.After(answered)
				return true, nil
			}
			return false, err
		})
	}
	every(ctx, time.Second) // the guest answers again on the other host
	report, stopErr := trace.Stop()
	return report.Blackout, seen, errors.Join(err, stopErr)
}

// dayAccounts are what the leader wrote of use, at a time.
type dayAccounts struct {
	at    time.Time
	hosts map[string]cloud.Account
	total cloud.Account
}

// machineBusy is the CPU time that the whole machine has used since it started, whoever used it.
func machineBusy() (time.Duration, error) {
	raw, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(raw), "\n")
	const used, userHZ = 7, 100 // user nice system (idle iowait) irq softirq: no steal, no guest time, which user time has in it
	words := strings.Fields(line)
	if len(words) <= used {
		return 0, fmt.Errorf("/proc/stat begins with %q", line)
	}
	ticks := int64(0)
	for i, word := range words[1 : used+1] {
		if i == 3 || i == 4 { // idle, iowait
			continue
		}
		n, err := strconv.ParseInt(word, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/stat: %w", err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / userHZ, nil
}

// accountsAfter waits until accounts are written that count up to t or later: the leader writes them now and then.
func (s *stage) accountsAfter(ctx context.Context, t time.Time) (dayAccounts, error) {
	since := t.UTC().AddDate(0, 0, -1).Format(time.DateOnly) // a run may go over midnight
	var out dayAccounts
	err := labcloud.Until(ctx, "accounts", func() (bool, error) {
		var answer struct {
			Accounts []cloud.Account `json:"accounts"`
		}
		if err := s.Operator(ctx, http.MethodGet, "accounting?by=host&since="+since, nil, &answer); err != nil {
			return false, err
		}
		out = dayAccounts{hosts: map[string]cloud.Account{}}
		for _, a := range answer.Accounts {
			if a.Subject == dayObserver {
				continue
			}
			out.hosts[a.Subject] = a
			out.total.Add(&a)
			if a.Updated.After(out.at) {
				out.at = a.Updated
			}
		}
		return len(out.hosts) == dayHosts && out.at.After(t), nil
	})
	return out, err
}
