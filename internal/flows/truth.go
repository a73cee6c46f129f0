package flows

import (
	"context"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
)

// A live migration's cut-over happens between two libvirts; nobody else knows whether it has happened. When the answer of Migrate is lost, or the
// source's agent says that it cannot tell, both hosts are asked, again and again, until what they say admits one conclusion:
//
//	source           target           conclusion
//	outcome completed   any           completed: the source's libvirt has confirmed it
//	migrating (outgoing) any          going on: call Migrate again, which attaches to the job
//	runs, no job     not running      failed: libvirt on the source has taken the guest back
//	paused, no job   runs             completed: the source's libvirt lost its peer after the cut-over and left the decision to us
//	paused, no job   not running      failed, and the guest is resumed on the source
//	paused, no job   unreachable, or  unknown: the guest may run there, or be about to
//	                 paused, or
//	                 receiving
//	gone             runs             completed
//	unreachable      runs             completed: a guest that runs on the target can no longer run on the source
//	gone             gone             failed: the guest died on the way; there is nothing to keep on the target
//	unreachable for long, not running failed: if the source still migrates, losing its target makes it take the guest back
//	anything else                     unknown: ask again
//
// With post-copy the guest's CPUs run on the target while part of its memory is still on the source. Hosts say so (PostCopy), and that comes first:
//
//	in post-copy, either              going on
//	broken           runs, not broken completed: the target had all it needed
//	broken           unreachable      unknown
//	broken           otherwise        broken: the guest is lost, its newest disk is on the target
//	any              broken           broken
//
// "failed" leads to the target being discarded. That is safe even if the conclusion came a moment too early: the target's agent refuses to discard
// a server whose CPUs run.
type conclusion int

const (
	unknown conclusion = iota
	goingOn
	completed
	failed
	broken
)

// DoubtDefault is how long a source may be unreachable before a target on which the guest does not run is given up. Longer than an agent's or a
// libvirtd's restart, shorter than what a person at a hanging migration would stand.
const DoubtDefault = time.Minute

// A sighting is what one host says of the server; nil when it does not answer.
type sighting = *hostpb.ServerState

// judge is the table above. lost is for how long the source has not answered.
func judge(source, target sighting, migration cloud.MigrationID, lost, lostMax time.Duration) conclusion {
	targetRuns := is(target, hostpb.DomainState_DOMAIN_STATE_RUNNING)
	switch {
	case target.GetPostCopy() == hostpb.PostCopy_POST_COPY_BROKEN:
		return broken
	case source.GetPostCopy() == hostpb.PostCopy_POST_COPY_ACTIVE, target.GetPostCopy() == hostpb.PostCopy_POST_COPY_ACTIVE:
		return goingOn
	case source.GetPostCopy() != hostpb.PostCopy_POST_COPY_BROKEN:
		// not in post-copy
	case target == nil:
		return unknown
	case targetRuns:
		return completed
	default:
		return broken
	}
	if source == nil {
		switch {
		case targetRuns:
			return completed
		case target != nil && lost >= lostMax && !is(target, hostpb.DomainState_DOMAIN_STATE_PAUSED): // paused: about to be resumed or dropped
			return failed
		}
		return unknown
	}
	if source.GetMigrationId() == string(migration) && source.GetMigrationOutcome() == hostpb.MigrateOutcome_MIGRATE_OUTCOME_COMPLETED {
		return completed
	}
	switch {
	case is(source, hostpb.DomainState_DOMAIN_STATE_OUTGOING):
		return goingOn
	case is(source, hostpb.DomainState_DOMAIN_STATE_RUNNING):
		if targetRuns {
			return unknown // two copies cannot run: one of the two is about to say something else
		}
		return failed
	case is(source, hostpb.DomainState_DOMAIN_STATE_PAUSED):
		switch {
		case targetRuns:
			return completed
		case target == nil, is(target, hostpb.DomainState_DOMAIN_STATE_PAUSED, hostpb.DomainState_DOMAIN_STATE_INCOMING):
			return unknown // a target that lost its source drops what it received, soon
		}
		return failed
	case targetRuns, is(target, hostpb.DomainState_DOMAIN_STATE_PAUSED):
		return completed
	case target != nil && !is(target, hostpb.DomainState_DOMAIN_STATE_INCOMING):
		return failed
	}
	return unknown
}

func is(s sighting, states ...hostpb.DomainState) bool {
	if s == nil {
		return false
	}
	for _, state := range states {
		if s.GetDomain() == state {
			return true
		}
	}
	return false
}

// inspectMax bounds one question to one host: an agent answers from libvirt in milliseconds, or its libvirtd hangs.
const inspectMax = 10 * time.Second

// look asks one host about the server; nil when it does not answer.
func (f *Flows) look(ctx context.Context, host cloud.HostName, server cloud.ServerID) sighting {
	client, err := f.Hosts.Host(host)
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, inspectMax)
	defer cancel()
	state, err := client.Inspect(ctx, &hostpb.InspectRequest{ServerId: string(server)})
	switch {
	case cloud.Is(err, cloud.KindNotFound):
		return &hostpb.ServerState{ServerId: string(server), Domain: hostpb.DomainState_DOMAIN_STATE_ABSENT}
	case err != nil:
		return nil
	}
	return state
}
