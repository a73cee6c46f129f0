package hostagent

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

func TestGateNeverLetsAnOlderDecisionIn(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := NewGate(rapid.Int64Range(0, 5).Draw(t, "accepted"), "")
		ids := rapid.SampledFrom([]cloud.MigrationID{"", "a", "b"})
		queued := 0
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 5).Draw(t, "step") {
			case 0:
				if queued > 0 {
					g.Done()
					queued--
				}
			case 1:
				if id := ids.Draw(t, "begin"); id != "" && g.Moving() == "" {
					g.MoveBegan(id)
				}
			case 2:
				g.MoveEnded()
			default:
				before, moving := g.Accepted(), g.Moving()
				r := Request{
					Kind:       Kind(rapid.IntRange(0, int(kindCount)-1).Draw(t, "kind")),
					Generation: rapid.Int64Range(0, 9).Draw(t, "generation"),
					Migration:  ids.Draw(t, "migration"),
				}
				v := g.Offer(r)
				if v.Action == Queue {
					queued++
				}
				checkVerdict(t, r, v, before, moving)
				if g.Accepted() < before {
					t.Fatalf("accepted generation fell from %d to %d", before, g.Accepted())
				}
				if v.Action != Queue && g.Accepted() != before {
					t.Fatalf("a request that was not queued raised the generation to %d", g.Accepted())
				}
			}
			if queued > queueMax {
				t.Fatalf("%d requests queued", queued)
			}
			if g.Idle() != (queued == 0 && g.Moving() == "") {
				t.Fatalf("idle %v with %d queued and %q moving", g.Idle(), queued, g.Moving())
			}
		}
	})
}

func checkVerdict(t *rapid.T, r Request, v Verdict, accepted int64, moving cloud.MigrationID) {
	stale := r.Generation < accepted
	if stale != (v.Action == Deny && v.Kind == cloud.KindStale) {
		t.Fatalf("generation %d after %d: %+v", r.Generation, accepted, v)
	}
	if (v.Err() != nil) != (v.Action == Deny) {
		t.Fatalf("verdict %+v has error %v", v, v.Err())
	}
	if v.Action != Queue || moving == "" {
		return
	}
	switch r.Kind {
	case KindDiscard, KindUpdate:
	case KindMigrate, KindSteer:
		if r.Migration != moving {
			t.Fatalf("%s of %s was let in while %s moves", r.Kind, r.Migration, moving)
		}
	default:
		t.Fatalf("%s was let in while %s moves", r.Kind, moving)
	}
}

func TestSteeringAnEndedMigrationIsIgnored(t *testing.T) {
	g := NewGate(3, "")
	g.MoveBegan("m")
	if v := g.Offer(Request{Kind: KindSteer, Generation: 3, Migration: "m"}); v.Action != Queue {
		t.Errorf("while it moves: %+v", v)
	}
	g.MoveEnded()
	if v := g.Offer(Request{Kind: KindSteer, Generation: 3, Migration: "m"}); v.Action != Ignore {
		t.Errorf("after it ended: %+v", v)
	}
	if v := g.Offer(Request{Kind: KindSteer, Generation: 3, Migration: "other"}); v.Kind != cloud.KindConflict {
		t.Errorf("a migration never seen: %+v", v)
	}
}
