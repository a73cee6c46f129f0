package main

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"

	"github.com/godwit-cloud/godwit/test/guest"
	"github.com/godwit-cloud/godwit/test/labcloud"
)

// sharedOrders make a guest with 2 GiB written on its disk, which a block migration has to copy.
const sharedOrders = "godwit.tick=1s godwit.fill=2GiB godwit.dirty=8MiB"

// blockRounds bounds the moves that copy those 2 GiB: they are slow, and differ by far more than they vary.
const blockRounds = 4

// measureSharedMigrations moves a guest whose disk lies on a GlusterFS that all hosts mount through the API, and one like it by virsh, in turn; then the
// same guest, in a lab without shared storage, with its disk.
func measureSharedMigrations(ctx context.Context, b *bench) (_ string, err error) {
	s, err := b.labWith(ctx, "gluster", func(o *labcloud.Options) { o.Gluster, o.Storage = true, 0 })
	if err != nil {
		return "", err
	}
	srv, err := s.bootWritten(ctx)
	if err != nil {
		return "", err
	}
	for _, node := range []string{"compute-2", "compute-1"} { // nobody's first time is measured
		if _, err := s.Move(ctx, srv.ID, node); err != nil {
			return "", err
		}
	}
	for _, node := range []string{"compute-1", "compute-2"} { // the raw guest needs the bridge where no other guest is
		if _, _, err := s.ForeignPort(ctx, "bridge-shared-"+node, s.NetworkID, node); err != nil {
			return "", err
		}
	}
	raw, err := newRawSharedGuest(ctx, s.Lab, "compute-1", srv.ID)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, raw.remove(context.WithoutCancel(ctx))) }()
	if err := raw.awaitFilled(ctx); err != nil {
		return "", err
	}
	pairs := moves{guest: srv.ID, raw: raw, at: "compute-1"}
	if err := pairs.run(ctx, b, s); err != nil {
		return "", err
	}
	blackout, err := measureBlackout(ctx, b, s, srv.ID, labcloud.Address(srv), pairs.at)
	if err != nil {
		return "", err
	}
	if err := raw.remove(ctx); err != nil { // with the lab that it lies in
		return "", err
	}
	copied, err := measureBlockOfWritten(ctx, b)
	if err != nil {
		return "", err
	}
	chart := barChart{title: "Live migration of a guest with 2 GiB written on its disk", unit: "seconds (less is better)", groups: []string{"total"},
		series: []barSeries{{"godwit, shared", []sample{pairs.ours}}, {"raw virsh, shared", []sample{pairs.theirs}}, {"godwit, block", []sample{copied}}}}
	if err := b.draw("migrate-shared.svg", chart); err != nil {
		return "", err
	}
	t := table{head: []string{"the same guest, godwit", "API call to ACTIVE, s"}}
	t.add("shared storage: its memory alone", pairs.ours.spread("%.2f"))
	t.add("block migration: with the 2 GiB", copied.spread("%.2f"))
	t.add("shared to block, of the medians", fmt.Sprintf("%.2f", pairs.ours.median()/copied.median()))
	return fmt.Sprintf(`The same guest (256 MiB of memory; `+"`%s`"+`; qcow2 overlay), the same two hosts, TLS for libvirt and QEMU's migration on both sides. The disks of both lie on
a GlusterFS of four nodes, two pairs of replicas, FUSE, O_DIRECT and io_uring.

%s
%s
%s
![Live migration of a guest with 2 GiB written on its disk](benchmarks/migrate-shared.svg)

%s`, sharedOrders, pairs.table(), pairs.phaseTable(), blackout, t.String()), nil
}

// measureBlockOfWritten moves the guest in a lab whose hosts share nothing.
func measureBlockOfWritten(ctx context.Context, b *bench) (took sample, err error) {
	s, err := b.lab(ctx)
	if err != nil {
		return nil, err
	}
	srv, err := s.bootWritten(ctx)
	if err != nil {
		return nil, err
	}
	at := "compute-1"
	for range min(blockRounds, b.rounds) + 1 {
		at = map[string]string{"compute-1": "compute-2", "compute-2": "compute-1"}[at]
		m, err := s.move(ctx, srv.ID, "", at, false)
		if err != nil {
			return nil, err
		}
		log.Printf("  with its disk: %.2f s", m.took.Seconds())
		took = append(took, seconds(m.took))
	}
	return took[1:], s.Remove(ctx, srv.ID) // the first fetches the base image
}

// bootWritten boots the guest and waits until its disk is written.
func (s *stage) bootWritten(ctx context.Context) (*servers.Server, error) {
	path, err := guest.ImageWithOrders(ctx, sharedOrders)
	if err != nil {
		return nil, err
	}
	image, err := s.UploadImage(ctx, "bench-written", path)
	if err != nil {
		return nil, err
	}
	const vcpus, ramMiB, diskGiB = 1, 256, 3
	flavor, err := s.Flavor(ctx, "bench-written", vcpus, ramMiB, diskGiB)
	if err != nil {
		return nil, err
	}
	srv, err := s.Boot(ctx, labcloud.Guest{Name: "bench-written", Image: image, Flavor: flavor, Network: s.NetworkID, Host: "compute-1"})
	if err != nil {
		return nil, err
	}
	return srv, s.awaitFilled(ctx, srv.ID)
}
