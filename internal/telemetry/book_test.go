package telemetry

import (
	"testing"
	"time"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func at(seconds int) time.Time { return epoch.Add(time.Duration(seconds) * time.Second) }

func sampled(cpu, wait float64, disk int64) Sample {
	return Sample{Span: 10 * time.Second, CPUUsed: cpu + 0.5, Servers: []ServerSample{{Server: "s", CPUUsed: cpu, CPUWait: wait, DiskBytes: disk, DirtyBytesPerSecond: -1}}}
}

func TestHistoryIsTheMeanOfEachStepAndFollowsAServerToItsNextHost(t *testing.T) {
	b := NewBook(time.Minute)
	b.Add("a", sampled(1, 0, 0), at(10))
	b.Add("a", sampled(2, 1, 1000), at(20))
	b.Add("b", sampled(3, 0, 2000), at(70)) // it has moved
	r := b.Readings()
	s := r.Servers["s"]
	if len(s.History) != 2 || s.History[0] != 2 || s.History[1] != 3 || s.Asked() != 3 {
		t.Errorf("history %v, asked %v: want 2 (1.5 used, 0.5 waited for) and 3", s.History, s.Asked())
	}
	if s.DiskBytesPerSecond != 100 {
		t.Errorf("disk %v bytes per second, want 100", s.DiskBytesPerSecond)
	}
	if got := r.Hosts["a"].CPUOwn; got != 0.5 {
		t.Errorf("host a used %v CPUs itself, want 0.5", got)
	}
	stolen := sampled(1, 0, 0)
	stolen.CPUStolen = 0.25
	b.Add("c", stolen, at(80))
	if got := b.Readings().Hosts["c"].CPUOwn; got != 0.75 {
		t.Errorf("%v CPUs of host c are no server's, want the 0.5 that it used and the 0.25 that were stolen from it", got)
	}
}

func TestGapRepeatsWhatWasBeforeAndLongSilenceIsForgotten(t *testing.T) {
	b := NewBook(time.Minute)
	b.Add("a", sampled(1, 0, 0), at(10))
	b.Add("a", sampled(2, 0, 0), at(190))
	if got := b.Readings().Servers["s"].History; len(got) != 4 || got[1] != 1 || got[2] != 1 || got[3] != 2 {
		t.Errorf("history %v, want 1 1 1 2", got)
	}
	b.Add("b", Sample{Span: time.Second, CPUUsed: 1}, at(2000))
	r := b.Readings()
	if _, known := r.Servers["s"]; known || len(r.Hosts) != 1 {
		t.Errorf("what was silent for %d steps is still known: %v", forgetAfter, r)
	}
}

func TestHistoryIsBoundedAndADirtyRateHoldsUntilTheNext(t *testing.T) {
	b := NewBook(time.Minute)
	for i := range 3 * StepsKept {
		s := sampled(float64(i), 0, 0)
		if i == 2*StepsKept {
			s.Servers[0].DirtyBytesPerSecond = 77
		}
		b.Add("a", s, at(60*i+1))
	}
	s := b.Readings().Servers["s"]
	if len(s.History) != StepsKept || s.History[StepsKept-1] != float64(3*StepsKept-1) || s.History[0] != float64(2*StepsKept) {
		t.Errorf("history of %d steps from %v to %v", len(s.History), s.History[0], s.History[len(s.History)-1])
	}
	if s.DirtyBytesPerSecond != 77 {
		t.Errorf("dirty rate %d, want the last measured", s.DirtyBytesPerSecond)
	}
}
