package flows

import (
	"context"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
)

// Volumes gives the volume services that can be called now.
type Volumes interface {
	// Volumes returns the client of a connected volume service, cloud.KindUnavailable when it is not connected.
	Volumes(name cloud.HostName) (hostpb.VolumeHostClient, error)
	// WaitVolumes returns it as soon as it is connected, cloud.KindUnavailable when ctx ends first.
	WaitVolumes(ctx context.Context, name cloud.HostName) (hostpb.VolumeHostClient, error)
}
