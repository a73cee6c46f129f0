package hostapitest

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
)

// certificateLife is how long a fake host's certificates are good.
const certificateLife = 30 * 24 * time.Hour

// SetClock has the host's clock be ahead of the true time.
func (h *FakeHost) SetClock(ahead time.Duration) {
	h.fleet.mu.Lock()
	defer h.fleet.mu.Unlock()
	h.clockAhead = ahead
}

// Checkup finds every way to a host of the fleet that is not down open.
func (h *FakeHost) Checkup(_ context.Context, req *hostpb.CheckupRequest) (*hostpb.CheckupReply, error) {
	reply := &hostpb.CheckupReply{CertificateEnd: timestamppb.New(time.Now().Add(certificateLife))}
	for _, t := range req.GetTargets() {
		if !h.fleet.alive(cloud.HostName(t.GetHost())) {
			reply.Results = append(reply.Results, &hostpb.CheckupResult{Host: t.GetHost(), Way: cloud.WayLibvirt, Error: "no route to host"})
		}
	}
	h.fleet.mu.Lock()
	defer h.fleet.mu.Unlock()
	reply.Clock = timestamppb.New(time.Now().Add(h.clockAhead))
	return reply, nil
}
