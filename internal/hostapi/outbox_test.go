package hostapi

import (
	"fmt"
	"testing"

	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
)

func observation(server string, epoch, seq int64, state hostpb.DomainState) *hostpb.ServerState {
	return &hostpb.ServerState{ServerId: server, Epoch: epoch, Seq: seq, Domain: state, DisksPresent: state != hostpb.DomainState_DOMAIN_STATE_ABSENT}
}

const (
	runningState = hostpb.DomainState_DOMAIN_STATE_RUNNING
	absentState  = hostpb.DomainState_DOMAIN_STATE_ABSENT
)

func TestNothingIsSentBeforeFacts(t *testing.T) {
	o := newOutbox()
	o.PutObservation(observation("a", 1, 1, runningState))
	if got := o.take(); got != nil {
		t.Errorf("sent %v", got)
	}
	o.PutFacts(&hostpb.HostFacts{Name: "h"})
	got := o.take()
	if len(got) != 2 || got[0].GetFacts().GetName() != "h" || got[1].GetObservation().GetServerId() != "a" {
		t.Errorf("facts must come first: %v", got)
	}
	if got := o.take(); len(got) != 0 {
		t.Errorf("sent twice: %v", got)
	}
}

func TestOnlyTheLatestOfEachSubjectIsSent(t *testing.T) {
	o := newOutbox()
	o.PutFacts(&hostpb.HostFacts{Seq: 1})
	o.PutFacts(&hostpb.HostFacts{Seq: 2})
	for seq := range int64(5) {
		o.PutObservation(observation("a", 1, seq+1, runningState))
		o.PutProgress(&hostpb.MigrationUpdate{MigrationId: "m", Seq: seq + 1})
	}
	got := o.take()
	if len(got) != 3 || got[0].GetFacts().GetSeq() != 2 || got[1].GetObservation().GetSeq() != 5 || got[2].GetProgress().GetSeq() != 5 {
		t.Errorf("got %v", got)
	}
}

func TestOlderValuesNeverReplaceNewerOnes(t *testing.T) {
	o := newOutbox()
	o.PutFacts(&hostpb.HostFacts{})
	o.PutObservation(observation("a", 2, 1, runningState))
	o.PutObservation(observation("a", 1, 9, absentState))
	o.PutProgress(&hostpb.MigrationUpdate{MigrationId: "m", Seq: 2})
	o.PutProgress(&hostpb.MigrationUpdate{MigrationId: "m", Seq: 1})
	got := o.take()
	if got[1].GetObservation().GetEpoch() != 2 || got[2].GetProgress().GetSeq() != 2 {
		t.Errorf("got %v", got)
	}
}

func TestANewSessionSaysEverythingAgainExceptWhatIsGone(t *testing.T) {
	o := newOutbox()
	o.PutFacts(&hostpb.HostFacts{})
	o.PutObservation(observation("stays", 1, 1, runningState))
	o.PutObservation(observation("goes", 1, 2, absentState))
	if got := o.take(); len(got) != 3 {
		t.Fatalf("got %v", got)
	}
	o.restart()
	got := o.take()
	if len(got) != 2 || got[1].GetObservation().GetServerId() != "stays" {
		t.Errorf("got %v", got)
	}
}

func TestProgressIsBounded(t *testing.T) {
	o := newOutbox()
	for i := range 2 * progressKept {
		o.PutProgress(&hostpb.MigrationUpdate{MigrationId: fmt.Sprint(i)})
	}
	if len(o.progress) != progressKept {
		t.Errorf("%d kept", len(o.progress))
	}
}

func TestPutValuesMayBeChangedAfterwards(t *testing.T) {
	o := newOutbox()
	facts := &hostpb.HostFacts{Name: "h"}
	o.PutFacts(facts)
	facts.Name = "changed"
	if got := o.take(); got[0].GetFacts().GetName() != "h" {
		t.Error("the outbox shares the caller's message")
	}
}
