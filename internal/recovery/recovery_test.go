package recovery

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

var now = time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)

// onVolume returns a server that boots from a volume.
func onVolume(id cloud.ServerID, meta map[string]string) *cloud.Server {
	return &cloud.Server{ID: id, Name: "name-" + string(id), Host: "h", VMState: cloud.VMActive, Metadata: meta, Devices: []cloud.BlockDevice{{BootIndex: 0, Volume: cloud.VolumeID("v-" + id)}},
		Created: now}
}

// fallen is a dead host with servers on volumes.
func fallen(servers ...*cloud.Server) Case {
	c := Case{Recovery: cloud.Recovery{ID: "r", Host: "h", Status: cloud.RecoveryFencing}, Host: cloud.Host{Name: "h"}, Now: now, Servers: map[cloud.ServerID]Server{},
		Life: Life{Verdict: dead, Silence: 3 * time.Second}}
	for _, s := range servers {
		c.Servers[s.ID] = Server{Record: s, Guarded: s.RootDevice() != nil}
	}
	return c
}

func ordered(s Step) (out []cloud.ServerID) {
	for _, o := range s.Orders {
		out = append(out, o.Server)
	}
	return out
}

func outcome(s Step, id cloud.ServerID) cloud.RecoveryServer {
	i := slices.IndexFunc(s.Recovery.Servers, func(x cloud.RecoveryServer) bool { return x.Server == id })
	if i < 0 {
		return cloud.RecoveryServer{}
	}
	return s.Recovery.Servers[i]
}

func TestServersGoByPriorityAndNoMoreThanAllowedAtATime(t *testing.T) {
	p := Default()
	p.ConcurrencyMax = 2
	c := fallen(onVolume("a", nil), onVolume("b", map[string]string{cloud.MetaRecoveryPriority: "5"}), onVolume("c", map[string]string{cloud.MetaRecoveryPriority: "9"}))
	s := Next(p, c)
	if got := ordered(s); !slices.Equal(got, []cloud.ServerID{"c", "b"}) || !s.Disable {
		t.Errorf("ordered %v, disable %v", got, s.Disable)
	}
	c.Moving = 2
	if got := ordered(Next(p, c)); len(got) != 0 {
		t.Errorf("ordered %v while another recovery moves as many as are allowed", got)
	}
}

func TestAServerWaitsForThoseItNamesButNotInACircle(t *testing.T) {
	after := func(name string) map[string]string { return map[string]string{cloud.MetaRecoveryAfter: name} }
	c := fallen(onVolume("web", after("db")), onVolume("db", nil))
	s := Next(Default(), c)
	if got := ordered(s); !slices.Equal(got, []cloud.ServerID{"db"}) {
		t.Errorf("ordered %v", got)
	}
	c.Recovery = s.Recovery
	for _, id := range []cloud.ServerID{"db"} {
		moved := *c.Servers[id].Record
		moved.Host = "elsewhere"
		c.Servers[id] = Server{Record: &moved, Guarded: true}
	}
	if got := ordered(Next(Default(), c)); !slices.Equal(got, []cloud.ServerID{"web"}) {
		t.Errorf("after the first one: ordered %v", got)
	}
	circle := fallen(onVolume("a", after("b")), onVolume("b", after("a")))
	if got := ordered(Next(Default(), circle)); len(got) != 2 {
		t.Errorf("of a circle %v were ordered", got)
	}
}

func TestWhatHasNoProofWaitsAndSaysForWhat(t *testing.T) {
	local := &cloud.Server{ID: "l", Host: "h", VMState: cloud.VMActive, Image: "img", Metadata: map[string]string{cloud.MetaRecoveryRebuild: "on"}}
	c := fallen(local)
	s := Next(Default(), c)
	if len(s.Orders) != 0 || s.Recovery.Status != cloud.RecoveryBlocked || !strings.Contains(s.Recovery.Reason, "no BMC") || s.Alarm == "" {
		t.Fatalf("without any proof: %+v", s)
	}
	c.Fence = Fence{Known: true}
	if s := Next(Default(), c); len(s.Orders) != 0 || !s.Fence || s.Recovery.Status == cloud.RecoveryBlocked {
		t.Errorf("with a BMC that has not answered yet: %+v", s)
	}
	c.Fence.Error = "no answer"
	if s := Next(Default(), c); len(s.Orders) != 0 || s.Recovery.Status != cloud.RecoveryBlocked {
		t.Errorf("with a BMC that confirms nothing: %+v", s)
	}
	c.Fence = Fence{Known: true, Off: true, Proof: "off, it says"}
	if s := Next(Default(), c); len(s.Orders) != 1 || !s.Orders[0].Rebuild || s.Orders[0].Proof != "off, it says" {
		t.Errorf("with a host that is off: %+v", s.Orders)
	}
	c.Fence, c.Host.ForcedDown = Fence{}, true
	if s := Next(Default(), c); len(s.Orders) != 1 {
		t.Errorf("with an operator's word: %+v", s)
	}
}

func TestASharedDisksServerWaitsForTheHostToStopItself(t *testing.T) {
	p := Default()
	shared := &cloud.Server{ID: "s", Host: "h", VMState: cloud.VMActive}
	c := fallen()
	c.Servers["s"] = Server{Record: shared, Shared: true}
	long := p.SelfFenceAfter + p.Margin
	for name, step := range map[string]struct {
		life Life
		want bool
	}{
		"too soon":                   {Life{Silence: long - time.Second, LeaseAge: time.Hour, HasLease: true, Fencing: true}, false},
		"its lease is renewed":       {Life{Silence: time.Hour, LeaseAge: time.Second, HasLease: true, Fencing: true}, false},
		"its lease was never seen":   {Life{Silence: time.Hour, LeaseAge: time.Hour, Fencing: true}, false},
		"its agent does not do that": {Life{Silence: time.Hour, LeaseAge: time.Hour, HasLease: true}, false},
		"both silent for long":       {Life{Silence: long, LeaseAge: long, HasLease: true, Fencing: true}, true},
	} {
		step.life.Verdict = dead
		c.Life = step.life
		if s := Next(p, c); (len(s.Orders) == 1) != step.want {
			t.Errorf("%s: %+v", name, s)
		}
	}
}

func TestWhatIsNotWantedOrNotPossibleIsLeft(t *testing.T) {
	local := &cloud.Server{ID: "l", Host: "h", VMState: cloud.VMActive, Image: "img"}
	s := Next(Default(), fallen(onVolume("off", map[string]string{cloud.MetaRecovery: "off"}), local))
	if len(s.Orders) != 0 || s.Recovery.Status != cloud.RecoveryDone || outcome(s, "off").Outcome != cloud.RecoveryLeft || outcome(s, "l").Outcome != cloud.RecoveryLeft {
		t.Errorf("%+v", s.Recovery)
	}
	p := Default()
	p.Automatic = false
	s = Next(p, fallen(onVolume("on", map[string]string{cloud.MetaRecovery: "on"}), onVolume("unsaid", nil)))
	if got := ordered(s); !slices.Equal(got, []cloud.ServerID{"on"}) {
		t.Errorf("opt-in: ordered %v", got)
	}
}

func TestAFailedEvacuationIsTriedAgainAndThenFailed(t *testing.T) {
	c := fallen(onVolume("a", nil))
	p := Default()
	for attempt := 1; attempt <= p.AttemptsMax; attempt++ {
		s := Next(p, c)
		if len(s.Orders) != 1 {
			t.Fatalf("attempt %d: %+v", attempt, s)
		}
		c.Recovery = s.Recovery
		known := c.Servers["a"]
		known.Migration = &cloud.Migration{Status: cloud.MigrationError, Error: "no room"}
		c.Servers["a"] = known
		s = Next(p, c)
		if len(s.Orders) != 0 {
			t.Fatalf("attempt %d: tried again at once", attempt)
		}
		c.Recovery, c.Now = s.Recovery, c.Now.Add(p.RetryAfter)
	}
	if s := Next(p, c); len(s.Orders) != 0 || outcome(s, "a").Outcome != cloud.RecoveryFailed || outcome(s, "a").Reason != "no room" {
		t.Errorf("after all attempts: %+v", s.Recovery)
	}
}

func TestAHostThatReturnsIsEnabledWhenItIsClean(t *testing.T) {
	c := fallen(onVolume("a", nil))
	s := Next(Default(), c)
	back := func(r cloud.Recovery) Case {
		b := c
		b.Recovery, b.Life = r, Life{Verdict: alive}
		b.Host.Disabled, b.Host.DisabledReason = true, DisabledReason
		return b
	}
	early := fallen(&cloud.Server{ID: "l", Host: "h", VMState: cloud.VMActive, Image: "i", Metadata: map[string]string{cloud.MetaRecoveryRebuild: "on"}})
	e := back(Next(Default(), early).Recovery)
	e.Servers = early.Servers
	if s := Next(Default(), e); s.Recovery.Status != cloud.RecoveryCalled || !s.Enable {
		t.Errorf("before anything was started: %+v enable %v", s.Recovery, s.Enable)
	}
	moved := *c.Servers["a"].Record
	moved.Host = "elsewhere"
	b := back(s.Recovery)
	b.Servers = map[cloud.ServerID]Server{"a": {Record: &moved, Leftover: true}}
	b.Told = true
	dirty := Next(Default(), b)
	if dirty.Recovery.Status != cloud.RecoveryDone || dirty.Enable {
		t.Errorf("with something left: %+v enable %v", dirty.Recovery, dirty.Enable)
	}
	b.Recovery = dirty.Recovery
	b.Servers["a"] = Server{Record: &moved}
	if clean := Next(Default(), b); clean.Recovery.Status != cloud.RecoveryReturned || !clean.Enable {
		t.Errorf("clean: %+v enable %v", clean.Recovery, clean.Enable)
	}
}

// TestByAMonitorsWordAloneNothingStartsElsewhere: the host is turned off, and until it is, or the cluster has seen for itself that the host is dead, not even a
// server starts whose volumes refuse the old copy.
func TestByAMonitorsWordAloneNothingStartsElsewhere(t *testing.T) {
	c := fallen(onVolume("a", nil))
	c.Life.Reported = true
	for name, fence := range map[string]Fence{"no BMC": {}, "a BMC that is asked": {Known: true}, "a BMC that confirms nothing": {Known: true, Error: "no answer"}} {
		c.Fence = fence
		s := Next(Default(), c)
		if len(ordered(s)) != 0 || s.Fence != fence.Known {
			t.Errorf("%s: ordered %v, the BMC is asked: %v", name, ordered(s), s.Fence)
		}
		blocked := fence.Error != ""
		if got := s.Recovery.Status == cloud.RecoveryBlocked; got != blocked {
			t.Errorf("%s: %s: %s", name, s.Recovery.Status, s.Recovery.Reason)
		}
	}
	c.Fence = Fence{Known: true, Off: true, Proof: "it is off"}
	if s := Next(Default(), c); len(s.Orders) != 1 || s.Orders[0].Proof != "it is off" {
		t.Errorf("the host is off: %+v", s.Orders)
	}
	c.Fence, c.Life.Reported = Fence{Known: true}, false
	if s := Next(Default(), c); len(s.Orders) != 1 {
		t.Errorf("the evidence is whole: %+v", s.Recovery)
	}
	c.Fence, c.Life.Reported, c.Life.Silence = Fence{}, true, time.Minute
	if s := Next(Default(), c); s.Recovery.Status != cloud.RecoveryBlocked || len(s.Orders) != 0 {
		t.Errorf("nobody can look: %+v", s.Recovery)
	}
}
