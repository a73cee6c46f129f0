package sim

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/godwit-cloud/godwit/internal/consolidate"
)

// Day is one simulation to run.
type Day struct {
	Spec    Spec
	Rules   Rules
	Load    *Workload
	Policy  string // the planner's name
	Planner consolidate.Planner
	Seed    int64
	// AlwaysOn makes every host draw full power all day (NPA).
	AlwaysOn bool
}

// firstLoad is when the load is first taken, in seconds: CloudSim's broker needs a tenth of a second to start the servers, and every
// step keeps that offset.
const firstLoad = 0.1

// Run lives through the day. It fails when the servers do not fit or the planner breaks the rules.
func (d Day) Run(ctx context.Context) (Result, error) {
	if err := d.Spec.Validate(); err != nil {
		return Result{}, err
	}
	w := newWorld(&d)
	if err := d.live(ctx, w); err != nil {
		return Result{}, fmt.Errorf("day %s, policy %s: %w", d.Load.Name, d.Policy, err)
	}
	return w.result(&d, d.seconds()), nil
}

func (d Day) seconds() float64 { return float64(d.Load.Samples()) * d.Spec.StepSeconds }

func (d Day) live(ctx context.Context, w *world) error {
	if err := w.boot(); err != nil {
		return err
	}
	now, end := firstLoad, d.seconds()
	if !d.Rules.AsCloudSim {
		if err := w.step(now); err != nil {
			return err
		}
	}
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		next := now + d.Spec.StepSeconds
		next = now + (next - now) // CloudSim's clock adds differences: so does this, to the last bit
		if next >= end {
			break
		}
		now = next
		if err := w.step(now); err != nil {
			return err
		}
	}
	if !d.Rules.AsCloudSim {
		w.takeLoad(end, false)
	}
	return nil
}

// step takes the load, decides, and lets the moves happen: those that take equally long end together.
func (w *world) step(now float64) error {
	w.takeLoad(now, true)
	f := w.fleet()
	w.planner.Observe(f)
	moves := w.planner.Plan(f, w.rng)
	if !w.rules.AsCloudSim {
		moves = consolidate.Collapse(moves)
	}
	if err := w.start(moves); err != nil {
		return err
	}
	w.point(len(moves))
	slices.SortStableFunc(moves, func(a, b consolidate.Move) int { return cmp.Compare(w.seconds(a), w.seconds(b)) })
	for len(moves) > 0 {
		n := 1
		for n < len(moves) && w.seconds(moves[n]) == w.seconds(moves[0]) {
			n++
		}
		w.takeLoad(now+w.seconds(moves[0]), false)
		w.finish(moves[:n])
		moves = moves[n:]
	}
	return nil
}

// RunAll runs days side by side and returns their results in the order of the days, or the first error. It waits for all it started.
func RunAll(ctx context.Context, days []Day, workers int) ([]Result, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	results := make([]Result, len(days))
	next := make(chan int) // unbuffered: a day is handed out when somebody is free
	var group sync.WaitGroup
	for range min(max(workers, 1), len(days)) {
		group.Go(func() {
			for i := range next {
				r, err := days[i].Run(ctx)
				if err != nil {
					cancel(err)
				}
				results[i] = r
			}
		})
	}
	for i := range days {
		select {
		case next <- i:
		case <-ctx.Done():
		}
	}
	close(next)
	group.Wait()
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	return results, nil
}
