package flows

import (
	"context"
	"fmt"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/placement"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// A landing is what choosing a host needs to know: the request to placement, and what to write together with the claim.
type landing struct {
	request   placement.Request
	migration cloud.MigrationID // set when the claim is the target of a move
	// commit writes, in the claim's transaction, that the server goes to host. Its error ends the search.
	commit func(tx *store.Tx, host cloud.HostName) error
}

// land claims the best host that still fits when the claim commits, and records the decision. The snapshot may be milliseconds old; what it
// could be wrong about is checked again inside the transaction, and a host that was taken meanwhile is passed over.
//
// When no host fits and one that sleeps would, that one is woken, and the search is made once more.
func (f *Flows) land(ctx context.Context, r *run, l landing) (cloud.HostName, error) {
	chosen, verdicts, err := f.claimBest(ctx, l)
	if err == nil && chosen == "" {
		var woken bool
		if woken, err = f.wakeFor(ctx, r, l.request); woken {
			chosen, verdicts, err = f.claimBest(ctx, l)
		}
	}
	if err != nil {
		return "", err
	}
	decision := cloud.Decision{Server: l.request.Server, Intent: r.Args.ID, Purpose: string(l.request.Purpose), Chosen: chosen, Verdicts: verdicts, At: now()}
	if err := f.decide(ctx, decision); err != nil {
		return chosen, err
	}
	if chosen == "" {
		return "", placement.NoValidHost(verdicts)
	}
	return chosen, nil
}

// claimBest claims the best host that fits; the name is empty when none does.
func (f *Flows) claimBest(ctx context.Context, l landing) (cloud.HostName, []cloud.Verdict, error) {
	snap := tables.Snapshot(f.Records.View(), now())
	verdicts := placement.Rank(f.Policy, &snap, l.request)
	for i := range verdicts {
		v := &verdicts[i]
		if !v.Fits {
			break // those that fit come first
		}
		reasons, err := f.tryClaim(ctx, l, v.Host)
		if err != nil {
			return "", verdicts, err
		}
		if len(reasons) == 0 {
			return v.Host, verdicts, nil
		}
		v.Fits, v.Reasons = false, reasons
	}
	return "", verdicts, nil
}

// landForced claims the host that an administrator insists on: it must be up, and nothing else is asked.
func (f *Flows) landForced(ctx context.Context, r *run, l landing) (cloud.HostName, error) {
	host := l.request.ForcedHost
	verdict := cloud.Verdict{Host: host, Fits: true, Reasons: []string{"request: an administrator forced this host, nothing was checked"}}
	_, err := f.Records.UpdateVisible(ctx, func(tx *store.Tx) error {
		view, err := tables.HostViewIn(tx, f.Records.View(), host)
		if err != nil {
			return err
		}
		if !view.Up {
			return cloud.Errorf(cloud.KindNoValidHost, "No valid host was found. %s: the host is down.", host)
		}
		group, err := groupIn(tx, l.request.Group)
		if err != nil {
			return err
		}
		view.Usage.Host = host
		placement.Claim(&view.Usage, group, cloud.Claim{Server: l.request.Server, Migration: l.migration, Resources: l.request.Resources})
		if err := putUsage(tx, view.Usage, group); err != nil {
			return err
		}
		return l.commit(tx, host)
	})
	if err != nil {
		return "", err
	}
	return host, f.decide(ctx, cloud.Decision{Server: l.request.Server, Intent: r.Args.ID, Purpose: string(l.request.Purpose), Chosen: host,
		Verdicts: []cloud.Verdict{verdict}, At: now()})
}

// decide keeps the decision for `godwit why`.
func (f *Flows) decide(ctx context.Context, d cloud.Decision) error {
	_, err := f.Records.UpdateVisible(ctx, func(tx *store.Tx) error {
		return store.Put(tx, tables.Decisions, tables.DecisionKey(d.Server, d.Intent), d)
	})
	return err
}

// tryClaim claims the host in one transaction, or returns why it no longer fits.
func (f *Flows) tryClaim(ctx context.Context, l landing, host cloud.HostName) (reasons []string, err error) {
	_, err = f.Records.UpdateVisible(ctx, func(tx *store.Tx) error {
		view, err := tables.HostViewIn(tx, f.Records.View(), host)
		if err != nil {
			return err
		}
		group, err := groupIn(tx, l.request.Group)
		if err != nil {
			return err
		}
		if reasons = placement.Recheck(f.Policy, view, group, l.request); len(reasons) > 0 {
			return nil
		}
		view.Usage.Host = host
		placement.Claim(&view.Usage, group, cloud.Claim{Server: l.request.Server, Migration: l.migration, Resources: l.request.Resources})
		if err := putUsage(tx, view.Usage, group); err != nil {
			return err
		}
		return l.commit(tx, host)
	})
	if err != nil {
		return nil, fmt.Errorf("claim host %s: %w", host, err)
	}
	return reasons, nil
}

// groupIn returns the server group, nil when the server has none or the group is gone.
func groupIn(tx *store.Tx, id cloud.GroupID) (*cloud.ServerGroup, error) {
	if id == "" {
		return nil, nil
	}
	g, err := store.Get(tx, tables.ServerGroups, id)
	if cloud.Is(err, cloud.KindNotFound) {
		return nil, nil
	}
	return &g, err
}

func putUsage(tx *store.Tx, u cloud.Usage, group *cloud.ServerGroup) error {
	if err := store.Put(tx, tables.Usages, u.Host, u); err != nil {
		return err
	}
	if group == nil {
		return nil
	}
	return store.Put(tx, tables.ServerGroups, group.ID, *group)
}

// release gives back the server's claim on the host, if there is one.
func release(tx *store.Tx, s *cloud.Server, host cloud.HostName) error {
	return changeUsage(tx, host, s.Group, func(u *cloud.Usage, g *cloud.ServerGroup) bool { return placement.Release(u, g, s.ID) })
}

// settle turns the claim of a finished move into an ordinary one.
func settle(tx *store.Tx, s *cloud.Server, host cloud.HostName) error {
	return changeUsage(tx, host, "", func(u *cloud.Usage, _ *cloud.ServerGroup) bool { return placement.Settle(u, s.ID) })
}

func changeUsage(tx *store.Tx, host cloud.HostName, group cloud.GroupID, change func(*cloud.Usage, *cloud.ServerGroup) bool) error {
	if host == "" {
		return nil
	}
	u, err := store.Get(tx, tables.Usages, host)
	if cloud.Is(err, cloud.KindNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	g, err := groupIn(tx, group)
	if err != nil {
		return err
	}
	if !change(&u, g) {
		return nil
	}
	return putUsage(tx, u, g)
}
