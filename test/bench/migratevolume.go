package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"

	"github.com/godwit-cloud/godwit/test/guest"
	"github.com/godwit-cloud/godwit/test/labcloud"
)

// measureVolumeMigrations moves a guest that boots from a volume through the API, and one like it on a plain NBD server by virsh, in turn.
func measureVolumeMigrations(ctx context.Context, b *bench) (_ string, err error) {
	s, err := b.lab(ctx)
	if err != nil {
		return "", err
	}
	path, err := guest.ImageWithOrders(ctx, guestOrders)
	if err != nil {
		return "", err
	}
	srv, err := s.bootVolumeMover(ctx, path)
	if err != nil {
		return "", err
	}
	for _, node := range []string{"compute-2", "compute-1"} { // nobody's first time is measured
		if _, err := s.Move(ctx, srv.ID, node); err != nil {
			return "", err
		}
	}
	for _, node := range []string{"compute-1", "compute-2"} { // the raw guest needs the bridge where no other guest is
		if _, _, err := s.ForeignPort(ctx, "bridge-volume-"+node, s.NetworkID, node); err != nil {
			return "", err
		}
	}
	raw, err := newRawVolumeGuest(ctx, s.Lab, "compute-1", srv.ID, path)
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
	chart := barChart{title: "Live migration of a volume-backed guest", unit: "seconds (less is better)", groups: []string{"total", "QEMU's own"},
		series: []barSeries{{"godwit, API call to ACTIVE", []sample{pairs.ours, pairs.ourQEMU}}, {"raw virsh", []sample{pairs.theirs, pairs.theirQEMU}}}}
	if err := b.draw("migrate-volume.svg", chart); err != nil {
		return "", err
	}
	text := fmt.Sprintf(`The same guest (256 MiB of memory; `+"`%s`"+`), the same two hosts, TLS for libvirt and QEMU's migration on both sides, no disk copied.
godwit's guest boots from a volume on a third node (NBD with mutual TLS, an epoch for each side, handed over); the raw guest has its disk on
qemu-nbd on the same node, io_uring, in the clear, exported to both sides at once: nobody keeps it from being written twice.

%s
%s
![Live migration of a volume-backed guest](benchmarks/migrate-volume.svg)
`, guestOrders, pairs.table(), pairs.phaseTable())
	blackout, err := measureBlackout(ctx, b, s, srv.ID, labcloud.Address(srv), pairs.at)
	return text + blackout, err
}

// bootVolumeMover boots the guest to be moved from a volume made of its image.
func (s *stage) bootVolumeMover(ctx context.Context, path string) (*servers.Server, error) {
	image, err := s.UploadImage(ctx, "bench-volume-mover", path)
	if err != nil {
		return nil, err
	}
	created, err := servers.Create(ctx, s.Compute, servers.CreateOpts{
		Name: "bench-volume-mover", FlavorRef: s.FlavorID, Networks: []servers.Network{{UUID: s.NetworkID}}, AvailabilityZone: "nova:compute-1",
		BlockDevice: []servers.BlockDevice{{
			SourceType: servers.SourceImage, UUID: image, DestinationType: servers.DestinationVolume, VolumeSize: 1, BootIndex: 0, DeleteOnTermination: true,
		}},
	}, nil).Extract()
	if err != nil {
		return nil, fmt.Errorf("boot from a volume: %w", err)
	}
	srv, err := s.WaitStatus(ctx, created.ID, "ACTIVE")
	if err != nil {
		return nil, err
	}
	return srv, s.awaitFilled(ctx, srv.ID)
}
