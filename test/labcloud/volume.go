package labcloud

import (
	"context"
	"fmt"
	"net/http"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumes"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/volumeattach"
)

// CreateVolume makes a volume, from an image unless that is empty, and returns its id when it is available.
func (c *Cloud) CreateVolume(ctx context.Context, name, image string, sizeGiB int) (string, error) {
	v, err := volumes.Create(ctx, c.Volume, volumes.CreateOpts{Name: name, Size: sizeGiB, ImageID: image}, nil).Extract()
	if err != nil {
		return "", fmt.Errorf("volume %s: %w", name, err)
	}
	_, err = c.WaitVolume(ctx, v.ID, "available")
	return v.ID, err
}

// WaitVolume waits until the volume has the status, and fails early when it is in error instead.
func (c *Cloud) WaitVolume(ctx context.Context, id, status string) (*volumes.Volume, error) {
	var v *volumes.Volume
	err := Until(ctx, "volume "+id+" "+status, func() (bool, error) {
		var err error
		if v, err = volumes.Get(ctx, c.Volume, id).Extract(); err != nil {
			return false, err
		}
		if v.Status == "error" && status != "error" {
			return false, fmt.Errorf("volume %s: in error", id)
		}
		return v.Status == status, nil
	})
	return v, err
}

// RemoveVolume deletes a volume and waits until it is no more.
func (c *Cloud) RemoveVolume(ctx context.Context, id string) error {
	if err := volumes.Delete(ctx, c.Volume, id, nil).ExtractErr(); err != nil && !gophercloud.ResponseCodeIs(err, http.StatusNotFound) {
		return fmt.Errorf("delete volume %s: %w", id, err)
	}
	return c.WaitVolumeGone(ctx, id)
}

// WaitVolumeGone waits until the volume is no more.
func (c *Cloud) WaitVolumeGone(ctx context.Context, id string) error {
	return Until(ctx, "volume "+id+" gone", func() (bool, error) {
		_, err := volumes.Get(ctx, c.Volume, id).Extract()
		if gophercloud.ResponseCodeIs(err, http.StatusNotFound) {
			return true, nil
		}
		return false, err
	})
}

// AttachVolume gives a server a volume, waits until it has it, and returns its device.
func (c *Cloud) AttachVolume(ctx context.Context, server, volume string) (device string, err error) {
	a, err := volumeattach.Create(ctx, c.Compute, server, volumeattach.CreateOpts{VolumeID: volume}).Extract()
	if err != nil {
		return "", fmt.Errorf("attach volume %s: %w", volume, err)
	}
	_, err = c.WaitVolume(ctx, volume, "in-use")
	return a.Device, err
}

// DetachVolume takes a volume from a server and waits until it is available.
func (c *Cloud) DetachVolume(ctx context.Context, server, volume string) error {
	if err := volumeattach.Delete(ctx, c.Compute, server, volume).ExtractErr(); err != nil {
		return fmt.Errorf("detach volume %s: %w", volume, err)
	}
	_, err := c.WaitVolume(ctx, volume, "available")
	return err
}
