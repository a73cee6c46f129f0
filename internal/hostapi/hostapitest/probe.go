package hostapitest

import (
	"context"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
)

// Probe finds a host of the fleet that is not down, over any of its addresses.
func (h *FakeHost) Probe(_ context.Context, req *hostpb.ProbeRequest) (*hostpb.ProbeReply, error) {
	reached := h.fleet.alive(cloud.HostName(req.GetHost()))
	reply := &hostpb.ProbeReply{}
	for _, t := range req.GetTargets() {
		reply.Results = append(reply.Results, &hostpb.ProbeResult{Network: t.GetNetwork(), Reached: reached})
	}
	return reply, nil
}

// Peers knows no connections: a fake volume service has none.
func (h *FakeVolumeHost) Peers(context.Context, *hostpb.PeersRequest) (*hostpb.PeersReply, error) {
	return &hostpb.PeersReply{}, nil
}

// alive reports whether a host answers or runs anything.
func (f *Fleet) alive(name cloud.HostName) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	h := f.hosts[name]
	if h == nil {
		return false
	}
	for _, s := range h.servers {
		if s.runs() {
			return true
		}
	}
	return h.reachable
}
