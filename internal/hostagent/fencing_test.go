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
