package main

import "context"

const (
	volumeName       = "bootable-vol"
	volumeServerName = "vm-boot-from-vol"
)

// bootFromVolume shows the third kind of live migration's beginning: a volume made from the image, and a guest on it.
func (d *demo) bootFromVolume(ctx context.Context) error {
	heading("A volume made from the image, and a guest that boots from it")
	image, err := d.quiet(ctx, "openstack image show -f value -c id "+imageName)
	if err != nil {
		return err
	}
	if err := d.client(ctx, words("cinder create --image-id "+image+" --display-name "+volumeName+" 5"), "name", "size", "status"); err != nil {
		return err
	}
	volume, err := d.quiet(ctx, "openstack volume show -f value -c id "+volumeName)
	if err != nil {
		return err
	}
	if _, err := d.cloud.WaitVolume(ctx, volume, "available"); err != nil {
		return err
	}
	if err := d.client(ctx, words("cinder list")); err != nil {
		return err
	}
	network, err := d.quiet(ctx, "openstack network show -f value -c id "+networkName)
	if err != nil {
		return err
	}
	return d.bootWith(ctx, volumeServerName, "--nic net-id="+network+" --block-device-mapping vda="+volume+":::0")
}

// walkVolume moves it: only memory goes from host to host.
func (d *demo) walkVolume(ctx context.Context) error {
	heading("The walk-through without copying disks")
	if err := d.where(ctx); err != nil {
		return err
	}
	return d.moves(ctx,
		"nova live-migration "+volumeServerName+" compute-2",
		"nova live-migration "+volumeServerName,
		"openstack --os-compute-api-version 2.30 server migrate --live-migration --host HOST "+volumeServerName,
	)
}
