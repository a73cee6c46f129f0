package hostagent

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/disk"
	"github.com/godwit-cloud/godwit/internal/gluster"
)

// volume is a Share whose health is what a test says.
type volume struct {
	health gluster.Health
	sets   []string
	mount  disk.Mount
	stuck  chan struct{} // when not nil, looks wait for it
	heals  int           // when not zero, nothing waits to be healed from this look on
	looks  int
	// What is said of the volume's settings.
	dangers []string
	unsure  error
}

func (v *volume) Mount() (disk.Mount, error)         { return v.mount, nil }
func (v *volume) Write(cloud.HostName, string) error { return nil }
func (v *volume) Seen() (map[string]string, error)   { return map[string]string{"other": "w 1"}, nil }
func (v *volume) Health(context.Context, bool) (gluster.Health, error) {
	if v.stuck != nil {
		<-v.stuck
	}
	if v.looks++; v.looks == v.heals {
		v.health.Heal = nil
	}
	return v.health, nil
}
func (v *volume) Dangers(context.Context) ([]string, error) { return v.dangers, v.unsure }
func (v *volume) SetsOf(string) ([]string, error)           { return v.sets, nil }
func (v *volume) IDOf(string) (string, error)               { return "<gfid:1>", nil }

const sharedServer = "0d1f8f0a-1111-4222-8333-444455556666"

func sharingOf(t *testing.T, v *volume) (*sharing, disk.Files) {
	t.Helper()
	store, err := disk.Open(t.Context(), disk.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	v.mount = disk.Mount{Point: store.Instances(), Type: gluster.MountType, Source: "gluster-1:vms"}
	s, err := newSharing(Options{Name: "compute-1", Disk: store, Share: v, DiskMount: gluster.MountType})
	if err != nil {
		t.Fatal(err)
	}
	files, err := store.Files(sharedServer)
	if err != nil {
		t.Fatal(err)
	}
	return s, files
}

// twoPairs is a volume of two pairs, all there.
func twoPairs() gluster.Health {
	return gluster.Health{Volume: "vms", Sets: []gluster.Set{{Name: "r0", Quorum: true}, {Name: "r1", Quorum: true}}, Bricks: []gluster.Brick{
		{Name: "a", Online: true}, {Name: "b", Online: true}, {Name: "c", Set: 1, Online: true}, {Name: "d", Set: 1, Online: true},
	}}
}

func TestWhatSpeaksAgainstAStartAndAgainstAMove(t *testing.T) {
	path := "/" + sharedServer + "/disk"
	for _, c := range []struct {
		name        string
		change      func(h *gluster.Health)
		start, move string // what is said; empty: nothing
	}{
		{"all is well", func(*gluster.Health) {}, "", ""},
		{"its pair has no quorum", func(h *gluster.Health) { h.Sets[0].Quorum, h.Bricks[0].Online = false, false }, "has no quorum (away: a)", "has no quorum (away: a)"},
		{"the other pair has none", func(h *gluster.Health) { h.Sets[1].Quorum = false }, "", ""},
		{"a brick is away", func(h *gluster.Health) { h.Bricks[1].Online = false }, "", ""},
		{"it is being healed", func(h *gluster.Health) { h.Heal = []gluster.Entry{{Brick: "a", Path: path}} }, "waits to be healed on a", "waits to be healed on a"},
		{"it waits for a brick that is away", func(h *gluster.Health) {
			h.Bricks[1].Online, h.Heal = false, []gluster.Entry{{Brick: "a", Path: path}}
		}, "", "waits to be healed on a"},
		{"it is known by its id alone", func(h *gluster.Health) { h.Heal = []gluster.Entry{{Brick: "a", Path: "<gfid:1>"}} }, "waits to be healed", "waits to be healed"},
		{"another server's disk is being healed", func(h *gluster.Health) { h.Heal = []gluster.Entry{{Brick: "a", Path: "/other/disk"}} }, "", ""},
		{"it is split", func(h *gluster.Health) { h.Heal = []gluster.Entry{{Brick: "a", Path: path, Split: true}} }, "is in split-brain on a", "is in split-brain on a"},
	} {
		v := &volume{health: twoPairs(), sets: []string{"r0"}}
		c.change(&v.health)
		s, files := sharingOf(t, v)
		for moving, want := range map[bool]string{false: c.start, true: c.move} {
			got := strings.Join(s.objections(t.Context(), files, moving).all(), "; ")
			if want == "" && got != "" || !strings.Contains(got, want) {
				t.Errorf("%s, moving %v: %q, want %q", c.name, moving, got, want)
			}
		}
	}
}

func TestAStartWaitsForItsDisksToBeHealed(t *testing.T) {
	pending := []gluster.Entry{{Brick: "a", Path: "/" + sharedServer + "/disk"}, {Brick: "b", Path: "/" + sharedServer + "/disk"}}
	for _, c := range []struct {
		name  string
		heals int
		split bool
		want  string
		waits time.Duration
	}{
		{"healed in the meantime", 4, false, "", 3 * healPeriod},
		{"never healed", 0, false, "waits to be healed on a", healPatience},
		{"split: nobody heals that", 0, true, "split-brain", 0},
	} {
		v := &volume{health: twoPairs(), sets: []string{"r0"}, heals: c.heals}
		s, files := sharingOf(t, v)
		synctest.Test(t, func(t *testing.T) {
			v.health.Heal = slices.Clone(pending)
			v.health.Heal[0].Split = c.split
			began := time.Now()
			got := strings.Join(s.awaitHealed(t.Context(), files).all(), "; ")
			if c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("%s: %q, want %q", c.name, got, c.want)
			}
			if waited := time.Since(began); waited != c.waits {
				t.Errorf("%s: waited %s, want %s", c.name, waited, c.waits)
			}
		})
	}
}

func TestAShareThatHangsHoldsNobodyUpForLongerThanHisPatience(t *testing.T) {
	v := &volume{health: twoPairs(), stuck: make(chan struct{})}
	s, files := sharingOf(t, v)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 2 { // the second finds the first's look still in progress
		if got := strings.Join(s.objections(ctx, files, true).all(), ""); !strings.Contains(got, "does not answer") {
			t.Errorf("%q", got)
		}
	}
	close(v.stuck)
	if got := s.objections(t.Context(), files, true).all(); len(got) > 0 {
		t.Errorf("it answers again: %q", got)
	}
	if f := s.facts(); !f.GetWritable() || !f.GetQuorum() || f.GetSeen()["other"] != "w 1" || len(f.GetBricks()) != 4 || f.GetNonce() == "" {
		t.Errorf("facts: %v", f)
	}
}

func TestADirectoryThatIsNotMountedStartsNoAgent(t *testing.T) {
	store, err := disk.Open(t.Context(), disk.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	v := &volume{mount: disk.Mount{Point: "/", Type: "ext4"}}
	if _, err := newSharing(Options{Disk: store, Share: v, DiskMount: gluster.MountType}); !cloud.Is(err, cloud.KindUnavailable) {
		t.Errorf("a local directory in place of the mount: %v", err)
	}
	if s, err := newSharing(Options{Disk: store, Share: v}); s != nil || err != nil {
		t.Errorf("a local directory that is meant: %v %v", s, err)
	}
}

func TestADirectoryTellsForHowLongItHasBeenKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &volume{health: twoPairs()}
		s, _ := sharingOf(t, v)
		if f := s.facts(); f.GetError() != cloud.NotLookedYet || f.GetKeptFor().AsDuration() <= 0 {
			t.Errorf("before the first look: %v", f)
		}
		<-time.After(7 * time.Second) // by the bubble's clock
		if _, err := s.look(t.Context()); err != nil {
			t.Fatal(err)
		}
		if f := s.facts(); f.GetError() != "" || f.GetKeptFor().AsDuration() != 7*time.Second || f.GetNonce() == "" {
			t.Errorf("after it: %v", f)
		}
	})
}

func TestSettingsThatChangeAreToldWithinTheirPeriod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &volume{health: twoPairs()}
		s, _ := sharingOf(t, v)
		see := func(want []string, why string) {
			t.Helper()
			if _, err := s.look(t.Context()); err != nil {
				t.Fatal(err)
			}
			if f := s.facts(); !slices.Equal(f.GetDangers(), want) || f.GetError() != why || !f.GetWritable() {
				t.Errorf("want %q and %q: %v", want, why, f)
			}
		}
		see(nil, "")
		v.dangers = []string{"r0: writes can be lost"}
		see(nil, "") // not asked for at each look
		<-time.After(settingsPeriod)
		see(v.dangers, "")
		v.unsure = errors.New("there is no gluster command")
		<-time.After(settingsPeriod)
		see(v.dangers, "there is no gluster command")
		v.dangers, v.unsure = nil, nil
		<-time.After(settingsPeriod)
		see(nil, "")
	})
}
