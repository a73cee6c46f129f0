package hostapitest

import (
	"context"
	"fmt"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
)

// Sleeper is told when fake hosts are put to sleep and woken: it takes their agents down and brings them up. Calls come one at a time and must not
// block; they are made without the fleet's lock.
type Sleeper interface {
	FellAsleep(host cloud.HostName)
	Woke(host cloud.HostName)
}

// OnSleep has hosts of the fleet sleep and wake. Without it they refuse to.
func (f *Fleet) OnSleep(s Sleeper) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sleeper = s
}

// Sleep implements hostpb.HostServer: as a real agent's, it refuses while servers run.
func (h *FakeHost) Sleep(ctx context.Context, req *hostpb.SleepRequest) (*hostpb.SleepReply, error) {
	var sleeper Sleeper // set when the host falls asleep, though its answer may be lost
	reply, err := serve(ctx, h, "Sleep", req, func(req *hostpb.SleepRequest) (*hostpb.SleepReply, error) {
		if h.fleet.sleeper == nil {
			return nil, cloud.Errorf(cloud.KindUnsupported, "host %s cannot sleep", h.name)
		}
		for _, s := range h.servers {
			if s.runs() || s.receiving && !s.adopted {
				return nil, cloud.Errorf(cloud.KindConflict, "sleep: server %s is %s", s.id, s.describe())
			}
		}
		if cloud.SleepMode(req.GetMode()) != cloud.SleepBMC { // else its BMC does it
			sleeper = h.fleet.sleeper
		}
		return &hostpb.SleepReply{}, nil
	})
	if sleeper != nil {
		sleeper.FellAsleep(h.name)
	}
	return reply, err
}

// Wake implements hostpb.HostServer: the packet wakes the host of the fleet that has the address.
func (h *FakeHost) Wake(ctx context.Context, req *hostpb.WakeRequest) (*hostpb.WakeReply, error) {
	var sleeper Sleeper
	var woken []cloud.HostName
	reply, err := serve(ctx, h, "Wake", req, func(req *hostpb.WakeRequest) (*hostpb.WakeReply, error) {
		sleeper = h.fleet.sleeper
		for name, other := range h.fleet.hosts {
			for _, mac := range req.GetMacs() {
				if mac == other.mac() && !other.reachable {
					woken = append(woken, name)
				}
			}
		}
		return &hostpb.WakeReply{}, nil
	})
	for _, name := range woken {
		sleeper.Woke(name)
	}
	return reply, err
}

// mac is the host's interface, by which a magic packet names it.
func (h *FakeHost) mac() string {
	var last int
	if _, err := fmt.Sscanf(h.address, "192.0.2.%d", &last); err != nil {
		panic(err) // NewFleet made the address
	}
	return fmt.Sprintf("02:00:00:00:00:%02x", last)
}
