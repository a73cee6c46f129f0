package control

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/liveness"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// lookEvery is how often all hosts are judged: the share of it in the time from a power cut to a verdict is small, and a thousand hosts cost
// well under a millisecond.
const lookEvery = 200 * time.Millisecond

// judging is the leader's loop that asks package liveness about every host.
//
//	Sessions (pulses) ----------+
//	witnesses (looks.go) -------+--> liveness.Judge, every lookEvery --> verdicts --> writer --> HostVerdicts
//	volume services, leases ----+        |
//	                                     +--> asks for looks, each in a goroutine of its own
//
// The loop itself never waits for anybody: looks and writes happen beside it, because a judge that stalls doubts itself and starts anew. It keeps
// nothing that matters after it: a new leader hears, looks and judges for itself, and takes from its predecessor only who was dead (Settled).
type judging struct {
	*leader
	began   time.Time
	last    time.Time
	stalled time.Time
	writer  *verdictWriter
	news    map[cloud.NotificationID]time.Time // monitors' words about hosts, with when this instance learned of them
}

// judge runs until ctx ends.
func (l *leader) judge(ctx context.Context) error {
	if l.Pulses == nil {
		return nil // nobody is heard here
	}
	j := &judging{leader: l, began: time.Now(), writer: newVerdictWriter(l)}
	defer j.looks.work.Wait()
	var writing sync.WaitGroup
	defer writing.Wait()
	writing.Go(func() { j.writer.run(ctx) })
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-l.Pulses.Broken():
			j.looks.hint(ctx, l.Store.View())
		case <-ctx.Done():
			return nil
		}
		j.look(ctx, time.Now())
	}
}

// look judges once.
func (j *judging) look(ctx context.Context, now time.Time) {
	v := j.Store.View()
	hosts := j.hosts(v, now)
	out := liveness.Judge(j.Liveness, liveness.Observer{Began: j.began, LastLook: j.last, Stalled: j.stalled}, hosts, now)
	if !out.Stalled.Equal(j.stalled) {
		j.log.Warn("this instance was asleep; what it did not hear meanwhile does not count", "for", now.Sub(j.last).Round(time.Millisecond))
	}
	j.last, j.stalled = now, out.Stalled
	j.Metrics.brake(out.Brake != "")
	for _, a := range out.Asks {
		j.looks.ask(ctx, v, a)
	}
	for i, g := range out.Judgements {
		j.note(v, hosts[i], g, out.Brake, now)
	}
}

// hosts gathers what is known of every host that is judged.
func (j *judging) hosts(v store.View, now time.Time) []liveness.Heard {
	aggregates := map[cloud.HostName][]cloud.AggregateID{}
	for _, a := range store.All(v, tables.Aggregates) {
		for _, h := range a.Hosts {
			aggregates[h] = append(aggregates[h], a.ID)
		}
	}
	told := j.reported(v, now)
	var out []liveness.Heard
	for _, h := range store.All(v, tables.Hosts) {
		if p, ok := store.Lookup(v, tables.HostPowers, h.Name); ok && p.Resting() {
			continue // silent because it was told to be
		}
		_, reported := store.Lookup(v, tables.HostReports, h.Name)
		_, permitted := store.Lookup(v, tables.RecoveryPermits, h.Name)
		held, judged := store.Lookup(v, tables.HostVerdicts, h.Name)
		pulse := j.Pulses.Pulse(h.Name)
		heard := liveness.Heard{
			Host: h.Name, Heartbeat: pulse.Last, Expected: reported, ForcedDown: h.ForcedDown, Aggregates: aggregates[h.Name], Reported: told[h.Name],
			Settled: permitted || judged && held.Verdict == string(liveness.Dead),
		}
		j.looks.known(&heard)
		out = append(out, heard)
	}
	return out
}

// note hands a judgement to the writer when it says something new.
func (j *judging) note(v store.View, h liveness.Heard, g liveness.Judgement, brake string, now time.Time) {
	j.Metrics.verdict(g)
	held, judged := store.Lookup(v, tables.HostVerdicts, g.Host)
	silent := j.silence(h, now)
	if g.Verdict == liveness.Alive && (!judged || h.Heartbeat.IsZero()) {
		return // there is nothing to take back, or it only has not been listened for long enough
	}
	next := cloud.HostVerdict{
		Host: g.Host, Verdict: string(g.Verdict), Since: now.UTC(), Judged: now.UTC(), Evidence: g.Evidence, Isolated: g.Isolated, Forced: g.Forced, Reported: g.Reported, Judge: j.Name,
	}
	if g.Verdict == liveness.Suspect && !h.Settled && !g.Isolated {
		next.Brake = brake
	}
	if silent > j.Liveness.SilenceMax {
		next.Silent = now.Add(-silent).UTC()
	}
	if judged {
		if h.Heartbeat.IsZero() && !held.Silent.IsZero() && !next.Silent.IsZero() {
			next.Silent = held.Silent // the predecessor heard it last
		}
		if held.Verdict == next.Verdict {
			next.Since = held.Since
		} else if held.Verdict == string(liveness.Dead) && g.Verdict == liveness.Suspect && h.Heartbeat.IsZero() && !held.Forced {
			return // a new leader has not looked for itself yet; what its predecessor knew stands
		}
		if same(held, &next) {
			return
		}
	}
	j.writer.put(next)
}

// silence is how long the host was not heard, as far as this instance can say.
func (j *judging) silence(h liveness.Heard, now time.Time) time.Duration {
	from := j.began
	if j.stalled.After(from) {
		from = j.stalled
	}
	if h.Heartbeat.After(from) {
		from = h.Heartbeat
	}
	return now.Sub(from)
}

// same reports whether a record needs no new writing: figures in sentences change at every look and are left as they were first noted.
func same(held, next *cloud.HostVerdict) bool {
	return held.Verdict == next.Verdict && held.Isolated == next.Isolated && held.Forced == next.Forced && held.Reported == next.Reported && (held.Brake == "") == (next.Brake == "") &&
		held.Silent.IsZero() == next.Silent.IsZero() && (len(held.Evidence) == len(next.Evidence) || next.Judged.Sub(held.Judged) < evidenceEvery)
}

// evidenceEvery bounds how often a record is written for another sentence alone.
const evidenceEvery = 10 * time.Second

// verdictWriter writes verdicts beside the loop that finds them. Of several verdicts on one host that wait, only the newest is written.
type verdictWriter struct {
	*leader
	bell chan struct{} // capacity 1

	mu      sync.Mutex
	waiting map[cloud.HostName]cloud.HostVerdict // guarded by mu; as many as there are hosts at most
}

func newVerdictWriter(l *leader) *verdictWriter {
	return &verdictWriter{leader: l, bell: make(chan struct{}, 1), waiting: map[cloud.HostName]cloud.HostVerdict{}}
}

func (w *verdictWriter) put(v cloud.HostVerdict) {
	w.mu.Lock()
	w.waiting[v.Host] = v
	w.mu.Unlock()
	select {
	case w.bell <- struct{}{}:
	default:
	}
}

func (w *verdictWriter) run(ctx context.Context) {
	for {
		select {
		case <-w.bell:
		case <-ctx.Done():
			return
		}
		w.mu.Lock()
		batch := w.waiting
		w.waiting = map[cloud.HostName]cloud.HostVerdict{}
		w.mu.Unlock()
		for _, v := range batch {
			if err := w.write(ctx, v); err != nil && ctx.Err() == nil {
				w.log.Warn("a verdict was not written; it is judged again", "host", v.Host, "error", err)
			}
		}
	}
}

// write writes one verdict, and ends an operator's permit when the host is heard again.
func (w *verdictWriter) write(ctx context.Context, next cloud.HostVerdict) error {
	level := slog.LevelInfo
	if next.Verdict != string(liveness.Alive) {
		level = slog.LevelWarn
	}
	_, err := w.records.UpdateVisible(ctx, func(tx *store.Tx) error {
		held, err := store.Peek(tx, tables.HostVerdicts, next.Host)
		if err != nil {
			return err
		}
		if held != nil && held.Verdict == next.Verdict && slices.Equal(held.Evidence, next.Evidence) && same(held, &next) {
			return nil
		}
		if next.Verdict == string(liveness.Alive) {
			if err := store.Delete(tx, tables.RecoveryPermits, next.Host); err != nil {
				return err
			}
		}
		return store.Put(tx, tables.HostVerdicts, next.Host, next)
	})
	if err == nil {
		w.log.Log(ctx, level, "verdict on a host", "host", next.Host, "verdict", next.Verdict, "isolated", next.Isolated, "brake", next.Brake, "evidence", next.Evidence)
	}
	return err
}
