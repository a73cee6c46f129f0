package placement

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// VolumePolicy is the operator's part of placing volumes.
type VolumePolicy struct {
	// SizeRatio says how many bytes of volumes are promised for each byte a back end has: volumes are sparse, and few are ever full.
	SizeRatio float64
	// FreeBytesMin is what must stay free on a back end after the new volume's data has been written; below it guests would meet errors.
	FreeBytesMin int64
}

// DefaultVolumePolicy promises twenty times what is there, as Cinder's max_over_subscription_ratio does, and keeps a GiB free.
func DefaultVolumePolicy() VolumePolicy { return VolumePolicy{SizeRatio: 20, FreeBytesMin: 1 << 30} }

// VolumeServiceView is all that placement may know of one volume service.
type VolumeServiceView struct {
	Service cloud.VolumeService
	Report  cloud.VolumeReport // zero when the service never reported
	Up      bool               // a session exists
	// Promised are the bytes of the volumes on each back end, as they were asked for.
	Promised map[string]int64
}

// VolumeRequest is everything placement may know about one volume to be placed.
type VolumeRequest struct {
	Bytes      int64 // the volume's size
	WriteBytes int64 // what is written at once: the source's data
	Zone       string
	Type       cloud.VolumeType
	// NearService and NearBackend are where the snapshot or volume is that it is made from; the data does not travel between back ends.
	NearService cloud.HostName
	NearBackend string
	// Exclude are back ends not to be used, as BackendName writes them, for instance those that have just failed this volume.
	Exclude []cloud.HostName
}

// VolumeVerdict is placement's word on one back end.
type VolumeVerdict struct {
	Service cloud.HostName `json:"service"`
	Backend string         `json:"backend"`
	Fits    bool           `json:"fits"`
	Score   float64        `json:"score"` // greater is better; meaningful only when Fits
	Reasons []string       `json:"reasons,omitempty"`
}

// BackendName is how a back end is called where one name must do: "service@backend".
func BackendName(service cloud.HostName, backend string) cloud.HostName {
	return service + "@" + cloud.HostName(backend)
}

// RankVolumes returns one verdict for each back end of each service: those that fit first, best first, equals by name; then the refused by name.
// A service without back ends, which never reported or keeps none, has one verdict with an empty back end.
func RankVolumes(p VolumePolicy, services []VolumeServiceView, req VolumeRequest) []VolumeVerdict {
	var out []VolumeVerdict
	for i := range services {
		s := &services[i]
		common := serviceReasons(s, req)
		if len(s.Report.Backends) == 0 {
			out = append(out, VolumeVerdict{Service: s.Service.Name, Reasons: append(common, "back ends: the service has none")})
		}
		for j := range s.Report.Backends {
			b := &s.Report.Backends[j]
			v := VolumeVerdict{Service: s.Service.Name, Backend: b.Name, Reasons: append(slices.Clip(common), p.backendReasons(s, b, req)...)}
			if len(v.Reasons) == 0 {
				v.Fits, v.Score = true, p.score(s, b, req)
			}
			out = append(out, v)
		}
	}
	slices.SortFunc(out, func(a, b VolumeVerdict) int {
		if a.Fits != b.Fits {
			if a.Fits {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(b.Score, a.Score), cmp.Compare(a.Service, b.Service), cmp.Compare(a.Backend, b.Backend))
	})
	return out
}

// serviceReasons is what refuses all back ends of a service.
func serviceReasons(s *VolumeServiceView, req VolumeRequest) []string {
	var out []string
	if req.NearService != "" && s.Service.Name != req.NearService {
		out = append(out, fmt.Sprintf("source: its data is on %s", req.NearService))
	}
	if req.Zone != "" && s.Service.Zone != req.Zone {
		out = append(out, fmt.Sprintf("zone: needs %s, service is in %s", req.Zone, s.Service.Zone))
	}
	if s.Service.Disabled {
		reason := "state: the service is disabled"
		if s.Service.DisabledReason != "" {
			reason += " (" + s.Service.DisabledReason + ")"
		}
		out = append(out, reason)
	}
	if !s.Up {
		out = append(out, "state: the service is not connected")
	}
	return out
}

// backendReasons is what refuses one back end.
func (p VolumePolicy) backendReasons(s *VolumeServiceView, b *cloud.VolumeBackend, req VolumeRequest) []string {
	var out []string
	if req.NearBackend != "" && b.Name != req.NearBackend {
		out = append(out, fmt.Sprintf("source: its data is on back end %s", req.NearBackend))
	}
	if want := req.Type.ExtraSpecs[cloud.SpecBackend]; want != "" && want != b.Name {
		out = append(out, fmt.Sprintf("type: %s needs back end %s", req.Type.Name, want))
	}
	if slices.Contains(req.Exclude, BackendName(s.Service.Name, b.Name)) {
		out = append(out, "request: the back end is excluded, usually because it failed this volume before")
	}
	if b.Error != "" {
		out = append(out, "back end: "+b.Error)
	}
	promised, capacity := s.Promised[b.Name], p.capacity(b)
	if promised+req.Bytes > capacity {
		out = append(out, fmt.Sprintf("size: needs %d GiB, %d GiB of %d GiB are promised", gib(req.Bytes), gib(promised), gib(capacity)))
	}
	if left := b.FreeBytes - req.WriteBytes; left < p.FreeBytesMin {
		out = append(out, fmt.Sprintf("room: writes %d MiB and must leave %d MiB, %d MiB are free", req.WriteBytes>>20, p.FreeBytesMin>>20, b.FreeBytes>>20))
	}
	return out
}

// capacity returns how many bytes of volumes may be promised on a back end.
func (p VolumePolicy) capacity(b *cloud.VolumeBackend) int64 {
	return int64(float64(b.TotalBytes) * p.SizeRatio)
}

func gib(bytes int64) int64 { return bytes >> 30 }

// score is the mean of the share that is free and the share that is not promised, afterwards.
func (p VolumePolicy) score(s *VolumeServiceView, b *cloud.VolumeBackend, req VolumeRequest) float64 {
	free := fraction(b.FreeBytes-req.WriteBytes, b.TotalBytes)
	unpromised := fraction(p.capacity(b)-s.Promised[b.Name]-req.Bytes, p.capacity(b))
	return (free + unpromised) / 2
}

func fraction(part, whole int64) float64 {
	if whole <= 0 {
		return 0
	}
	return min(1, max(0, float64(part)/float64(whole)))
}

// NoValidBackend returns the error for verdicts of which none fits: cloud.KindNoValidHost, in Cinder's words, followed by the first back ends' reasons.
func NoValidBackend(verdicts []VolumeVerdict) error {
	var b strings.Builder
	b.WriteString("No valid backend was found.")
	if len(verdicts) == 0 {
		b.WriteString(" There are no volume services.")
	}
	for i, v := range verdicts {
		if i == reasonsShownMax {
			fmt.Fprintf(&b, " %d more back ends were refused.", len(verdicts)-i)
			break
		}
		name := v.Service
		if v.Backend != "" {
			name = BackendName(v.Service, v.Backend)
		}
		fmt.Fprintf(&b, " %s: %s.", name, strings.Join(v.Reasons, "; "))
	}
	return cloud.Errorf(cloud.KindNoValidHost, "%s", b.String())
}
