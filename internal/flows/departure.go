package flows

import (
	"context"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// A guest has moved the moment it runs on the target and nothing is left on the source that could run it. libvirt says so a fifth of a second later:
// it confirms the move on the source only when it has seen the source's process end, and it looks five times a second. The source's agent is told of
// that end by the kernel, so the run asks it to tell, then asks the target whether the CPUs run there, and goes on. What libvirt has to say is heard
// before the source is cleaned up. This is one row of judge's table (gone, runs) and no weaker than libvirt's word: a process that has ended cannot be
// resumed, whereas libvirt may resume one if it loses the target's answer. Not with post-copy: there CPUs run on the target while memory is missing.

// stateDeparted is the name under which a run remembers that it went on before the source's libvirt had confirmed.
const stateDeparted = "departed"

// arrived reports whether the guest, whose process on the source has ended, runs on the target.
func (f *Flows) arrived(ctx context.Context, r *run, m *cloud.Migration) (bool, error) {
	target := f.look(ctx, m.Target, m.Server)
	gone := &hostpb.ServerState{Domain: hostpb.DomainState_DOMAIN_STATE_ABSENT}
	if !is(target, hostpb.DomainState_DOMAIN_STATE_RUNNING) || judge(gone, target, m.ID, 0, f.Doubt) != completed {
		return false, nil
	}
	if err := r.Set(stateDeparted, true); err != nil || target.GetArrival() == nil {
		return err == nil, err
	}
	totals := Stats(target.GetArrival())
	if p, ok := store.Lookup(f.Records.View(), tables.Progress, m.ID); ok { // disks are the source's to count
		totals.DiskTotal, totals.DiskProcessed = p.Stats.DiskTotal, p.Stats.DiskTotal
	}
	return true, r.Set(stateTotals, totals)
}

// confirmMax bounds the wait for libvirt's own word on the source, which is under way; the move does not depend on it.
const confirmMax = 10 * time.Second

// confirm hears what libvirt on the source has to say of a move that the run did not wait for, and takes its figures, which are complete.
func (f *Flows) confirm(ctx context.Context, r *run, m *cloud.Migration) error {
	departed := false
	if _, err := r.Get(stateDeparted, &departed); err != nil || !departed {
		return err
	}
	request, err := f.migrateRequest(r, m)
	if err != nil {
		return ignoreMissing(err)
	}
	request.TellDeparture = false
	asking, cancel := context.WithTimeout(ctx, confirmMax)
	defer cancel()
	reply, err := f.migrateOnce(asking, m.Source, request)
	if err != nil || reply.GetOutcome() != hostpb.MigrateOutcome_MIGRATE_OUTCOME_COMPLETED {
		logger(r).Warn("the source does not confirm the move; the guest runs on the target", "source", m.Source, "target", m.Target,
			"outcome", reply.GetOutcome(), "reason", reply.GetError(), "error", err)
		return ctx.Err()
	}
	totals := Stats(reply.GetStats())
	settleStats(&totals)
	return ignoreMissing(f.update(ctx, r, func(tx *store.Tx, _ *cloud.Server) error {
		return changeMigration(tx, r, func(m *cloud.Migration) error {
			m.Totals = &totals
			return nil
		})
	}))
}
