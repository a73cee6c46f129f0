package optimize

import (
	"testing"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/telemetry"
)

func TestBalancingRaisesTheScoresOfServersThatGetTooLittle(t *testing.T) {
	f := newFleet(2)
	for _, id := range []string{"a", "b", "c", "d", "e", "f"} { // six servers ask for 2 CPUs each and get two thirds, on 8; one is idle
		f.add(id, "host-1", 4.0/3)
		r := f.Readings.Servers[cloud.ServerID(id)]
		r.CPUWait = 2.0 / 3
		f.Readings.Servers[cloud.ServerID(id)] = r
	}
	f.add("idle", "host-2", 0)
	o := planned(t, f, cloud.GoalBalance)
	e := o.Effect
	if e.ScoreLeastBefore < 65 || e.ScoreLeastBefore > 68 || e.ScoreLeastAfter != 100 || e.ScoreAfter <= e.ScoreBefore {
		t.Errorf("effect %+v: two thirds were had, all can be", e)
	}
	if len(moves(o)) == 0 {
		t.Fatal("nothing moves")
	}
	for _, a := range moves(o) {
		if a.ScoreBefore != e.ScoreLeastBefore || a.ScoreAfter != 100 {
			t.Errorf("move %+v", a)
		}
	}
}

func TestAScoreFallsWithMemoryPressure(t *testing.T) {
	f := newFleet(2)
	f.add("a", "host-1", 1)
	f.add("b", "host-2", 1)
	f.Readings.Hosts["host-1"] = telemetry.HostReading{At: noon, CPUUsed: 1, Pressure: telemetry.Pressure{Memory: 0.4}}
	if e := planned(t, f, cloud.GoalBalance).Effect; e.ScoreLeastBefore != 60 || e.ScoreBefore != 80 {
		t.Errorf("effect %+v: want 60 and 100", e)
	}
}
