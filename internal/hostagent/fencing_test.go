package hostagent

import (
	"testing"
	"time"
)

// Both must be silent for the whole time: a server that restarts, another leader, a broken management network or broken storage alone end no guest.
func TestAHostFencesItselfOnlyWhenServerAndStorageAreBothSilent(t *testing.T) {
	const after = 20 * time.Second
	for name, c := range map[string]struct {
		contact, lease, after time.Duration
		want                  bool
	}{
		"all is well":                       {time.Second, time.Second, after, false},
		"the server restarts":               {8 * time.Second, time.Second, after, false},
		"no server for an hour":             {time.Hour, 2 * time.Second, after, false},
		"no storage for an hour":            {time.Second, time.Hour, after, false},
		"both, not long enough":             {after, after - time.Millisecond, after, false},
		"both":                              {after, after, after, true},
		"both, and nobody asked for it":     {time.Hour, time.Hour, 0, false},
		"storage came back a moment ago":    {time.Hour, 0, after, false},
		"the server came back a moment ago": {0, time.Hour, after, false},
	} {
		if got := cutOff(c.contact, c.lease, c.after); got != c.want {
			t.Errorf("%s: fences itself: %v, want %v", name, got, c.want)
		}
	}
}

// An agent that was stopped has heard nobody and renewed nothing, through no fault of the network or the storage: it gets a moment before it believes that.
func TestAnAgentThatWasAsleepListensBeforeItFencesItsHost(t *testing.T) {
	var d doze
	at := time.Now()
	heard := at
	look := func(after time.Duration, want bool) {
		t.Helper()
		if at = at.Add(after); d.awake(at, heard) != want {
			t.Errorf("%v after the look before: sure %v, want %v", after, !want, want)
		}
	}
	for range 5 {
		look(fencePeriod, true)
	}
	look(dozeMax, true) // a busy machine
	look(25*time.Second, false)
	look(fencePeriod, false)
	look(fencePeriod, false)
	look(fencePeriod, true)
	look(time.Hour, true) // it has heard nothing since: no second grace
	look(4*time.Second, true)
	heard = at
	look(time.Hour, false)
	look(4*time.Second, true) // asleep again, and the grace is over
}
