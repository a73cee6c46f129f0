package hostagent_test

import (
	"testing"

	"github.com/godwit-cloud/godwit/internal/hostagent"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
)

// A host that is asked to let a server go is asked by the decision that the next host starts or adopts it by. If it held the disk by that one, the next host's guard
// would take it for a later decision and stop the guest that has just arrived.
func TestAHostHoldsADiskByTheDecisionThatStartedItsServerThere(t *testing.T) {
	w := newFakeWorld(t)
	s := newServer(t, w)
	holds := func(when, host string, want int64) {
		t.Helper()
		if got := hostagent.Claims(w.hosts[host].life.direct.a)[s.id]; got != want {
			t.Errorf("%s: %s holds the disk by generation %d, want %d", when, host, got, want)
		}
	}
	s.boot(host1, true)
	holds("started", host1, 1)

	answers := s.beginSlowMove(t.Name())
	holds("leaving", host1, 0)
	holds("arriving", host2, 0)
	w.letGo()
	s.awaitOutcome(answers, hostpb.MigrateOutcome_MIGRATE_OUTCOME_COMPLETED)
	holds("left", host1, 0)
	s.landed()
	holds("adopted", host2, 2)

	s.generation++ // a move with the power off
	must[*hostpb.ServerState](t, "stop")(w.agent(host2).Stop(t.Context(), &hostpb.StopRequest{Call: s.call()}))
	holds("stopped by a later decision", host2, 2)
	must[*hostpb.PrepareReply](t, "prepare")(w.agent(host1).Prepare(t.Context(), &hostpb.PrepareRequest{Call: s.call(), Spec: s.spec}))
	holds("made ready elsewhere", host1, 0)
	must[*hostpb.ServerState](t, "start")(w.agent(host1).Start(t.Context(), &hostpb.StartRequest{Call: s.call(), Spec: s.spec}))
	holds("started elsewhere", host1, 3)
	holds("started elsewhere", host2, 2)
	s.discard(host2, true)
	s.end(host1)
	holds("deleted", host1, 0)
}
