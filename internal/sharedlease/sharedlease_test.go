package sharedlease

import (
	"errors"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// clock is a time that only the test moves.
type clock struct{ at time.Time }

func (c *clock) now() time.Time { return c.at }

func open(t *testing.T, root, host string) (*Directory, *clock) {
	t.Helper()
	c := &clock{time.Unix(1000, 0)}
	d := Open(root, cloud.HostName("host-"+host), 1)
	d.now = c.now
	return d, c
}

func TestALeaseThatIsNotRenewedAgesByTheReadersOwnClock(t *testing.T) {
	root := t.TempDir()
	a, _ := open(t, root, "a")
	b, clock := open(t, root, "b")
	if _, ok := b.Look("host-a"); ok {
		t.Fatal("a lease was seen before there was one")
	}
	for range 3 {
		if err := errors.Join(a.Renew(), b.Refresh()); err != nil {
			t.Fatal(err)
		}
		if since, ok := b.Look("host-a"); !ok || since != 0 {
			t.Fatalf("just renewed: %v %v", since, ok)
		}
		clock.at = clock.at.Add(time.Second)
	}
	clock.at = clock.at.Add(6 * time.Second)
	if err := b.Refresh(); err != nil {
		t.Fatal(err)
	}
	if since, _ := b.Look("host-a"); since != 7*time.Second {
		t.Errorf("not renewed for 7 s: %v", since)
	}
	again := Open(root, "host-a", 2) // another start of the agent, whose numbers begin anew
	if err := errors.Join(again.Renew(), b.Refresh()); err != nil {
		t.Fatal(err)
	}
	if since, _ := b.Look("host-a"); since != 0 {
		t.Errorf("renewed by a new agent: %v", since)
	}
}

func TestTheGreaterGenerationHoldsADiskAndTheOtherLearnsIt(t *testing.T) {
	root := t.TempDir()
	a, _ := open(t, root, "a")
	b, _ := open(t, root, "b")
	for _, step := range []struct {
		who  *Directory
		gen  int64
		lost bool
	}{{a, 3, false}, {a, 3, false}, {b, 3, true}, {b, 2, true}, {b, 4, false}, {a, 3, true}, {b, 4, false}, {a, 5, false}, {b, 4, true}} {
		err := step.who.Hold("s", step.gen)
		if errors.Is(err, ErrLost) != step.lost || err != nil && !step.lost {
			t.Fatalf("%s holds generation %d: %v", step.who.host, step.gen, err)
		}
	}
	if err := b.Forget("s", 4); err != nil {
		t.Fatal(err)
	}
	if err := b.Hold("s", 4); !errors.Is(err, ErrLost) {
		t.Errorf("an older decision removed the lease of a newer one: %v", err)
	}
	if err := errors.Join(a.Forget("s", 5), a.Forget("s", 5), b.Hold("s", 1)); err != nil {
		t.Error(err)
	}
}
