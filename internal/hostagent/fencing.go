package hostagent

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/kvm"
	"github.com/godwit-cloud/godwit/internal/sharedlease"
)

// A host that is cut off stops the servers that nothing else keeps from harm, before the cluster starts them elsewhere.
//
//	every second, in a goroutine that the storage may hold up:   renew the host's lease, look at the others', hold each server's disk
//	every second, in one that nothing holds up:                  cutOff? --> end the guests whose disks are in the shared directory
//
// A volume's server is not ended: its storage refuses the old copy. A disk of this host's own is on no other host.
//
// Both must have failed for Welcome.self_fence_after: hearing from a server, and renewing the lease. So neither a server that restarts, nor another
// leader, nor a switch that fails alone ends a guest; storage that fails alone does not either. The cluster starts such a server only when both have been
// silent, by its own clock and a witness's, for that time and a margin (package recovery). What a guest loses then it had lost: its disk was out of reach.
//
// A host that sees that a server's disk belongs to a later decision ends its copy at once, whatever else is true.

// Fencing is what an agent needs to fence itself.
type Fencing interface {
	// Last returns when a server was last heard, by the monotonic clock (zero: never since the agent began), and after which silence the agent is to fence
	// itself (0: never).
	Last() (heard time.Time, fenceAfter time.Duration)
}

const (
	// fencePeriod is how often both loops look.
	fencePeriod = time.Second
	// dozeMax is the longest gap between two looks of an agent that was awake, wakeGrace what one that was not gets to hear and to renew: the guests ran
	// unguarded while it slept, and a moment more is less harm than stopping them for a pause of the agent alone. When the lease can be renewed, the
	// renewal tells of every server that was started elsewhere meanwhile.
	dozeMax   = 3 * time.Second
	wakeGrace = 3 * time.Second
	// endMax bounds the ending of one guest. libvirtd asks QEMU to end, and kills it; a process that waits for storage ends when the storage lets it.
	endMax = 30 * time.Second
)

// guardian is an agent's watch over the servers whose disks are in the shared directory.
type guardian struct {
	*Agent
	leases *sharedlease.Directory
	began  time.Time

	mu      sync.Mutex
	renewed time.Time               // when the last renewal that succeeded began; guarded by mu
	ending  map[cloud.ServerID]bool // guarded by mu
}

// guard starts the watch when the host shares its disks and somebody says when a server was heard.
func (a *Agent) guard() {
	if a.guardian == nil {
		return
	}
	a.work.Go(a.guardian.keepLeases)
	a.work.Go(a.guardian.watch)
}

func newGuardian(a *Agent) *guardian {
	if a.shared == nil || a.o.Contact == nil {
		return nil
	}
	return &guardian{Agent: a, leases: sharedlease.Open(a.o.Disk.Instances(), a.o.Name, a.epoch), began: time.Now(), ending: map[cloud.ServerID]bool{}}
}

// selfFencing reports whether the cluster may rely on the watch.
func (a *Agent) selfFencing() bool {
	if a.guardian == nil {
		return false
	}
	_, after := a.o.Contact.Last()
	_, renewed := a.guardian.ages(time.Now())
	return after > 0 && renewed < after
}

// ages returns for how long no server was heard and the lease not renewed.
func (g *guardian) ages(now time.Time) (contact, lease time.Duration) {
	heard, _ := g.o.Contact.Last()
	g.mu.Lock()
	defer g.mu.Unlock()
	return now.Sub(later(heard, g.began)), now.Sub(later(g.renewed, g.began))
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// cutOff reports whether a host that has heard no server and renewed no lease for so long must fence itself.
func cutOff(contact, lease, after time.Duration) bool {
	return after > 0 && contact >= after && lease >= after
}

// keepLeases renews the host's lease and its hold on its servers' disks. A call to the storage may hang; then nothing is renewed, which is the truth.
func (g *guardian) keepLeases() {
	ticker := time.NewTicker(fencePeriod)
	defer ticker.Stop()
	done := make(chan struct{}, 1) // the turn of the one goroutine that talks to the storage
	done <- struct{}{}
	for {
		select {
		case <-g.life.Done():
			return
		case <-ticker.C:
		}
		select {
		case <-done:
			go func() { // not waited for by Run: what hangs in the kernel cannot be ended
				g.renew()
				done <- struct{}{}
			}()
		default: // the last turn still hangs
		}
	}
}

// renew is one turn.
func (g *guardian) renew() {
	began := time.Now()
	if err := g.leases.Renew(); err != nil {
		g.log.Warn("the host's lease on the shared directory is not renewed", "error", err)
		return
	}
	g.mu.Lock()
	g.renewed = began
	g.mu.Unlock()
	if err := g.leases.Refresh(); err != nil {
		g.log.Warn("other hosts' leases cannot be read", "error", err)
	}
	for id, generation := range g.unguarded() {
		err := g.leases.Hold(id, generation)
		switch {
		case errors.Is(err, sharedlease.ErrLost):
			g.endGuest(id, err.Error())
		case err != nil:
			g.log.Warn("a server's disk is not held", "server", id, "error", err)
		}
	}
}

// doze notices that the agent was asleep: stopped, or starved. It is used by one goroutine.
type doze struct{ last, woke time.Time }

// awake takes note of a look, and reports whether the agent has been awake for long enough to be sure of what it did not hear. heard is when it last heard a
// server or renewed its lease: in one silence it gets one grace, however often it dozes off, or a host that is starved would never fence itself.
func (d *doze) awake(now, heard time.Time) bool {
	if !d.last.IsZero() && now.Sub(d.last) > dozeMax && (d.woke.IsZero() || heard.After(d.woke)) {
		d.woke = now
	}
	d.last = now
	return d.woke.IsZero() || now.Sub(d.woke) >= wakeGrace
}

// watch ends guests when the host is cut off.
func (g *guardian) watch() {
	var sleep doze
	told := false // that the cluster may rely on the watch
	ticker := time.NewTicker(fencePeriod)
	defer ticker.Stop()
	for {
		select {
		case <-g.life.Done():
			return
		case <-ticker.C:
		}
		if now := g.selfFencing(); now != told {
			told = now
			g.ringFacts() // at once: when the storage is lost first and the server next, this is the last that it hears
		}
		_, after := g.o.Contact.Last()
		now := time.Now()
		if contact, lease := g.ages(now); sleep.awake(now, now.Add(-min(contact, lease))) && cutOff(contact, lease, after) {
			for id := range g.unguarded() {
				g.endGuest(id, "the host hears no server and cannot renew its lease on the shared directory")
			}
		}
	}
}

// unguarded returns the servers that live here with a disk in the shared directory, with the generations by which they are held. A server that is arriving is its
// source's.
func (g *guardian) unguarded() map[cloud.ServerID]int64 {
	out := map[cloud.ServerID]int64{}
	for _, id := range g.present() {
		v, err := g.acquire(id)
		if err != nil {
			continue
		}
		r := v.snapshot()
		g.release(v)
		generation, ok := r.claim()
		if !ok {
			continue
		}
		if spec, err := r.spec(); err == nil && spec.GetRoot() != nil {
			out[id] = generation
		}
	}
	return out
}

// endGuest ends a guest beside its loop, which may be waiting for the very storage that is gone. One attempt at a time; the watch repeats it.
func (g *guardian) endGuest(id cloud.ServerID, reason string) {
	g.mu.Lock()
	busy := g.ending[id]
	g.ending[id] = true
	g.mu.Unlock()
	if busy {
		return
	}
	g.Agent.mu.Lock()
	defer g.Agent.mu.Unlock()
	if g.closed {
		return // Run waits for its goroutines already
	}
	g.work.Go(func() {
		defer func() {
			g.mu.Lock()
			delete(g.ending, id)
			g.mu.Unlock()
		}()
		ctx, cancel := context.WithTimeout(g.life, endMax)
		defer cancel()
		s, err := g.hv.State(ctx, id)
		if err != nil || s.Run != kvm.Running && s.Run != kvm.Paused {
			return
		}
		g.log.Error("stopping a guest: the cluster may start it elsewhere", "server", id, "reason", reason)
		if err := g.hv.Destroy(ctx, id); err != nil {
			g.log.Error("the guest was not stopped", "server", id, "error", err)
		}
	})
}
