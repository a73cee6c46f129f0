package liveness

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

var began = time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)

// now is long after the observer began.
var now = began.Add(time.Hour)

// awake is an observer that looked a moment ago.
var awake = Observer{Began: began, LastLook: now.Add(-200 * time.Millisecond)}

func ago(d time.Duration) time.Time { return now.Add(-d) }

// fleet returns n hosts that were heard half a second ago.
func fleet(n int) []Heard {
	var out []Heard
	for i := range n {
		out = append(out, Heard{Host: cloud.HostName(fmt.Sprintf("compute-%d", i+1)), Heartbeat: ago(500 * time.Millisecond), Expected: true})
	}
	return out
}

// silence makes a host fall silent and two others look in vain.
func silence(hosts []Heard, i int, since time.Duration) {
	hosts[i].Heartbeat = ago(since)
	for k := 1; k <= 2; k++ {
		w := hosts[(i+k)%len(hosts)].Host
		hosts[i].Probes = append(hosts[i].Probes, Probe{Witness: w, Network: "management", At: ago(300 * time.Millisecond)})
	}
}

func verdicts(o Outcome) []Verdict {
	var out []Verdict
	for _, j := range o.Judgements {
		out = append(out, j.Verdict)
	}
	return out
}

func evidence(o Outcome, i int) string { return strings.Join(o.Judgements[i].Evidence, "; ") }

func TestOneVerdictForEachCase(t *testing.T) {
	p := Default()
	for _, tc := range []struct {
		name     string
		observer Observer
		change   func(h []Heard)
		want     Verdict
		evidence string // of the first host
	}{
		{"everybody beats", awake, func([]Heard) {}, Alive, ""},
		{"one late beat", awake, func(h []Heard) { silence(h, 0, 2100*time.Millisecond) }, Alive, ""},
		{"a short silence", awake, func(h []Heard) { silence(h, 0, 2500*time.Millisecond) }, Suspect, "a silence of 3.0 s is needed"},
		{"silent and out of reach", awake, func(h []Heard) { silence(h, 0, 4*time.Second) }, Dead, "2 witnesses do not reach it"},
		{"nobody has looked yet", awake, func(h []Heard) { silence(h, 0, 4*time.Second); h[0].Probes = nil }, Suspect, "0 of the 2 witnesses"},
		{"one has looked", awake, func(h []Heard) { silence(h, 0, 4*time.Second); h[0].Probes = h[0].Probes[:1] }, Suspect, "1 of the 2 witnesses"},
		{"one witness twice is one witness", awake, func(h []Heard) { silence(h, 0, 4*time.Second); h[0].Probes[1] = h[0].Probes[0] }, Suspect, "1 of the 2 witnesses"},
		{"a silent witness does not count", awake, func(h []Heard) { silence(h, 0, 4*time.Second); silence(h, 1, 2500*time.Millisecond) }, Suspect, "1 of the 2 witnesses"},
		{"its own word does not count", awake, func(h []Heard) { silence(h, 0, 4*time.Second); h[0].Probes[0].Witness = h[0].Host }, Suspect, "1 of the 2 witnesses"},
		{"looks from before the silence", awake, func(h []Heard) {
			silence(h, 0, 4*time.Second)
			h[0].Probes[0].At, h[0].Probes[1].At = ago(4500*time.Millisecond), ago(4500*time.Millisecond)
		}, Suspect, "0 of the 2 witnesses"},
		{"looks that are too old", awake, func(h []Heard) {
			silence(h, 0, time.Minute)
			h[0].Probes[0].At, h[0].Probes[1].At = ago(20*time.Second), ago(20*time.Second)
		}, Suspect, "0 of the 2 witnesses"},
		{"a witness reaches it", awake, func(h []Heard) {
			silence(h, 0, 4*time.Second)
			h[0].Probes = append(h[0].Probes, Probe{Witness: h[3].Host, Network: "migration", Reached: true, At: ago(time.Second)})
		}, Suspect, "compute-4 reached it over the migration network"},
		{"it lives on storage", awake, func(h []Heard) {
			silence(h, 0, 4*time.Second)
			h[0].HasStorage, h[0].Storage = true, ago(time.Second)
		}, Suspect, "it lives on storage"},
		{"its storage fell silent too", awake, func(h []Heard) {
			silence(h, 0, 4*time.Second)
			h[0].HasStorage, h[0].Storage = true, ago(4*time.Second)
		}, Dead, "no sign of life on storage for 4.0 s"},
		{"it renews its lease", awake, func(h []Heard) { silence(h, 0, time.Minute); h[0].Lease = ago(5 * time.Second) }, Suspect, "it renews its lease on shared storage"},
		{"its lease is old", awake, func(h []Heard) { silence(h, 0, time.Minute); h[0].Lease = ago(7 * time.Second) }, Dead, "was not renewed for 7.0 s"},
		{"it holds nothing", awake, func(h []Heard) { silence(h, 0, 4*time.Second); h[0].Expected = false }, Suspect, "nobody waits for it"},
		{"an operator's word", awake, func(h []Heard) { h[0].ForcedDown = true }, Dead, "forced down"},
		{"a new leader waits", Observer{Began: ago(2 * time.Second)}, func(h []Heard) { silence(h, 0, time.Hour) }, Alive, ""},
		{"a new leader has waited", Observer{Began: ago(4 * time.Second), LastLook: ago(200 * time.Millisecond)}, func(h []Heard) { silence(h, 0, time.Hour) }, Dead, "no heartbeat for 4.0 s"},
		{"the observer was asleep", Observer{Began: began, LastLook: ago(20 * time.Second)}, func(h []Heard) { silence(h, 0, 21*time.Second) }, Alive, ""},
		{"the observer's clock went back", Observer{Began: began, LastLook: now.Add(time.Minute)}, func(h []Heard) { silence(h, 0, 21*time.Second) }, Alive, ""},
		{"the observer was asleep a moment ago", Observer{Began: began, LastLook: ago(200 * time.Millisecond), Stalled: ago(time.Second)},
			func(h []Heard) { silence(h, 0, 21*time.Second) }, Alive, ""},
		{"too many at once", awake, func(h []Heard) { silence(h, 0, 4*time.Second); silence(h, 3, 3*time.Second) }, Suspect, "the brake is on: 2 of 5 hosts"},
		{"one more, soon after one that was settled", awake, func(h []Heard) { silence(h, 0, 4*time.Second); silence(h, 3, 30*time.Second); h[3].Settled = true }, Suspect, "the brake is on"},
		{"one more, long after", awake, func(h []Heard) { silence(h, 0, 4*time.Second); silence(h, 3, 2*time.Minute); h[3].Settled = true }, Dead, "witnesses"},
		{"the brake does not wear off", awake, func(h []Heard) { silence(h, 0, time.Hour); silence(h, 3, time.Hour) }, Suspect, "the brake is on"},
		{"an operator lets it go on", awake, func(h []Heard) { silence(h, 0, 4*time.Second); silence(h, 3, 3*time.Second); h[0].Settled = true }, Dead, "witnesses"},
		{"a whole aggregate", awake, func(h []Heard) {
			for i := range h {
				h[i].Aggregates = []cloud.AggregateID{"rack-a"}
			}
			h[0].Aggregates, h[1].Aggregates = []cloud.AggregateID{"rack-b"}, []cloud.AggregateID{"rack-b"}
			h[0].Probes, h[1].Probes = nil, nil
			silence(h, 0, 4*time.Second)
			silence(h, 1, 4*time.Second)
			h[0].Probes[0].Witness = h[4].Host
		}, Suspect, "the brake is on"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			hosts := fleet(5)
			tc.change(hosts)
			out := Judge(p, tc.observer, hosts, now)
			if got := out.Judgements[0]; got.Verdict != tc.want || !strings.Contains(evidence(out, 0), tc.evidence) {
				t.Errorf("got %s (%s), want %s with %q", got.Verdict, evidence(out, 0), tc.want, tc.evidence)
			}
		})
	}
}

// A rack of two among twenty hosts is far below the share that may go, but it is a whole rack.
func TestAWholeAggregateIsTheBrakesBusinessWhateverTheShare(t *testing.T) {
	hosts := fleet(20)
	for i := range 2 {
		hosts[i].Aggregates = []cloud.AggregateID{"rack-b"}
		hosts[i].Heartbeat = ago(4 * time.Second)
		for _, w := range []int{10, 11} {
			hosts[i].Probes = append(hosts[i].Probes, Probe{Witness: hosts[w].Host, At: ago(300 * time.Millisecond)})
		}
	}
	out := Judge(Default(), awake, hosts, now)
	if !strings.Contains(out.Brake, "all 2 hosts of aggregate rack-b") || slices.Contains(verdicts(out), Dead) {
		t.Errorf("brake %q, verdicts %v", out.Brake, verdicts(out))
	}
	hosts[1].Heartbeat = ago(time.Second)
	if out := Judge(Default(), awake, hosts, now); out.Brake != "" || out.Judgements[0].Verdict != Dead {
		t.Errorf("with one of the two alive: brake %q, verdict %s: %s", out.Brake, out.Judgements[0].Verdict, evidence(out, 0))
	}
}

// Hosts that lose their power at one moment were heard last at different ones, up to a heartbeat apart. None of them is dead before the brake is on.
func TestTheBrakeKnowsHostsThatFellSilentAtOnceByWhateverBeat(t *testing.T) {
	const look = 200 * time.Millisecond
	p := Default()
	rapid.Check(t, func(t *rapid.T) {
		hosts := fleet(4)
		o := Observer{Began: began, LastLook: now}
		lost := []int{0, 1}
		for _, i := range lost {
			hosts[i].Heartbeat = now.Add(-time.Duration(rapid.IntRange(0, 1000).Draw(t, "last beat, ms ago")) * time.Millisecond)
		}
		for at := now; at.Sub(now) < 2*p.DeadAfter; at = at.Add(look) {
			hosts[2].Heartbeat, hosts[3].Heartbeat = at, at
			out := Judge(p, o, hosts, at)
			for _, i := range lost {
				if out.Judgements[i].Verdict == Dead {
					t.Fatalf("%v after the power cut %s is dead: %s", at.Sub(now), hosts[i].Host, evidence(out, i))
				}
			}
			for _, a := range out.Asks {
				i := slices.IndexFunc(hosts, func(h Heard) bool { return h.Host == a.Host })
				hosts[i].Probes = append(hosts[i].Probes, Probe{Witness: a.Witness, At: at})
			}
			o.LastLook, o.Stalled = at, out.Stalled
		}
	})
}

func TestALonelyObserverCallsNobodyDead(t *testing.T) {
	hosts := fleet(1)
	hosts[0].Heartbeat = ago(time.Minute)
	out := Judge(Default(), awake, hosts, now)
	if out.Judgements[0].Verdict != Suspect || len(out.Asks) != 0 {
		t.Errorf("got %+v: with nobody to look, nobody can be dead", out)
	}
}

func TestOfTwoHostsOneWitnessIsEnough(t *testing.T) {
	hosts := fleet(2)
	hosts[0].Heartbeat = ago(4 * time.Second)
	out := Judge(Default(), awake, hosts, now)
	if want := []Ask{{"compute-2", "compute-1"}}; !slices.Equal(out.Asks, want) {
		t.Errorf("asks %v, want %v", out.Asks, want)
	}
	hosts[0].Probes = []Probe{{Witness: "compute-2", At: ago(time.Second)}}
	if out := Judge(Default(), awake, hosts, now); out.Judgements[0].Verdict != Dead {
		t.Errorf("got %s: %s", out.Judgements[0].Verdict, evidence(out, 0))
	}
}

func TestProbesAreAskedOfThoseAwakeAndNotTwice(t *testing.T) {
	hosts := fleet(6)
	hosts[2].Heartbeat = ago(2500 * time.Millisecond)
	out := Judge(Default(), awake, hosts, now)
	if len(out.Asks) != Default().Witnesses+1 {
		t.Fatalf("asks %v, want %d", out.Asks, Default().Witnesses+1)
	}
	for _, a := range out.Asks {
		if a.Host != hosts[2].Host || a.Witness == a.Host {
			t.Errorf("ask %v", a)
		}
		hosts[2].Probes = append(hosts[2].Probes, Probe{Witness: a.Witness, At: ago(0)})
	}
	if again := Judge(Default(), awake, hosts, now); len(again.Asks) != 0 {
		t.Errorf("asked again although all have just answered: %v", again.Asks)
	}
}

func TestAStallIsHandedOnUntilTheSilenceIsLongAgain(t *testing.T) {
	p, hosts := Default(), fleet(5)
	silence(hosts, 0, 30*time.Second)
	out := Judge(p, Observer{Began: began, LastLook: ago(10 * time.Second)}, hosts, now)
	if !out.Stalled.Equal(now) || out.Judgements[0].Verdict != Alive {
		t.Fatalf("after a stall: %+v", out)
	}
	later := now.Add(p.DeadAfter + time.Millisecond)
	for i := range hosts {
		if i != 0 {
			hosts[i].Heartbeat = later
		}
	}
	for i := range hosts[0].Probes {
		hosts[0].Probes[i].At = later
	}
	out = Judge(p, Observer{Began: began, LastLook: later.Add(-100 * time.Millisecond), Stalled: out.Stalled}, hosts, later)
	if out.Judgements[0].Verdict != Dead {
		t.Errorf("a host that stays silent after the stall: %s: %s", out.Judgements[0].Verdict, evidence(out, 0))
	}
}

func TestBoundsThatMakeNoSenseAreRefused(t *testing.T) {
	if err := Default().Validate(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Policy){
		"silence_max": func(p *Policy) { p.SilenceMax = time.Millisecond },
		"dead_after":  func(p *Policy) { p.DeadAfter = time.Second },
		"probe_max":   func(p *Policy) { p.ProbeMax = 0 },
		"witnesses":   func(p *Policy) { p.Witnesses = 0 },
		"brake_share": func(p *Policy) { p.BrakeShare = 0 },
		"brake_hosts": func(p *Policy) { p.BrakeHosts = -1 },
	} {
		p := Default()
		change(&p)
		if err := p.Validate(); !cloud.Is(err, cloud.KindInvalid) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// anything draws a fleet of which anything may be true.
func anything(t *rapid.T) ([]Heard, Observer) {
	hosts := fleet(rapid.IntRange(1, 12).Draw(t, "hosts"))
	moment := func(name string) time.Time {
		return ago(time.Duration(rapid.IntRange(0, 20_000).Draw(t, name)) * time.Millisecond)
	}
	for i := range hosts {
		h := &hosts[i]
		h.Heartbeat = moment("heartbeat")
		h.Expected, h.Settled = rapid.Bool().Draw(t, "expected"), rapid.IntRange(0, 4).Draw(t, "settled") == 0
		h.ForcedDown = rapid.IntRange(0, 9).Draw(t, "forced") == 0
		if h.HasStorage = rapid.Bool().Draw(t, "storage"); h.HasStorage {
			h.Storage = moment("storage beat")
		}
		for range rapid.IntRange(0, 4).Draw(t, "probes") {
			w := hosts[rapid.IntRange(0, len(hosts)-1).Draw(t, "witness")].Host
			h.Probes = append(h.Probes, Probe{Witness: w, Network: "management", Reached: rapid.IntRange(0, 5).Draw(t, "reached") == 0, At: moment("looked")})
		}
	}
	o := Observer{Began: ago(time.Duration(rapid.IntRange(0, 60).Draw(t, "began")) * time.Second), LastLook: moment("looked last")}
	return hosts, o
}

// What may never happen, whatever was heard.
func TestNobodyIsCalledDeadAgainstTheEvidence(t *testing.T) {
	p := Default()
	rapid.Check(t, func(t *rapid.T) {
		hosts, o := anything(t)
		out := Judge(p, o, hosts, now)
		for i, j := range out.Judgements {
			h := &hosts[i]
			if j.Verdict != Alive && len(j.Evidence) == 0 {
				t.Fatalf("%s is %s without evidence", h.Host, j.Verdict)
			}
			if j.Verdict != Dead || j.Forced {
				continue
			}
			silent := now.Sub(h.Heartbeat)
			reached := slices.ContainsFunc(h.Probes, func(p Probe) bool {
				later := slices.ContainsFunc(h.Probes, func(q Probe) bool { return q.Witness == p.Witness && q.Network == p.Network && q.At.After(p.At) })
				return p.Reached && !later && p.Witness != h.Host && now.Sub(p.At) < silent && now.Sub(p.At) <= Default().ProbeMax && p.At.After(latest(o.Began, out.Stalled))
			})
			switch {
			case silent < p.DeadAfter, now.Sub(o.Began) < p.DeadAfter, out.Stalled.Equal(now):
				t.Fatalf("%s is dead after %v, the observer began %v ago, stalled %v", h.Host, silent, now.Sub(o.Began), out.Stalled)
			case h.HasStorage && now.Sub(h.Storage) <= p.StorageMax:
				t.Fatalf("%s is dead and lives on storage", h.Host)
			case reached:
				t.Fatalf("%s is dead and was reached", h.Host)
			case out.Brake != "" && !h.Settled:
				t.Fatalf("%s is dead although the brake is on: %s", h.Host, out.Brake)
			case !h.Expected:
				t.Fatalf("%s is dead and nobody waits for it", h.Host)
			}
		}
	})
}

// More life never makes a verdict worse: a heartbeat now, or a look that reached the host.
func TestASignOfLifeNeverMakesAVerdictWorse(t *testing.T) {
	rank := map[Verdict]int{Alive: 0, Suspect: 1, Dead: 2}
	rapid.Check(t, func(t *rapid.T) {
		hosts, o := anything(t)
		before := Judge(Default(), o, hosts, now).Judgements
		i := rapid.IntRange(0, len(hosts)-1).Draw(t, "lives")
		hosts[i].Heartbeat = now
		after := Judge(Default(), o, hosts, now).Judgements
		if rank[after[i].Verdict] > rank[before[i].Verdict] {
			t.Fatalf("%s went from %s to %s because it was heard", hosts[i].Host, before[i].Verdict, after[i].Verdict)
		}
	})
}

// The verdict on a dead host among a healthy fleet does not take long: with probes answered as they are asked, it comes at the first look
// after DeadAfter.
func TestAPowerCutIsKnownSoonAfterDeadAfter(t *testing.T) {
	const look = 200 * time.Millisecond
	p, hosts := Default(), fleet(8)
	o := Observer{Began: began, LastLook: now}
	died := now
	for at := now; ; at = at.Add(look) {
		if at.Sub(died) > 2*p.DeadAfter {
			t.Fatalf("not known after %v", at.Sub(died))
		}
		for i := range hosts {
			if i != 3 {
				hosts[i].Heartbeat = at
			}
		}
		out := Judge(p, o, hosts, at)
		if out.Judgements[3].Verdict == Dead {
			if took := at.Sub(hosts[3].Heartbeat); took > p.DeadAfter+2*look {
				t.Errorf("known after %v of silence, want at most %v", took, p.DeadAfter+2*look)
			}
			return
		}
		for _, a := range out.Asks {
			hosts[3].Probes = append(hosts[3].Probes, Probe{Witness: a.Witness, At: at.Add(look / 2)})
		}
		o.LastLook, o.Stalled = at, out.Stalled
	}
}

// A witness that reached the host just before its power was cut looks again soon, and takes its word back.
func TestAnAnswerFromJustBeforeTheEndDoesNotHoldUpTheVerdict(t *testing.T) {
	p, hosts := Default(), fleet(5)
	silence(hosts, 0, 4*time.Second)
	w := hosts[0].Probes[0].Witness
	hosts[0].Probes = append([]Probe{{Witness: w, Network: "management", Reached: true, At: ago(3900 * time.Millisecond)}}, hosts[0].Probes...)
	if got := Judge(p, awake, hosts, now).Judgements[0]; got.Verdict != Dead {
		t.Errorf("taken back, and still %s: %v", got.Verdict, got.Evidence)
	}
	hosts[0].Probes = []Probe{{Witness: w, Network: "management", Reached: true, At: ago(600 * time.Millisecond)}}
	out := Judge(p, awake, hosts, now)
	if out.Judgements[0].Verdict != Suspect || !slices.Contains(out.Asks, Ask{Witness: w, Host: hosts[0].Host}) {
		t.Errorf("%s, asks %v: want to hear the witness again", out.Judgements[0].Verdict, out.Asks)
	}
}

// TestAHostWithALeaseIsLookedAtOftenEnough: between two looks at a host that renews its lease, and the network between, the lease must not grow old.
func TestAHostWithALeaseIsLookedAtOftenEnough(t *testing.T) {
	hosts := fleet(5)
	silence(hosts, 0, time.Minute)
	for i := range hosts[0].Probes {
		hosts[0].Probes[i].At = ago(1500 * time.Millisecond)
	}
	awake := Observer{Began: now.Add(-time.Hour), LastLook: ago(200 * time.Millisecond)}
	counted := func() int { return len(Judge(Default(), awake, hosts, now).Asks) }
	without := counted()
	hosts[0].Lease = ago(2 * time.Second)
	if with := counted(); with <= without {
		t.Errorf("%d looks are wanted with a lease, %d without: those of 1.5 s ago are good enough for the network alone", with, without)
	}
}

// TestAMonitorsWordStandsForWhatIsMissingAndOutweighsNothing: with it a silent host is dead before anybody has looked, but for turning it off alone; a sign of life, a
// beat after the word, a host that nobody waits for and the brake are stronger.
func TestAMonitorsWordStandsForWhatIsMissingAndOutweighsNothing(t *testing.T) {
	for _, tc := range []struct {
		name     string
		change   func(h []Heard)
		want     Verdict
		reported bool
	}{
		{"nobody has looked", func([]Heard) {}, Dead, true},
		{"all have looked", func(h []Heard) { silence(h, 0, 4*time.Second); h[0].Reported = ago(time.Second) }, Dead, false},
		{"it is not silent for long enough to be missed", func(h []Heard) { h[0].Heartbeat = ago(2 * time.Second) }, Alive, false},
		{"it was heard after the word", func(h []Heard) { h[0].Reported = ago(4 * time.Second) }, Suspect, false},
		{"a beat was under way", func(h []Heard) { h[0].Reported = h[0].Heartbeat.Add(-100 * time.Millisecond) }, Dead, true},
		{"a witness reaches it", func(h []Heard) {
			h[0].Probes = []Probe{{Witness: h[1].Host, Network: "migration", Reached: true, At: ago(time.Second)}}
		}, Suspect, false},
		{"it lives on storage", func(h []Heard) { h[0].HasStorage, h[0].Storage = true, ago(time.Second) }, Suspect, false},
		{"it renews its lease", func(h []Heard) { h[0].Lease = ago(time.Second) }, Suspect, false},
		{"it holds nothing", func(h []Heard) { h[0].Expected = false }, Suspect, false},
		{"others fell silent with it", func(h []Heard) { silence(h, 3, 2500*time.Millisecond) }, Suspect, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			hosts := fleet(5)
			hosts[0].Heartbeat, hosts[0].Reported = ago(2500*time.Millisecond), ago(2*time.Second)
			tc.change(hosts)
			got := Judge(Default(), awake, hosts, now).Judgements[0]
			if got.Verdict != tc.want || got.Reported != tc.reported {
				t.Errorf("%s, by the word alone: %v: %v", got.Verdict, got.Reported, got.Evidence)
			}
		})
	}
}

// TestAHostThatAMonitorReportsIsLookedAtAtOnce, before its silence says anything.
func TestAHostThatAMonitorReportsIsLookedAtAtOnce(t *testing.T) {
	hosts := fleet(5)
	hosts[0].Reported = ago(100 * time.Millisecond)
	out := Judge(Default(), awake, hosts, now)
	if len(out.Asks) == 0 || out.Asks[0].Host != hosts[0].Host || out.Judgements[0].Verdict != Alive {
		t.Errorf("asks %v, verdict %s", out.Asks, out.Judgements[0].Verdict)
	}
}
