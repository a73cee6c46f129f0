package control

import (
	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
)

// sharedOf reads what a host says of its shared directory.
func sharedOf(s *hostpb.SharedStorage) *cloud.SharedStorage {
	if s == nil {
		return nil
	}
	out := &cloud.SharedStorage{
		Kind: s.GetKind(), Source: s.GetSource(), Directory: s.GetDirectory(), Volume: s.GetVolume(), Writable: s.GetWritable(), Error: s.GetError(),
		KeptFor: s.GetKeptFor().AsDuration(),
		Quorum:  s.GetQuorum(), HealPending: int(s.GetHealPending()), SplitBrain: int(s.GetSplitBrain()), Nonce: s.GetNonce(), Dangers: s.GetDangers(),
	}
	for _, b := range s.GetBricks() {
		out.Bricks = append(out.Bricks, cloud.Brick{Name: b.GetName(), Online: b.GetOnline(), HealPending: int(b.GetHealPending()), ReplicaSet: int(b.GetReplicaSet())})
	}
	if len(s.GetSeen()) > 0 {
		out.Seen = map[cloud.HostName]string{}
	}
	for host, nonce := range s.GetSeen() {
		out.Seen[cloud.HostName(host)] = nonce
	}
	return out
}
