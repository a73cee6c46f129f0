package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"
	"golang.org/x/sync/errgroup"

	"github.com/godwit-cloud/godwit/internal/sim"
	"github.com/godwit-cloud/godwit/test/guest"
)

// dayLoads are what each guest is told to use, in thousandths of a CPU, one row a sample.
type dayLoads struct {
	name  string // of the day
	scale float64
	rows  [][]int
}

// dayTraces takes the guests' traces out of a folder, evenly over the names, or makes a day up, and scales them to what the machine can carry.
func dayTraces(folder string) (dayLoads, error) {
	const madeUp, samples, seed = 100, 288, 1
	day := sim.Synthetic(madeUp, samples, seed)
	if folder != "" {
		var err error
		if day, err = sim.ReadWorkload(os.DirFS(folder), folder); err != nil {
			return dayLoads{}, err
		}
	}
	if len(day.Traces) < dayGuests {
		return dayLoads{}, fmt.Errorf("traces %s: %d of %d that are needed", day.Name, len(day.Traces), dayGuests)
	}
	chosen := make([]sim.Trace, dayGuests)
	for i := range chosen {
		chosen[i] = day.Traces[i*len(day.Traces)/dayGuests]
	}
	sum, peak := 0.0, 0.0
	for k := range day.Samples() {
		row := 0.0
		for _, t := range chosen {
			row += t[k]
		}
		sum, peak = sum+row, max(peak, row)
	}
	if sum == 0 {
		return dayLoads{}, fmt.Errorf("traces %s: all idle", day.Name)
	}
	out := dayLoads{name: day.Name, scale: min(dayLoad*float64(day.Samples())/sum, dayLoadPeak/peak)}
	for k := range day.Samples() {
		row := make([]int, dayGuests)
		for i, t := range chosen {
			row[i] = min(1000, int(1000*t[k]*out.scale+0.5))
		}
		out.rows = append(out.rows, row)
	}
	return out, nil
}

// at returns a sample's loads; after the last the day begins again.
func (d dayLoads) at(sample int) []int { return d.rows[sample%len(d.rows)] }

// dayFollower is a guest and the connection by which it is told its load.
type dayFollower struct {
	server *servers.Server
	client *guest.Client
	bootID string
	missed int // samples that it was not told in time
}

type dayFollowers []*dayFollower

func (f dayFollowers) close() {
	for _, g := range f {
		if g.client != nil {
			g.client.Close()
		}
	}
}

// bootDay boots the guests where placement likes.
func (s *stage) bootDay(ctx context.Context) (dayFollowers, error) {
	flavor, err := s.Flavor(ctx, "day", 1, dayRAMMiB, 1)
	if err != nil {
		return nil, err
	}
	out := make(dayFollowers, dayGuests)
	const bootsMax = 3 // at a time, on two cores
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(bootsMax)
	for i := range out {
		g.Go(func() error {
			spec := s.Guest(fmt.Sprintf("day-%02d", i+1), "", map[string]string{"log": "500ms"})
			spec.Flavor = flavor
			server, err := s.Boot(gctx, spec)
			if err != nil {
				return err
			}
			f := &dayFollower{server: server}
			out[i] = f
			if err := f.connect(gctx, s); err != nil {
				return err
			}
			status, err := f.client.Status(gctx)
			f.bootID = status.BootID
			return err
		})
	}
	if err := g.Wait(); err != nil {
		out = nil
		return out, err
	}
	log.Printf("  %d guests are up", len(out))
	return out, nil
}

func (f *dayFollower) connect(ctx context.Context, s *stage) error {
	if f.client != nil {
		f.client.Close()
		f.client = nil
	}
	var err error
	f.client, err = s.Talk(ctx, f.server)
	return err
}

// tell has the guest follow its load. One that is on the move may not hear it in time: then it goes on with what it had, and is connected to again.
func (f *dayFollower) tell(ctx context.Context, s *stage, load int) {
	if f.client == nil && f.connect(ctx, s) != nil {
		f.missed++
		return
	}
	if err := f.client.Load(ctx, load); err != nil {
		f.missed++
		f.client.Close()
		f.client = nil
	}
}

// follow has all guests follow their traces until the day's part is over.
func (f dayFollowers) follow(ctx context.Context, s *stage, r *dayRecord) error {
	step := r.options.scaled(daySample)
	samples := int(r.options.length / daySample)
	tick := time.NewTicker(step)
	defer tick.Stop()
	for k := range samples {
		turn, cancel := context.WithTimeout(ctx, step)
		var all errgroup.Group
		for i, g := range f {
			all.Go(func() error { g.tell(turn, s, r.traces.at(k)[i]); return nil })
		}
		_ = all.Wait() // what was not heard is counted
		cancel()
		r.sample.Store(int64(k))
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		const hour = int(time.Hour / daySample)
		if (k+1)%hour == 0 {
			log.Printf("  %s", r.progress())
		}
	}
	return nil
}

// verify reads all disk logs, whose guests must be those that were booted.
func (f dayFollowers) verify(ctx context.Context, s *stage) (whole int, err error) {
	for _, g := range f {
		if g.client == nil {
			if err := g.connect(ctx, s); err != nil {
				return whole, err
			}
		}
		bad := g.verify(ctx)
		if bad == nil {
			whole++
		}
		err = errors.Join(err, bad)
	}
	return whole, err
}

func (f *dayFollower) verify(ctx context.Context) error {
	last, err := f.client.Sync(ctx)
	if err != nil {
		return err
	}
	status, err := f.client.Status(ctx)
	if err != nil {
		return err
	}
	report, err := f.client.Verify(ctx)
	if err != nil {
		return err
	}
	if !report.OK || report.Last < last || status.LogErrors > 0 || status.BootID != f.bootID {
		return fmt.Errorf("guest %s: log %+v, %d written, %d errors, booted as %s and now %s", f.server.Name, report, last, status.LogErrors, f.bootID, status.BootID)
	}
	return nil
}
