package main

import (
	"context"
	"fmt"
	"log"
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

	var ours, theirs, overhead, ourDowntime, theirDowntime, ourQEMU, theirQEMU sample
	at := "compute-1"
	for round := range b.rounds {
		to := map[string]string{"compute-1": "compute-2", "compute-2": "compute-1"}[at]
		godwit := func() error {
			m, err := s.move(ctx, srv.ID, "", to, false)
			if err != nil {
				return err
			}
			ours = append(ours, seconds(m.took))
			if t := m.record.Totals; t != nil {
				overhead = append(overhead, seconds(m.took-t.Elapsed))
				ourDowntime = append(ourDowntime, millis(t.Downtime))
				ourQEMU = append(ourQEMU, seconds(t.Elapsed))
			}
			return nil
		}
		virsh := func() error {
			if err := raw.remake(ctx, to); err != nil {
				return err
			}
			took, job, err := raw.move(ctx, to, "--copy-storage-inc")
			if err != nil {
				return err
			}
			theirs = append(theirs, seconds(took))
			theirDowntime = append(theirDowntime, milliseconds(job["Total downtime"]))
			theirQEMU = append(theirQEMU, milliseconds(job["Time elapsed"])/1000)
			return nil
		}
		pair := []func() error{godwit, virsh}
		if round%2 == 1 {
			pair = []func() error{virsh, godwit}
		}
		for _, contender := range pair {
			if err := contender(); err != nil {
				return "", err
			}
		}
		log.Printf("  round %d: godwit %.2f s (QEMU %.2f), virsh %.2f s (QEMU %.2f)", round+1, ours.last(), ourQEMU.last(), theirs.last(), theirQEMU.last())
		at = to
	}
	var text strings.Builder
	t := table{head: []string{"", "godwit, API call to ACTIVE", "raw `virsh migrate`"}}
	t.add("time, s", ours.spread("%.2f"), theirs.spread("%.2f"))
	t.add("ratio, pair by pair", ratios(ours, theirs).spread("%.2f"), "1 (aim: at most 1.15)")
	t.add("QEMU's own total time, s", ourQEMU.spread("%.2f"), theirQEMU.spread("%.2f"))
	t.add("call to ACTIVE minus QEMU's total, s", overhead.spread("%.3f"), "(aim: at most 0.5, stretch 0.15)")
	t.add("QEMU's downtime, ms", ourDowntime.spread("%.0f"), theirDowntime.spread("%.0f"))
	fmt.Fprintf(&text, `The same guest (256 MiB of memory; `+"`%s`"+`; qcow2 overlay), the same two hosts, TLS for libvirt and QEMU
on both sides, storage copied, the target's disk and base image there before. virsh runs inside the source host; its time includes its own
start. godwit's time is what a client sees that asks for the migration and polls every 50 ms.

%s`, guestOrders, t.String())
	blackout, err := measureBlackout(ctx, b, s, srv.ID, labcloud.Address(srv), at)
	return text.String() + blackout, err
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
	return srv, labcloud.Until(ctx, "guest filled", func() (bool, error) {
		console, err := servers.ShowConsoleOutput(ctx, s.Compute, srv.ID, servers.ShowConsoleOutputOpts{}).Extract()
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
