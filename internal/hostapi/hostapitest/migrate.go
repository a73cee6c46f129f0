package hostapitest

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
)

// job is one outgoing migration. Guarded by the fleet's lock, except done.
type job struct {
	id             string
	server         string
	source, target *FakeHost
	script         Migration
	abort          chan struct{} // closed by Steer
	aborted        bool
	force          chan struct{}
	forced         bool
	done           chan struct{}
	result         *hostpb.MigrateReply // nil while in progress
	told           bool                 // that the guest has departed, to a caller who wanted to know
	orphan         bool                 // the agent died during it and cannot tell the outcome
	cut            bool                 // a host lost power
	postCopy       bool                 // allowed: a force begins it
}

func (j *job) over() bool { return j.result != nil }

func (j *job) outcome() hostpb.MigrateOutcome {
	switch {
	case j.result == nil:
		return hostpb.MigrateOutcome_MIGRATE_OUTCOME_UNSPECIFIED
	case j.orphan:
		return hostpb.MigrateOutcome_MIGRATE_OUTCOME_UNKNOWN
	}
	return j.result.GetOutcome()
}

// answer is the reply to req when the job is over. A caller who wants to know of the departure hears of that first, once, as from real hosts.
func (j *job) answer(req *hostpb.MigrateRequest) *hostpb.MigrateReply {
	if req.GetTellDeparture() && !j.told && j.outcome() == hostpb.MigrateOutcome_MIGRATE_OUTCOME_COMPLETED {
		j.told = true
		return &hostpb.MigrateReply{Departed: true}
	}
	return j.reply()
}

func (j *job) reply() *hostpb.MigrateReply {
	r := proto.CloneOf(j.result)
	r.Outcome = j.outcome()
	return r
}

// Migrate implements hostpb.HostServer. The job goes on when the caller goes away.
func (h *FakeHost) Migrate(ctx context.Context, req *hostpb.MigrateRequest) (*hostpb.MigrateReply, error) {
	var j *job
	var down <-chan struct{}
	reply, err := serve(ctx, h, "Migrate", req, func(req *hostpb.MigrateRequest) (*hostpb.MigrateReply, error) {
		s, err := h.accept("Migrate", req.GetCall())
		if err != nil {
			return nil, err
		}
		if j, err = h.job(s, req); err != nil {
			return nil, err
		}
		if j.over() {
			return j.answer(req), nil
		}
		down = h.down
		return nil, nil
	})
	if err != nil || reply != nil || j == nil {
		return reply, err
	}
	select {
	case <-j.done:
	case <-down:
		return nil, errUnreachable(h.name)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	h.fleet.mu.Lock()
	defer h.fleet.mu.Unlock()
	return j.answer(req), nil
}

// job finds the request's job or begins it.
func (h *FakeHost) job(s *slot, req *hostpb.MigrateRequest) (*job, error) {
	if req.GetMigrationId() == "" {
		h.fleet.violate("%s: Migrate of server %s without a migration id", h.name, s.id)
		return nil, cloud.Errorf(cloud.KindInvalid, "the call names no migration")
	}
	if s.job != nil && s.job.id == req.GetMigrationId() {
		return s.job, nil
	}
	if s.job != nil && !s.job.over() {
		return nil, conflict("server %s is in migration %s", s.id, s.job.id)
	}
	if s.domain != running && s.domain != paused {
		return nil, conflict("server %s does not run on host %s", s.id, h.name)
	}
	j := &job{
		id: req.GetMigrationId(), server: s.id, source: h, target: h.fleet.hosts[cloud.HostName(req.GetTargetHost())],
		abort: make(chan struct{}), force: make(chan struct{}), done: make(chan struct{}), postCopy: req.GetPostCopy(),
	}
	if h.fleet.migrations != nil {
		j.script = h.fleet.migrations(req)
	}
	s.job = j
	if why := h.unready(s, j, req); why != "" {
		j.finish(hostpb.MigrateOutcome_MIGRATE_OUTCOME_FAILED, why)
		return j, nil
	}
	h.set(s, outgoing, "migrating")
	j.target.set(j.target.slot(s.id), incoming, "migrating")
	if j.script.Took == 0 && j.script.Gate == nil {
		j.settle()
		return j, nil
	}
	h.fleet.jobs.Go(j.run)
	return j, nil
}

func (h *FakeHost) unready(s *slot, j *job, req *hostpb.MigrateRequest) string {
	switch {
	case j.target == nil:
		h.fleet.violate("%s: server %s migrates to unknown host %q", h.name, j.server, req.GetTargetHost())
		return "no such host"
	case j.target == h:
		h.fleet.violate("%s: server %s migrates to its own host", h.name, j.server)
		return "the target is the source"
	case req.GetTargetAddress() != j.target.address:
		h.fleet.violate("%s: server %s migrates to host %s at %q instead of %q", h.name, j.server, j.target.name, req.GetTargetAddress(), j.target.address)
		return "cannot connect to the target"
	}
	if t := j.target.slot(j.server); !t.disks || !t.receiving {
		h.fleet.violate("%s: server %s migrates to host %s, which is not prepared: %s", h.name, j.server, j.target.name, t.describe())
		return "the target has no disk for the server"
	}
	if why := misdirected(s, j.target.slot(j.server), req); why != "" {
		h.fleet.violate("%s: server %s migrates to host %s: %s", h.name, j.server, j.target.name, why)
		return why
	}
	return ""
}

// misdirected says which of the server's volumes the target could not reach by what the request says; empty when it can reach all. The target was prepared
// with its ways to them, and nothing is copied of a server without a local disk.
func misdirected(source, target *slot, req *hostpb.MigrateRequest) string {
	if req.GetCopyDisks() && source.spec.GetRoot() == nil && len(source.spec.GetVolumes()) > 0 {
		return "there is no local disk to copy"
	}
	if len(req.GetTargetVolumes()) != len(source.spec.GetVolumes()) {
		return fmt.Sprintf("%d of %d volumes are named", len(req.GetTargetVolumes()), len(source.spec.GetVolumes()))
	}
	for _, way := range req.GetTargetVolumes() {
		from := source.volume(way.GetExport())
		to := target.volume(way.GetExport())
		if from != nil || to == nil || to.GetDevice() != way.GetDevice() {
			return fmt.Sprintf("volume %s is reached through %q", way.GetVolumeId(), way.GetExport())
		}
	}
	return ""
}

// run waits for the script's end, an abort or a force (or that something else settled it), then settles.
func (j *job) run() {
	var timer <-chan time.Time
	if j.script.Took > 0 {
		t := time.NewTimer(j.script.Took)
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-timer:
	case <-j.script.Gate:
	case <-j.force:
		if j.postCopy {
			j.beginPostCopy()
			select {
			case <-timer:
			case <-j.script.Gate:
			case <-j.done:
			}
		}
	case <-j.abort:
	case <-j.done:
	}
	f := j.source.fleet
	f.mu.Lock()
	defer f.mu.Unlock()
	j.settle()
}

// beginPostCopy lets the target's CPUs run; what is left of the script is the rest of the copy.
func (j *job) beginPostCopy() {
	f := j.source.fleet
	f.mu.Lock()
	defer f.mu.Unlock()
	s, t := j.source.slot(j.server), j.target.slot(j.server)
	if j.over() || s.domain != outgoing || t.domain != incoming {
		return
	}
	s.split, t.split = true, true
	j.source.set(s, paused, "postcopy")
	j.target.set(t, running, "postcopy")
}

// settle decides the outcome and moves the copy, all at once. Caller holds the fleet's lock.
func (j *job) settle() {
	if j.over() {
		return
	}
	s, t := j.source.slot(j.server), j.target.slot(j.server)
	outcome, text := j.script.Outcome, j.script.Error
	if outcome == hostpb.MigrateOutcome_MIGRATE_OUTCOME_UNSPECIFIED {
		outcome = hostpb.MigrateOutcome_MIGRATE_OUTCOME_COMPLETED
	}
	split := s.split && t.split
	s.split, t.split = false, false
	switch {
	case split && (j.cut || s.domain != paused || t.domain != running):
		outcome, text = hostpb.MigrateOutcome_MIGRATE_OUTCOME_BROKEN, "lost the connection between the hosts"
	case split:
	case j.cut || s.domain != outgoing || t.domain != incoming:
		outcome, text = hostpb.MigrateOutcome_MIGRATE_OUTCOME_FAILED, "lost the connection between the hosts"
	case j.aborted:
		outcome, text = hostpb.MigrateOutcome_MIGRATE_OUTCOME_CANCELLED, "aborted by request"
	}
	if outcome == hostpb.MigrateOutcome_MIGRATE_OUTCOME_COMPLETED {
		j.finish(outcome, text)
		j.source.set(s, absent, "migrated")
		j.target.set(t, running, "migrated")
		return
	}
	j.finish(outcome, text)
	if outcome == hostpb.MigrateOutcome_MIGRATE_OUTCOME_BROKEN { // as when the target's QEMU dies during post-copy
		s.broken, t.broken = true, true
		j.source.set(s, paused, "post-copy failed")
		j.target.set(t, shutoff, "crashed")
		return
	}
	if s.domain == outgoing {
		j.source.set(s, running, "migration failed")
	}
	if t.domain == incoming {
		j.target.set(t, absent, "migration failed")
	}
}

func (j *job) finish(outcome hostpb.MigrateOutcome, text string) {
	j.result = &hostpb.MigrateReply{Outcome: outcome, Error: text, Stats: j.script.Stats}
	close(j.done)
}

// cutIncoming fails the migration that is arriving here.
func (h *FakeHost) cutIncoming(id string) {
	for _, other := range h.fleet.hosts {
		if s := other.servers[id]; s != nil && s.job != nil && s.job.target == h && !s.job.over() {
			s.job.cut = true
			s.job.settle()
		}
	}
}

// Steer implements hostpb.HostServer. A force ends the copy, or begins post-copy, which lasts for the rest of the script.
func (h *FakeHost) Steer(ctx context.Context, req *hostpb.SteerRequest) (*hostpb.SteerReply, error) {
	return serve(ctx, h, "Steer", req, func(req *hostpb.SteerRequest) (*hostpb.SteerReply, error) {
		s, err := h.accept("Steer", req.GetCall())
		if err != nil {
			return nil, err
		}
		j := s.job
		if j == nil || j.id != req.GetMigrationId() {
			return nil, cloud.Errorf(cloud.KindNotFound, "host %s runs no migration %s", h.name, req.GetMigrationId())
		}
		if j.over() {
			return nil, conflict("migration %s is over", j.id)
		}
		if req.GetAbort() && s.split {
			return nil, conflict("migration %s is in post-copy", j.id)
		}
		if req.GetAbort() && !j.aborted {
			j.aborted = true
			close(j.abort)
		}
		if req.GetForceComplete() && !j.forced {
			j.forced = true
			close(j.force)
		}
		return &hostpb.SteerReply{}, nil
	})
}
