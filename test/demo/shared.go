package main

import "context"

const sharedServerName = "vm-shared"

// shareStorage shows the kind without disks to copy or hand over: a second lab, whose two hosts mount one GlusterFS. It is taken down again, and the
// first lab is the one to look around in.
func (d *demo) shareStorage(ctx context.Context) error {
	first := d.cloud
	heading("A second lab, whose hosts keep server disks on a GlusterFS of four nodes, replica 2")
	d.lab = d.name + "-gluster"
	if err := d.up(ctx, "--hosts", "2", "--storage", "0", "--gluster"); err != nil {
		return err
	}
	if err := d.storage(ctx); err != nil {
		return err
	}
	if err := d.furnish(ctx); err != nil {
		return err
	}
	heading("A guest with its disk on shared storage")
	network, err := d.quiet(ctx, "openstack network show -f value -c id "+networkName)
	if err != nil {
		return err
	}
	if err := d.bootWith(ctx, sharedServerName, "--nic net-id="+network); err != nil {
		return err
	}
	heading("The walk-through on shared storage: memory alone is copied")
	err = d.moves(ctx,
		"nova live-migration "+sharedServerName+" compute-2",
		"nova live-migration "+sharedServerName,
		"openstack --os-compute-api-version 2.30 server migrate --live-migration --host HOST "+sharedServerName,
	)
	if err != nil {
		return err
	}
	if err := d.verify(ctx); err != nil {
		return err
	}
	if err := d.down(ctx); err != nil {
		return err
	}
	d.cloud, d.lab = first, d.name
	return nil
}

// storage shows what the hosts share.
func (d *demo) storage(ctx context.Context) error {
	return d.client(ctx, []string{d.godwit, "storage"})
}
