package liveness

import (
	"fmt"
	"slices"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// Verdict is what is believed of a host.
type Verdict string

// The verdicts.
const (
	Alive   Verdict = "alive"
	Suspect Verdict = "suspect"
	Dead    Verdict = "dead"
)

// Probe is what one witness found when it last tried to reach a host over one network.
type Probe struct {
	Witness cloud.HostName
	Network string // "management", "migration", "tunnel"
	Reached bool
	At      time.Time // when the answer, or the lack of one, was known
}

// Heard is all that is known of one host.
type Heard struct {
	Host       cloud.HostName
	Heartbeat  time.Time // of the agent, by the observer's clock; zero: never since the observer began
	Expected   bool      // it was connected before, or placement gave it servers: its silence means something
	ForcedDown bool      // an operator asserts that it is dead and fenced
	Settled    bool      // it was called dead before, in this silence, or an operator let its recovery go on: the brake does not hold it back
	Probes     []Probe
	Storage    time.Time // last sign of life on storage (its lease file was renewed, its guests wrote to volumes); zero: it has none
	HasStorage bool      // it uses storage on which signs of life would be seen
	// Lease is when its lease on a directory that hosts share was last seen to change; zero: it has none, or nobody has seen it.
	Lease time.Time
	// Reported is when a monitor said that the host has stopped; zero: none does. It counts until the host is heard again.
	Reported   time.Time
	Aggregates []cloud.AggregateID
}

// Observer is what the one who judges knows of itself.
type Observer struct {
	Began    time.Time // since when it listens
	LastLook time.Time // when Judge was called before; zero at the first call
	Stalled  time.Time // end of its last stall, as the previous Outcome returned it
}

// Policy are the bounds. Heartbeats come every second.
type Policy struct {
	// SilenceMax is how long after a heartbeat a host is still alive: two beats may be late or lost.
	SilenceMax time.Duration
	// DeadAfter is the shortest silence of a dead host.
	DeadAfter time.Duration
	// ProbeMax is the age at which a probe no longer says anything.
	ProbeMax time.Duration
	// StorageMax is the age at which a sign of life on storage is old.
	StorageMax time.Duration
	// LeaseMax is the age at which a lease that has not changed is old: it is rewritten every second, read every second by each witness, and asked for as often.
	LeaseMax time.Duration
	// StallMax is the longest gap between two looks of an observer that was awake.
	StallMax time.Duration
	// Witnesses is how many hosts must have looked, fewer only when fewer are alive.
	Witnesses int
	// BrakeShare of the hosts may be silent at once, and BrakeHosts whatever the share; see the package comment.
	BrakeShare float64
	BrakeHosts int
	// BrakeWindow is for how long a host that was called dead still counts, so that hosts that go one after the other count together.
	BrakeWindow time.Duration
}

// Default returns bounds with which a power cut is known after about three seconds.
func Default() Policy {
	return Policy{
		SilenceMax: 2200 * time.Millisecond, DeadAfter: 3 * time.Second, ProbeMax: 5 * time.Second, StorageMax: 3 * time.Second, LeaseMax: 6 * time.Second,
		StallMax: 1500 * time.Millisecond, Witnesses: 2, BrakeShare: 1.0 / 3, BrakeHosts: 1, BrakeWindow: time.Minute,
	}
}

// Validate returns an error that names the bound that makes no sense.
func (p Policy) Validate() error {
	switch {
	case p.SilenceMax < time.Second:
		return cloud.Errorf(cloud.KindInvalid, "silence_max %v: heartbeats come once a second, so it must be at least 1s", p.SilenceMax)
	case p.DeadAfter < p.SilenceMax:
		return cloud.Errorf(cloud.KindInvalid, "dead_after %v: it must not be shorter than silence_max %v", p.DeadAfter, p.SilenceMax)
	case p.ProbeMax <= 0 || p.StorageMax <= 0 || p.LeaseMax <= 0 || p.StallMax <= 0 || p.BrakeWindow <= 0:
		return cloud.Errorf(cloud.KindInvalid, "probe_max, storage_max, lease_max, stall_max and brake_window must be positive")
	case p.Witnesses < 1:
		return cloud.Errorf(cloud.KindInvalid, "witnesses %d: at least one host must have looked before another is called dead", p.Witnesses)
	case p.BrakeShare <= 0 || p.BrakeShare > 1 || p.BrakeHosts < 0:
		return cloud.Errorf(cloud.KindInvalid, "brake_share %v must be within (0, 1] and brake_hosts %d not negative", p.BrakeShare, p.BrakeHosts)
	}
	return nil
}

// Judgement is the verdict on one host and why.
type Judgement struct {
	Host     cloud.HostName
	Verdict  Verdict
	Silence  time.Duration // how long nothing was heard; zero when alive
	Evidence []string      // sentences with figures, for people and for the record
	// Isolated says that the host is suspect but seen to live: its storage heartbeat goes on or a witness reaches it.
	Isolated bool
	// Forced says that the verdict is an operator's.
	Forced bool
	// Reported says that the host is called dead on a monitor's word, for which the cluster's own evidence is not complete: reason enough to turn it off, and for nothing else.
	Reported bool
}

// Ask is a probe that would help to decide.
type Ask struct{ Witness, Host cloud.HostName }

// Outcome is what Judge returns.
type Outcome struct {
	Judgements []Judgement // in the order of the hosts given
	Asks       []Ask       // probes wanted now
	Brake      string      // why nobody is called dead although evidence is complete; empty: the brake is off
	Stalled    time.Time   // to be handed back as Observer.Stalled
}

// Judge decides about all hosts at once. hosts must not hold a name twice.
func Judge(p Policy, o Observer, hosts []Heard, now time.Time) Outcome {
	out := Outcome{Stalled: o.Stalled}
	if !o.LastLook.IsZero() && (now.Sub(o.LastLook) > p.StallMax || now.Before(o.LastLook)) {
		out.Stalled = now // it was asleep, or its clock jumped: whatever was to be heard meanwhile may still be in a buffer
	}
	j := judge{Policy: p, now: now, since: latest(o.Began, out.Stalled)}
	for i := range hosts {
		if j.silence(&hosts[i]) <= p.SilenceMax && !hosts[i].ForcedDown {
			j.awake = append(j.awake, hosts[i].Host)
		}
	}
	out.Brake = j.brake(hosts)
	for i := range hosts {
		verdict := j.host(&hosts[i], out.Brake)
		out.Judgements = append(out.Judgements, verdict)
		if verdict.Verdict != Alive && !verdict.Forced || told(&hosts[i]) {
			out.Asks = append(out.Asks, j.asks(&hosts[i])...)
		}
	}
	return out
}

// judge is one call of Judge.
type judge struct {
	Policy
	now   time.Time
	since time.Time        // before this the observer heard nobody
	awake []cloud.HostName // heard lately; in the order given
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

func (j *judge) silence(h *Heard) time.Duration { return j.now.Sub(latest(h.Heartbeat, j.since)) }

func (j *judge) host(h *Heard, brake string) Judgement {
	if h.ForcedDown {
		return Judgement{Host: h.Host, Verdict: Dead, Forced: true, Evidence: []string{"an operator says that it is dead and fenced (forced down)"}}
	}
	silence := j.silence(h)
	if silence <= j.SilenceMax {
		return Judgement{Host: h.Host, Verdict: Alive}
	}
	out := Judgement{Host: h.Host, Verdict: Suspect, Silence: silence, Evidence: []string{fmt.Sprintf("no heartbeat for %.1f s", silence.Seconds())}}
	complete := true
	lacks := func(format string, args ...any) {
		complete = false
		out.Evidence = append(out.Evidence, fmt.Sprintf(format, args...))
	}
	if silence < j.DeadAfter {
		lacks("a silence of %.1f s is needed", j.DeadAfter.Seconds())
	}
	if !h.Expected {
		lacks("it was never connected to this cloud's leader and holds nothing: nobody waits for it")
	}
	j.storage(h, &out, lacks)
	j.witnesses(h, &out, lacks)
	if !complete && (!told(h) || out.Isolated || !h.Expected) {
		return out
	}
	if !complete {
		out.Reported = true
		out.Evidence = append(out.Evidence, fmt.Sprintf("a monitor said %.1f s ago that it stopped", j.now.Sub(h.Reported).Seconds()))
	}
	if brake != "" && !h.Settled {
		out.Evidence = append(out.Evidence, "the brake is on: "+brake)
		out.Reported = false
		return out
	}
	out.Verdict = Dead
	return out
}

// told reports whether a monitor's word about the host stands: nothing was heard of it since, but for a beat that was under way.
func told(h *Heard) bool {
	return !h.Reported.IsZero() && !h.Heartbeat.After(h.Reported.Add(beatLate))
}

// storage adds what storage says of the host.
func (j *judge) storage(h *Heard, out *Judgement, lacks func(string, ...any)) {
	if !h.Lease.IsZero() {
		if age := j.now.Sub(h.Lease); age <= j.LeaseMax {
			out.Isolated = true
			lacks("it renews its lease on shared storage: last seen %.1f s ago", age.Seconds())
		} else {
			out.Evidence = append(out.Evidence, fmt.Sprintf("its lease on shared storage was not renewed for %.1f s", age.Seconds()))
		}
	}
	if !h.HasStorage {
		return
	}
	age := j.now.Sub(h.Storage)
	switch {
	case h.Storage.IsZero():
		out.Evidence = append(out.Evidence, "no sign of life on storage")
	case age <= j.StorageMax:
		out.Isolated = true
		lacks("it lives on storage: last sign %.1f s ago", age.Seconds())
	default:
		out.Evidence = append(out.Evidence, fmt.Sprintf("no sign of life on storage for %.1f s", age.Seconds()))
	}
}

// witnesses adds what other hosts found.
func (j *judge) witnesses(h *Heard, out *Judgement, lacks func(string, ...any)) {
	began := j.now.Add(-j.silence(h))
	looked := map[cloud.HostName]bool{}
	for _, p := range newest(h.Probes) {
		if p.Witness == h.Host || p.At.Before(began) || j.now.Sub(p.At) > j.ProbeMax || p.At.After(j.now) {
			continue // it was about a time when the host was heard, or is too old to count
		}
		if p.Reached {
			out.Isolated = true
			lacks("%s reached it over the %s network %.1f s ago", p.Witness, p.Network, j.now.Sub(p.At).Seconds())
			continue
		}
		if slices.Contains(j.awake, p.Witness) {
			looked[p.Witness] = true
		}
	}
	if need := j.need(h.Host); len(looked) < need {
		lacks("%d of the %d witnesses needed have looked in vain", len(looked), need)
		return
	}
	out.Evidence = append(out.Evidence, fmt.Sprintf("%d witnesses do not reach it over any network", len(looked)))
}

// newest returns the last result of each witness over each network: one that looks again in vain takes back that it reached the host before. Of results of the
// same moment, which are of several addresses of one network, an answer counts.
func newest(probes []Probe) []Probe {
	var out []Probe
	for _, p := range probes {
		i := slices.IndexFunc(out, func(o Probe) bool { return o.Witness == p.Witness && o.Network == p.Network })
		switch {
		case i < 0:
			out = append(out, p)
		case p.At.After(out[i].At) || p.At.Equal(out[i].At) && p.Reached:
			out[i] = p
		}
	}
	return out
}

// need is how many witnesses must have looked: Policy.Witnesses, or all that are awake when those are fewer. Nobody awake is nobody to ask, and
// an observer that hears no host at all must doubt itself: then one is needed and never found.
func (j *judge) need(host cloud.HostName) int {
	awake := 0
	for _, w := range j.awake {
		if w != host {
			awake++
		}
	}
	return max(1, min(j.Witnesses, awake))
}

// asks returns the probes that are wanted of a silent host: by witnesses that have no fresh result. They are chosen by the host's name, so that
// the same ones are asked at each look, and different hosts have different ones.
func (j *judge) asks(h *Heard) []Ask {
	var candidates []cloud.HostName
	for _, w := range j.awake {
		if w != h.Host {
			candidates = append(candidates, w)
		}
	}
	if len(candidates) == 0 {
		return nil
	}
	var out []Ask
	first := int(hash(string(h.Host)) % uint32(len(candidates)))
	// One more than needed, so that a slow witness does not hold up the verdict.
	for i := range min(len(candidates), j.Witnesses+1) {
		w := candidates[(first+i)%len(candidates)]
		if !j.fresh(h, w) {
			out = append(out, Ask{Witness: w, Host: h.Host})
		}
	}
	return out
}

// fresh reports whether the witness's last result about the host will still count at the next look but one.
func (j *judge) fresh(h *Heard, w cloud.HostName) bool {
	began := j.now.Add(-j.silence(h))
	return slices.ContainsFunc(h.Probes, func(p Probe) bool {
		good := j.ProbeMax / 2
		if !h.Lease.IsZero() {
			good = min(good, leaseGood)
		}
		if p.Reached {
			good = answerGood // it may have died since
		}
		return p.Witness == w && !p.At.Before(began) && j.now.Sub(p.At) <= good
	})
}

// answerGood is for how long a witness that reached a silent host is not asked again. A host that loses its power just after somebody reached it must not be
// taken for alive until that answer is old.
const answerGood = 500 * time.Millisecond

// leaseGood is for how long a look at a host that has a lease on shared storage is not repeated: what it says of the lease must not grow old between two looks of
// a host that renews it, or a host that lives on storage alone would be called dead between them.
const leaseGood = time.Second

// hash is FNV-1a, 32 bits.
func hash(s string) uint32 {
	h := uint32(2166136261)
	for i := range len(s) {
		h = (h ^ uint32(s[i])) * 16777619
	}
	return h
}

const (
	// beatEvery is how often a host is heard.
	beatEvery = time.Second
	// beatLate is how much later than that a beat may come from a busy host over a busy network.
	beatLate = beatEvery / 4
)

// overdue is the silence from which on a host counts for the brake. Hosts that fall silent at one moment were heard last up to a beat apart: when the first of them has
// been silent for DeadAfter, the others are not all suspect yet, and it must not be called dead as if it were alone.
func (p Policy) overdue() time.Duration {
	return min(p.SilenceMax, max(p.DeadAfter-beatEvery-beatLate, beatEvery+2*beatLate))
}

// brake returns why nobody may be called dead, or nothing.
func (j *judge) brake(hosts []Heard) string {
	var silent, expected int
	members, gone := map[cloud.AggregateID]int{}, map[cloud.AggregateID]int{}
	for i := range hosts {
		h := &hosts[i]
		if !h.Expected || h.ForcedDown {
			continue // nobody counts on it
		}
		expected++
		for _, a := range h.Aggregates {
			members[a]++
		}
		if s := j.silence(h); s <= j.overdue() || h.Settled && s > j.BrakeWindow {
			continue // heard, or dealt with long ago: not part of this event
		}
		silent++
		for _, a := range h.Aggregates {
			gone[a]++
		}
	}
	if silent > j.BrakeHosts && float64(silent) > j.BrakeShare*float64(expected) {
		return fmt.Sprintf("%d of %d hosts fell silent within %v; at most %.0f %% may be recovered without a person", silent, expected, j.BrakeWindow, 100*j.BrakeShare)
	}
	for _, h := range hosts {
		for _, a := range h.Aggregates {
			if members[a] > 1 && gone[a] == members[a] {
				return fmt.Sprintf("all %d hosts of aggregate %s fell silent within %v", members[a], a, j.BrakeWindow)
			}
		}
	}
	return ""
}
