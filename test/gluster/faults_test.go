package gluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"

	"github.com/godwit-cloud/godwit/test/guest"
	"github.com/godwit-cloud/godwit/test/labcloud"
)

// A fault strikes storage in the middle of a live migration from a host to another.
type fault struct {
	name string
	// always has it in the ordinary tests too; the others are drills.
	always bool
	strike func(ctx context.Context, f *labcloud.Fixture, p place) error
	mend   func(ctx context.Context, f *labcloud.Fixture, p place) error
	// loses says that the guest loses its open files for good and needs a hard reboot.
	loses bool
}

// place is where the guest and its disk are.
type place struct{ from, to, first, second string }

// killClient ends the FUSE client of a host. The lab's supervisor mounts anew.
func killClient(ctx context.Context, f *labcloud.Fixture, host string) error {
	_, err := f.Lab.Output(ctx, host, "sh", "-c", "kill -KILL $(pidof glusterfs)")
	return err
}

func faults() []fault {
	return []fault{
		{"second brick", true,
			func(ctx context.Context, f *labcloud.Fixture, p place) error { return f.Lab.KillBrick(ctx, p.second) },
			func(ctx context.Context, f *labcloud.Fixture, p place) error { return f.Lab.StartBricks(ctx, p.first) }, false},
		{"first brick", false,
			func(ctx context.Context, f *labcloud.Fixture, p place) error { return f.Lab.KillBrick(ctx, p.first) },
			func(ctx context.Context, f *labcloud.Fixture, p place) error { return f.Lab.StartBricks(ctx, p.second) }, false},
		{"node of the second brick", false,
			func(ctx context.Context, f *labcloud.Fixture, p place) error { return f.Lab.PowerOff(ctx, p.second) },
			func(ctx context.Context, f *labcloud.Fixture, p place) error { return f.Lab.PowerOn(ctx, p.second) }, false},
		{"both nodes of the pair", false,
			func(ctx context.Context, f *labcloud.Fixture, p place) error {
				return errors.Join(f.Lab.PowerOff(ctx, p.second), f.Lab.PowerOff(ctx, p.first))
			},
			func(ctx context.Context, f *labcloud.Fixture, p place) error {
				return errors.Join(f.Lab.PowerOn(ctx, p.first), f.Lab.PowerOn(ctx, p.second))
			}, false},
		{"client of the destination", true,
			func(ctx context.Context, f *labcloud.Fixture, p place) error { return killClient(ctx, f, p.to) },
			func(ctx context.Context, f *labcloud.Fixture, p place) error { return f.Lab.WaitShare(ctx, p.to) }, false},
		{"client of the source", false,
			func(ctx context.Context, f *labcloud.Fixture, p place) error { return killClient(ctx, f, p.from) },
			func(ctx context.Context, f *labcloud.Fixture, p place) error { return f.Lab.WaitShare(ctx, p.from) }, true},
	}
}

// strickenFor is how long a migration may take to end by itself before the fault is mended.
const strickenFor = 10 * time.Second

// outlivesFaultsInAMove has every fault strike in the middle of a move of its own: then the migration has succeeded or says why not, exactly one copy runs, and
// the disk log is whole. It returns the connection to the guest, which is a new one if a fault cost the guest its files.
func outlivesFaultsInAMove(ctx context.Context, t *testing.T, f *labcloud.Fixture, talk *guest.Client, s *servers.Server) *guest.Client {
	t.Helper()
	for _, fault := range faults() {
		if !fault.always && os.Getenv("GODWIT_DRILL") == "" {
			continue
		}
		began := time.Now()
		var p place
		struck := false
		for range triesMax {
			if p = placeOf(ctx, t, f, s); fault.strikes(ctx, t, f, s, p) {
				struck = true
				break
			}
		}
		if !struck {
			t.Fatalf("%s: %d moves ended before it could strike", fault.name, triesMax)
		}
		m, why := fault.ends(ctx, t, f, s, p)
		if fault.loses && m.Status != "completed" {
			talk.Close()
			stock(ctx, t, f, "nova", "reboot", "--hard", s.ID)
			on(ctx, t, f, s.ID, p.from)
			talk = answers(ctx, t, f, s)
		}
		oneRuns(ctx, t, f, s)
		writesOn(ctx, t, talk)
		healed(ctx, t, f, p.first)
		t.Logf("%s in the middle of a move: %s (%s), after %s", fault.name, m.Status, why, time.Since(began).Round(time.Second))
	}
	return talk
}

// triesMax bounds the moves that are over before a fault can strike: on a machine with nothing else to do they take a second.
const triesMax = 5

func placeOf(ctx context.Context, t *testing.T, f *labcloud.Fixture, s *servers.Server) place {
	t.Helper()
	now, err := f.Server(ctx, s.ID)
	if err != nil {
		t.Fatal(err)
	}
	p := place{from: now.Host, to: here}
	if p.from == here {
		p.to = there
	}
	p.first, p.second = pairOf(ctx, t, f, s.ID)
	return p
}

// strikes begins a move and strikes while memory is copied. It reports false when the move was over first.
func (fault fault) strikes(ctx context.Context, t *testing.T, f *labcloud.Fixture, s *servers.Server, p place) bool {
	t.Helper()
	known, err := f.Migrations(ctx, s.ID)
	if err != nil {
		t.Fatal(err)
	}
	stock(ctx, t, f, "nova", "live-migration", s.ID, p.to)
	over := false
	err = labcloud.Until(ctx, "memory is copied", func() (bool, error) {
		progress, running, err := f.Progress(ctx, s.ID)
		if err != nil || running && progress.MemoryTotal > 0 {
			return true, err
		}
		list, err := f.Migrations(ctx, s.ID)
		over = len(list) > len(known) && labcloud.Newest(list).Final()
		return over, err
	})
	if err != nil {
		t.Fatalf("%s: %v", fault.name, err)
	}
	if over {
		return false
	}
	if err := fault.strike(ctx, f, p); err != nil {
		t.Fatalf("%s: %v", fault.name, err)
	}
	return true
}

// ends mends what did not end by itself, and returns the migration as it ended, with the reason if it did not succeed.
func (fault fault) ends(ctx context.Context, t *testing.T, f *labcloud.Fixture, s *servers.Server, p place) (m labcloud.Migration, why string) {
	t.Helper()
	over := func() (bool, error) {
		list, err := f.Migrations(ctx, s.ID)
		if err != nil {
			return false, err
		}
		m = labcloud.Newest(list)
		return m.Final(), nil
	}
	patience, cancel := context.WithTimeout(ctx, strickenFor)
	_ = labcloud.Until(patience, "an end by itself", over) // one that hangs with its storage ends when that is mended
	cancel()
	if err := fault.mend(ctx, f, p); err != nil {
		t.Fatalf("%s: mending: %v", fault.name, err)
	}
	bounded, cancel := context.WithTimeout(ctx, stepMax)
	defer cancel()
	if err := labcloud.Until(bounded, "migration ended", over); err != nil {
		t.Fatalf("%s: %v; last seen %s", fault.name, err, m.Status)
	}
	at := p.to
	if m.Status != "completed" {
		at = p.from
		record, err := f.Record(ctx, m.UUID)
		if err != nil || record.Error == "" {
			t.Errorf("%s: the migration ended %s without a word: %+v, %v", fault.name, m.Status, record, err)
		}
		why = record.Error
	}
	on(ctx, t, f, s.ID, at)
	return m, why
}

// oneRuns waits until exactly one copy of the guest runs, on the host that the cloud names.
func oneRuns(ctx context.Context, t *testing.T, f *labcloud.Fixture, s *servers.Server) {
	t.Helper()
	bounded, cancel := context.WithTimeout(ctx, stepMax)
	defer cancel()
	last := ""
	err := labcloud.Until(bounded, "one copy runs", func() (bool, error) {
		now, err := f.Server(ctx, s.ID)
		if err != nil {
			return false, err
		}
		running := map[string]bool{}
		last = "the cloud says " + now.Host
		for _, host := range f.Lab.ComputeNodes() {
			word := state(ctx, f, host, s.ID)
			running[host] = strings.HasPrefix(word, "running")
			last += fmt.Sprintf(", %s says %q", host, word)
		}
		if running[here] && running[there] {
			return false, fmt.Errorf("two copies run")
		}
		return running[now.Host], nil
	})
	if err != nil {
		t.Fatalf("%v: %s", err, last)
	}
}

// answers waits until the guest answers anew.
func answers(ctx context.Context, t *testing.T, f *labcloud.Fixture, s *servers.Server) *guest.Client {
	t.Helper()
	bounded, cancel := context.WithTimeout(ctx, stepMax)
	defer cancel()
	var talk *guest.Client
	var last error
	err := labcloud.Until(bounded, "the guest answers", func() (bool, error) {
		talk, last = f.Talk(bounded, s)
		return last == nil, nil
	})
	if err != nil {
		t.Fatalf("%v: %v", err, last)
	}
	return talk
}
