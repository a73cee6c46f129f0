package main

import (
	"context"
	"fmt"
	"log"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"

	"github.com/godwit-cloud/godwit/test/guest"
	"github.com/godwit-cloud/godwit/test/labcloud"
)

// guestOrders make a guest that is worth moving: random bytes in memory (zero pages cheat) and on its disk, some of the memory changing all
// the time. They are on the kernel's command line, so that the raw guest, which has no config drive, obeys them too.
const guestOrders = "godwit.tick=1s godwit.fill=96MiB godwit.dirty=8MiB"

// measureMigrations moves a godwit guest through the API and a clone of it by virsh, in turn, between the same two hosts.
func measureMigrations(ctx context.Context, b *bench) (string, error) {
	s, err := b.lab(ctx)
	if err != nil {
		return "", err
	}
	srv, err := s.bootMover(ctx)
	if err != nil {
		return "", err
	}
	if _, err := s.Move(ctx, srv.ID, "compute-2"); err != nil { // the target's image cache is warm for both sides from here on
		return "", err
	}
	if _, err := s.Move(ctx, srv.ID, "compute-1"); err != nil {
		return "", err
	}
	for _, node := range []string{"compute-1", "compute-2"} { // the raw guest needs the bridge where no other guest is
		if _, _, err := s.ForeignPort(ctx, "bridge-"+node, s.NetworkID, node); err != nil {
			return "", err
		}
	}
	raw, err := newRawGuest(ctx, s.Lab, "compute-1", srv.ID)
	if err != nil {
		return "", err
	}
	defer raw.remove(context.WithoutCancel(ctx))
	if err := raw.awaitFilled(ctx); err != nil {
		return "", err
	}

	pairs := moves{guest: srv.ID, raw: raw, storage: []string{"--copy-storage-inc"}, at: "compute-1", before: raw.remake}
	if err := pairs.run(ctx, b, s); err != nil {
		return "", err
	}
	text := fmt.Sprintf(`The same guest (256 MiB of memory; `+"`%s`"+`; qcow2 overlay), the same two hosts, TLS for libvirt and QEMU
on both sides, storage copied, the target's disk and base image there before. virsh runs inside the source host; its time includes its own
start. godwit's time is what a client sees that asks for the migration and polls every 50 ms.

%s
%s`, guestOrders, pairs.table(), pairs.phaseTable())
	blackout, err := measureBlackout(ctx, b, s, srv.ID, labcloud.Address(srv), pairs.at)
	return text + blackout, err
}

// moves are pairs of live migrations: a godwit guest through the API, and a raw guest like it by virsh, in turn.
type moves struct {
	guest   string
	raw     *rawGuest
	storage []string // virsh's flags about disks
	at      string   // where both are
	before  func(ctx context.Context, to string) error

	ours, theirs, overhead, theirOverhead, ourDowntime, theirDowntime, ourQEMU, theirQEMU sample

	phases map[string]sample // of godwit's run, seconds
}

func (p *moves) run(ctx context.Context, b *bench, s *stage) error {
	for round := range b.rounds {
		to := map[string]string{"compute-1": "compute-2", "compute-2": "compute-1"}[p.at]
		pair := []func(context.Context, *stage, string) error{p.godwit, p.virsh}
		if turn := round % 4; turn == 1 || turn == 2 { // each is first in half of the moves to either host
			slices.Reverse(pair)
		}
		for _, contender := range pair {
			if err := wait(ctx, settlePause); err != nil {
				return err
			}
			if err := contender(ctx, s, to); err != nil {
				return err
			}
		}
		log.Printf("  round %d: godwit %.2f s (QEMU %.2f), virsh %.2f s (QEMU %.2f)", round+1, p.ours.last(), p.ourQEMU.last(), p.theirs.last(), p.theirQEMU.last())
		p.at = to
	}
	return nil
}

// settlePause lets what a move leaves to do end before the next one begins: godwit cleans up the source when the client has its answer already, and
// virsh should not have to run beside that.
const settlePause = time.Second

func wait(ctx context.Context, pause time.Duration) error {
	select {
	case <-time.After(pause):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *moves) godwit(ctx context.Context, s *stage, to string) error {
	m, err := s.move(ctx, p.guest, "", to, false)
	if err != nil {
		return err
	}
	job, err := completedJob(ctx, s.Lab, to, p.guest) // the same source of figures for both
	if err != nil {
		return err
	}
	p.ours = append(p.ours, seconds(m.took))
	p.ourDowntime = append(p.ourDowntime, milliseconds(job["Total downtime"]))
	p.ourQEMU = append(p.ourQEMU, milliseconds(job["Time elapsed"])/1000)
	p.overhead = append(p.overhead, p.ours.last()-p.ourQEMU.last())
	if p.phases == nil {
		p.phases = map[string]sample{}
	}
	for _, phase := range m.record.Phases {
		p.phases[phase.Name] = append(p.phases[phase.Name], seconds(phase.Took))
	}
	return nil
}

func (p *moves) virsh(ctx context.Context, _ *stage, to string) error {
	if p.before != nil {
		if err := p.before(ctx, to); err != nil {
			return err
		}
	}
	took, job, err := p.raw.move(ctx, to, p.storage...)
	if err != nil {
		return err
	}
	p.theirs = append(p.theirs, seconds(took))
	p.theirDowntime = append(p.theirDowntime, milliseconds(job["Total downtime"]))
	p.theirQEMU = append(p.theirQEMU, milliseconds(job["Time elapsed"])/1000)
	p.theirOverhead = append(p.theirOverhead, p.theirs.last()-p.theirQEMU.last())
	return nil
}

func (p *moves) table() string {
	t := table{head: []string{"", "godwit, API call to ACTIVE", "raw `virsh migrate`"}}
	t.add("time, s", p.ours.spread("%.2f"), p.theirs.spread("%.2f"))
	t.add("ratio, pair by pair", ratios(p.ours, p.theirs).spread("%.2f"), "1 (aim: at most 1.15)")
	t.add("libvirt's own total for the job, s", p.ourQEMU.spread("%.2f"), p.theirQEMU.spread("%.2f"))
	t.add("what is spent beside it, s", p.overhead.spread("%.3f")+" (aim: at most 0.5, stretch 0.15)", p.theirOverhead.spread("%.3f"))
	t.add("QEMU's downtime, ms", p.ourDowntime.spread("%.0f"), p.theirDowntime.spread("%.0f"))
	return t.String()
}

// phaseTable shows the steps of godwit's run that a client waits for, as far as the run has them.
func (p *moves) phaseTable() string {
	t := table{head: []string{"step of godwit's run", "seconds"}}
	for _, name := range []string{"choose-target", "open-volumes-target", "prepare-target", "copy", "switch"} {
		if took := p.phases[name]; len(took) > 0 {
			t.add(name, took.spread("%.3f"))
		}
	}
	return t.String()
}

// filledLine is what the test guest says on its console when it has filled memory and disk.
const filledLine = "filled disk="

// bootMover boots the guest to be moved and waits until it is as full as it was ordered to be.
func (s *stage) bootMover(ctx context.Context) (*servers.Server, error) {
	path, err := guest.ImageWithOrders(ctx, guestOrders)
	if err != nil {
		return nil, err
	}
	image, err := s.UploadImage(ctx, "bench-mover", path)
	if err != nil {
		return nil, err
	}
	srv, err := s.Boot(ctx, labcloud.Guest{Name: "bench-mover", Image: image, Flavor: s.FlavorID, Network: s.NetworkID, Host: "compute-1"})
	if err != nil {
		return nil, err
	}
	return srv, s.awaitFilled(ctx, srv.ID)
}

// awaitFilled waits until a guest says on its console that it has filled memory and disk.
func (s *stage) awaitFilled(ctx context.Context, id string) error {
	return labcloud.Until(ctx, "guest filled", func() (bool, error) {
		console, err := servers.ShowConsoleOutput(ctx, s.Compute, id, servers.ShowConsoleOutputOpts{}).Extract()
		return strings.Contains(console, filledLine), err
	})
}

// milliseconds reads virsh's "123 ms".
func milliseconds(s string) float64 {
	v, _ := strconv.ParseFloat(strings.TrimSuffix(s, " ms"), 64)
	return v
}

// measureBlackout moves the guest to and fro while a peer on a third host pings it every millisecond.
func measureBlackout(ctx context.Context, b *bench, s *stage, id, ip, at string) (string, error) {
	var blackout, downtime, lost sample
	for range b.rounds {
		at = map[string]string{"compute-1": "compute-2", "compute-2": "compute-1"}[at]
		m, err := s.move(ctx, id, ip, at, true)
		if err != nil {
			return "", err
		}
		blackout = append(blackout, millis(m.blackout))
		lost = append(lost, float64(m.lost))
		if m.record.Totals != nil {
			downtime = append(downtime, millis(m.record.Totals.Downtime))
		}
	}
	t := table{head: []string{"seen by a peer on a third host that pings every millisecond", ""}}
	t.add("network blackout, ms", blackout.spread("%.0f"))
	t.add("QEMU's downtime in the same moves, ms", downtime.spread("%.0f"))
	t.add("pings lost", lost.spread("%.0f"))
	return "\n" + t.String(), nil
}

// measureBoots times boot calls to ACTIVE on hosts that have the image.
func measureBoots(ctx context.Context, b *bench) (string, error) {
	s, err := b.lab(ctx)
	if err != nil {
		return "", err
	}
	var boots, deletes sample
	for i := range b.rounds + 1 {
		began := time.Now()
		srv, err := s.BootGuest(ctx, fmt.Sprintf("bench-boot-%d", i), "compute-1", nil)
		if err != nil {
			return "", err
		}
		took := time.Since(began)
		began = time.Now()
		if err := s.Remove(ctx, srv.ID); err != nil {
			return "", err
		}
		if i > 0 { // the first fetches the image
			boots, deletes = append(boots, seconds(took)), append(deletes, seconds(time.Since(began)))
		}
	}
	t := table{head: []string{"", "seconds"}}
	t.add("POST /servers to ACTIVE (the guest's CPUs run)", boots.spread("%.2f"))
	t.add("DELETE to gone", deletes.spread("%.2f"))
	return t.String(), nil
}
