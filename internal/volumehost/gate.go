package volumehost

import (
	"context"
	"sync"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/volume"
)

// gate lets calls in that no newer decision has overtaken. It remembers only volumes with calls under way: what a call has done, the stores know.
type gate struct {
	stores []*volume.Store

	mu    sync.Mutex
	calls map[cloud.VolumeID]*underWay
}

// underWay are the calls for one volume.
type underWay struct {
	count  int
	newest int64 // greatest generation let in
}

// enter checks a call. leave must be called when it is over; it is nil with an error.
func (g *gate) enter(ctx context.Context, c *hostpb.VolumeCall) (call volume.Call, leave func(), err error) {
	call = volume.Call{Volume: cloud.VolumeID(c.GetVolumeId()), Generation: c.GetGeneration(), Run: c.GetRunId()}
	if call.Volume == "" || call.Generation <= 0 {
		return call, nil, cloud.Errorf(cloud.KindInvalid, "the call names no volume or generation")
	}
	accepted, err := g.accepted(ctx, call.Volume)
	if err != nil {
		return call, nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	u := g.calls[call.Volume]
	if u != nil {
		accepted = max(accepted, u.newest)
	}
	if call.Generation < accepted {
		return call, nil, cloud.Errorf(cloud.KindStale, "volume %s: generation %d is older than %d", call.Volume, call.Generation, accepted)
	}
	if u == nil {
		u = &underWay{}
		if g.calls == nil {
			g.calls = map[cloud.VolumeID]*underWay{}
		}
		g.calls[call.Volume] = u
	}
	u.count++
	u.newest = call.Generation
	return call, func() { g.leave(call.Volume, u) }, nil
}

// contended reports whether more than one call for the volume is under way.
func (g *gate) contended(id cloud.VolumeID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	u := g.calls[id]
	return u != nil && u.count > 1
}

func (g *gate) leave(id cloud.VolumeID, u *underWay) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if u.count--; u.count == 0 {
		delete(g.calls, id)
	}
}

// accepted returns the greatest generation that any store has accepted for the volume.
func (g *gate) accepted(ctx context.Context, id cloud.VolumeID) (int64, error) {
	var newest int64
	for _, s := range g.stores {
		st, err := s.Inspect(ctx, id)
		if err != nil {
			return 0, err
		}
		newest = max(newest, st.Generation)
	}
	return newest, nil
}
