package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/services"
	"golang.org/x/sync/errgroup"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/test/labcloud"
)

// The section "day": hosts and guests of a lab live through a recorded day, faster than it was, while the optimiser does as it likes.
//
//	traces --follow--> the guests' load          one sample of five minutes every 300 s / speed
//	                   server + three hosts      automation full: moves, sleeps, wakes
//	compute-4 (disabled): the peer that talks to guests, measures blackouts, and never sleeps
//
// Everything that takes time by the optimiser's settings is divided by the speed; what takes time by itself (a move, a power cycle) is not, so it
// costs sixty times what it would cost in a real day.
const (
	dayHosts    = 3
	dayGuests   = 12
	dayObserver = "compute-4"
	dayByLAN    = "compute-3" // has no BMC: it is woken by magic packets
	dayHostCPUs = 1
	dayRAMMiB   = 128
	// daySample is what a sample of a trace stands for.
	daySample = 5 * time.Minute
	// dayLoad is the mean of what all guests are told to use together, CPUs. An emulated guest uses some 0.05 beside; the lab's two cores have to carry
	// the guests, their moves, and the daemons of five nodes.
	dayLoad = 0.4
	// dayAccounting is how often what was used is written, which the day's beginning and end wait for.
	dayAccounting = 5 * time.Second
	// dayLoadPeak is the most at any time, to which the loads are scaled down if need be.
	dayLoadPeak = 1.2
)

// dayOptions are the flags of the section.
type dayOptions struct {
	traces string
	length time.Duration
	speed  float64
}

func (o dayOptions) scaled(d time.Duration) time.Duration {
	return time.Duration(float64(d) / o.speed).Round(time.Millisecond)
}

// window is the time in which no server may move twice.
func (o dayOptions) window() time.Duration { return o.scaled(30 * time.Minute) }

func (o dayOptions) optimizer() map[string]any {
	return map[string]any{
		"automation": "full", "goal": "consolidate", "step": o.scaled(daySample).String(), "telemetry": "1s", "window": o.window().String(),
		"horizon": o.scaled(30 * time.Minute).String(), "awake_min": o.scaled(10 * time.Minute).String(), "failover_hosts": 0, "overload_goal": 0.03,
		"accounting": dayAccounting.String(),
	}
}

// measureDay is the section.
func measureDay(ctx context.Context, b *bench) (string, error) {
	traces, err := dayTraces(b.day.traces)
	if err != nil {
		return "", err
	}
	s, err := b.labWith(ctx, "day", func(o *labcloud.Options) {
		o.Hosts, o.Storage, o.BMC, o.WakeOnLAN, o.CPUs = dayHosts+1, 0, true, true, dayHostCPUs
		o.Optimize, o.Placement = b.day.optimizer(), map[string]any{"cpu_ratio": 16}
	})
	if err != nil {
		return "", err
	}
	if err := s.prepareDay(ctx); err != nil {
		return "", err
	}
	guests, err := s.bootDay(ctx)
	if err != nil {
		return "", err
	}
	defer guests.close()
	r := &dayRecord{options: b.day, traces: traces}
	if err := s.liveDay(ctx, r, guests); err != nil {
		return "", err
	}
	if err := r.check(ctx, s, guests); err != nil {
		return "", err
	}
	if err := b.drawDay(r); err != nil {
		return "", err
	}
	text := r.report()
	if b.out != "" {
		text += "\n![Hosts awake, load and moves](benchmarks/" + dayPlot + ")\n"
	}
	return text, nil
}

// prepareDay makes the observer an observer, and has the other hosts prove that they wake.
func (s *stage) prepareDay(ctx context.Context) error {
	if err := s.LiftQuota(ctx); err != nil {
		return err
	}
	if err := s.disable(ctx, dayObserver); err != nil {
		return err
	}
	if err := s.Operator(ctx, http.MethodDelete, "hosts/"+dayByLAN+"/bmc", nil, nil); err != nil {
		return err
	}
	var g errgroup.Group
	for i := range dayHosts {
		host := fmt.Sprintf("compute-%d", i+1)
		g.Go(func() error { return s.proveWake(ctx, host) })
	}
	return g.Wait()
}

func (s *stage) disable(ctx context.Context, host string) error {
	page, err := services.List(s.Compute, services.ListOpts{Host: host}).AllPages(ctx)
	if err != nil {
		return err
	}
	list, err := services.ExtractServices(page)
	if err != nil || len(list) != 1 {
		return errors.Join(err, fmt.Errorf("host %s has %d services", host, len(list)))
	}
	_, err = services.Update(ctx, s.Compute, list[0].ID, services.UpdateOpts{Status: services.ServiceDisabled, DisabledReason: "the observer"}).Extract()
	return err
}

// wakeTestMax bounds a cycle of sleep and wake on a busy machine.
const wakeTestMax = 5 * time.Minute

func (s *stage) proveWake(ctx context.Context, host string) error {
	ctx, cancel := context.WithTimeout(ctx, wakeTestMax)
	defer cancel()
	if err := s.Operator(ctx, http.MethodPost, "hosts/"+host+"/power", map[string]any{"ask": "test"}, nil); err != nil {
		return err
	}
	return labcloud.Until(ctx, host+" proves that it wakes", func() (bool, error) {
		p, err := s.power(ctx, host)
		if p.State == cloud.HostAwake && !p.WakeProven.IsZero() {
			log.Printf("  %s: %s; asleep after %.1f s, awake after %.1f s", host, p.Reason, p.SleepTook.Seconds(), p.WakeTook.Seconds())
			return true, err
		}
		return false, err
	})
}

func (s *stage) power(ctx context.Context, host string) (cloud.HostPower, error) {
	var out struct {
		Host struct {
			Power cloud.HostPower `json:"power"`
		} `json:"host"`
	}
	return out.Host.Power, s.Operator(ctx, http.MethodGet, "hosts/"+host, nil, &out)
}

// liveDay lets the day pass.
func (s *stage) liveDay(ctx context.Context, r *dayRecord, guests dayFollowers) error {
	var err error
	if r.before, err = s.accountsAfter(ctx, time.Now()); err != nil { // from a writing to a writing
		return err
	}
	r.began = r.before.at
	before, err := machineBusy()
	if err != nil {
		return err
	}
	log.Printf("  %s of the day begin, %g times as fast", r.options.length, r.options.speed)
	live, stop := context.WithCancel(ctx)
	var g errgroup.Group
	g.Go(func() error { return s.watchHosts(live, r, guests) })
	g.Go(func() error { return s.watchMoves(live, r) })
	err = guests.follow(ctx, s, r)
	if err == nil {
		r.after, err = s.accountsAfter(ctx, time.Now())
	}
	stop()
	if watching := g.Wait(); err == nil {
		err = watching
	}
	r.ended = r.after.at
	after, busyErr := machineBusy()
	r.busy = after - before
	return errors.Join(err, busyErr)
}
