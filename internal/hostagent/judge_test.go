package hostagent

import (
	"errors"
	"testing"

	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/kvm"
)

func TestOutcomeIsJudgedByWhatIsThere(t *testing.T) {
	const (
		open      = hostpb.MigrateOutcome_MIGRATE_OUTCOME_UNSPECIFIED
		completed = hostpb.MigrateOutcome_MIGRATE_OUTCOME_COMPLETED
		failed    = hostpb.MigrateOutcome_MIGRATE_OUTCOME_FAILED
		cancelled = hostpb.MigrateOutcome_MIGRATE_OUTCOME_CANCELLED
		broken    = hostpb.MigrateOutcome_MIGRATE_OUTCOME_BROKEN
	)
	lost := errors.New("connection lost")
	for _, c := range []struct {
		claim string
		run   kvm.Run
		why   string
		move  moveRecord
		err   error
		want  judgement
	}{
		{"libvirt said that it went well", kvm.Shutoff, "migrated", moveRecord{}, nil, judgement{outcome: completed}},
		{"the domain says that it left", kvm.Shutoff, "migrated", moveRecord{}, lost, judgement{outcome: completed}},
		{"an event said that it left", kvm.Shutoff, "unknown", moveRecord{Departed: true}, errAttached, judgement{outcome: completed}},
		{"a transient domain left", kvm.Absent, "", moveRecord{}, nil, judgement{outcome: completed}},
		{"nobody knows why it is off", kvm.Shutoff, "unknown", moveRecord{}, errAttached, judgement{outcome: open}},
		{"nobody knows where it went", kvm.Absent, "", moveRecord{}, lost, judgement{outcome: open}},
		{"the job goes on", kvm.Outgoing, "booted", moveRecord{}, lost, judgement{goingOn: true}},
		{"it stayed", kvm.Running, "booted", moveRecord{}, lost, judgement{outcome: failed}},
		{"it stayed because somebody asked", kvm.Running, "migration cancelled", moveRecord{Abort: true}, lost, judgement{outcome: cancelled}},
		{"it left although somebody asked for the end", kvm.Shutoff, "migrated", moveRecord{Abort: true}, nil, judgement{outcome: completed}},
		{"it stands still at the switch", kvm.Paused, "migration", moveRecord{}, lost, judgement{outcome: open}},
		{"its memory is on two hosts", kvm.Paused, "postcopy", moveRecord{Split: true}, lost, judgement{goingOn: true}},
		{"post-copy broke", kvm.Paused, "postcopy failed", moveRecord{}, lost, judgement{outcome: broken}},
		{"its half here died", kvm.Crashed, "crashed", moveRecord{Switching: true, Split: true}, lost, judgement{outcome: broken}},
		{"it died when post-copy was to begin", kvm.Crashed, "crashed", moveRecord{Switching: true}, lost, judgement{outcome: open}},
		{"post-copy went well", kvm.Shutoff, "migrated", moveRecord{Switching: true, Split: true}, nil, judgement{outcome: completed}},
		{"it ran on the target and is paused here for a reason nobody knows", kvm.Paused, "user", moveRecord{Split: true}, lost, judgement{outcome: open}},
		{"we paused it", kvm.Paused, "user", moveRecord{Suspended: true}, lost, judgement{resume: true}},
		{"its owner had paused it", kvm.Paused, "user", moveRecord{}, lost, judgement{outcome: failed}},
		{"it crashed on the way", kvm.Crashed, "crashed", moveRecord{}, lost, judgement{outcome: failed}},
		{"it shut down on the way", kvm.Shutoff, "shutdown", moveRecord{}, lost, judgement{outcome: failed}},
	} {
		got := judge(kvm.State{Run: c.run, Reason: c.why}, c.move, c.err)
		if got.outcome == failed || got.outcome == cancelled || got.outcome == broken {
			if got.reason == "" {
				t.Errorf("%s: no reason", c.claim)
			}
			got.reason = ""
		}
		if got != c.want {
			t.Errorf("%s: judged %+v, want %+v", c.claim, got, c.want)
		}
	}
}
