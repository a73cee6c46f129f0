package placement

import (
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

const testGiB = int64(1) << 30

func volumeService(name cloud.HostName, change ...func(*VolumeServiceView)) VolumeServiceView {
	v := VolumeServiceView{
		Service: cloud.VolumeService{Name: name, Zone: "nova"}, Up: true, Promised: map[string]int64{},
		Report: cloud.VolumeReport{Service: name, Backends: []cloud.VolumeBackend{{Name: "fast", TotalBytes: 100 * testGiB, FreeBytes: 80 * testGiB}}},
	}
	for _, c := range change {
		c(&v)
	}
	return v
}

func TestEachRefusalOfABackendSaysWhy(t *testing.T) {
	base := VolumeRequest{Bytes: 10 * testGiB, WriteBytes: testGiB, Zone: "nova"}
	for _, c := range []struct {
		name    string
		request func(*VolumeRequest)
		service func(*VolumeServiceView)
		why     string
	}{
		{"another zone", func(r *VolumeRequest) { r.Zone = "east" }, nil, "zone: needs east"},
		{"disabled", nil, func(s *VolumeServiceView) { s.Service.Disabled, s.Service.DisabledReason = true, "new disks" }, "disabled (new disks)"},
		{"not connected", nil, func(s *VolumeServiceView) { s.Up = false }, "not connected"},
		{"source elsewhere", func(r *VolumeRequest) { r.NearService = "other" }, nil, "its data is on other"},
		{"source on another back end", func(r *VolumeRequest) { r.NearBackend = "slow" }, nil, "on back end slow"},
		{"type", func(r *VolumeRequest) {
			r.Type = cloud.VolumeType{Name: "gold", ExtraSpecs: map[string]string{cloud.SpecBackend: "gold"}}
		}, nil, "gold needs back end gold"},
		{"excluded", func(r *VolumeRequest) { r.Exclude = []cloud.HostName{"a@fast"} }, nil, "excluded"},
		{"broken", nil, func(s *VolumeServiceView) { s.Report.Backends[0].Error = "read-only file system" }, "read-only file system"},
		{"promised", nil, func(s *VolumeServiceView) { s.Promised["fast"] = 1995 * testGiB }, "1995 GiB of 2000 GiB are promised"},
		{"full", func(r *VolumeRequest) { r.WriteBytes = 80 * testGiB }, nil, "81920 MiB are free"},
		{"no back ends", nil, func(s *VolumeServiceView) { s.Report.Backends = nil }, "has none"},
	} {
		req, service := base, volumeService("a")
		if c.request != nil {
			c.request(&req)
		}
		if c.service != nil {
			c.service(&service)
		}
		verdicts := RankVolumes(DefaultVolumePolicy(), []VolumeServiceView{service}, req)
		if len(verdicts) != 1 || verdicts[0].Fits || !strings.Contains(strings.Join(verdicts[0].Reasons, "\n"), c.why) {
			t.Errorf("%s: %+v", c.name, verdicts)
		}
		if err := NoValidBackend(verdicts); !cloud.Is(err, cloud.KindNoValidHost) || !strings.Contains(err.Error(), c.why) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestTheEmptierBackendWins(t *testing.T) {
	verdicts := RankVolumes(DefaultVolumePolicy(), []VolumeServiceView{
		volumeService("a", func(s *VolumeServiceView) { s.Promised["fast"] = 500 * testGiB }), volumeService("b"),
		volumeService("c", func(s *VolumeServiceView) { s.Report.Backends[0].FreeBytes = 20 * testGiB }),
	}, VolumeRequest{Bytes: testGiB})
	var order []cloud.HostName
	for _, v := range verdicts {
		order = append(order, v.Service)
	}
	if !reflect.DeepEqual(order, []cloud.HostName{"b", "a", "c"}) {
		t.Errorf("order %v", order)
	}
}

func TestNoBackendIsNamedWhenThereIsNone(t *testing.T) {
	if err := NoValidBackend(RankVolumes(DefaultVolumePolicy(), nil, VolumeRequest{})); !strings.Contains(err.Error(), "no volume services") {
		t.Error(err)
	}
}

// What fits has no reason against it, what is refused has one, equal input gives equal output, and no promise goes past the capacity.
func TestVolumeVerdictsAreSound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var services []VolumeServiceView
		for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom([]cloud.HostName{"a", "b", "c"}), 0, 3, rapid.ID).Draw(t, "services") {
			services = append(services, volumeService(name, func(s *VolumeServiceView) {
				s.Up, s.Service.Disabled = rapid.Bool().Draw(t, "up"), rapid.Bool().Draw(t, "disabled")
				s.Promised["fast"] = rapid.Int64Range(0, 3000).Draw(t, "promised") * testGiB
				s.Report.Backends[0].FreeBytes = rapid.Int64Range(0, 100).Draw(t, "free") * testGiB
			}))
		}
		req := VolumeRequest{Bytes: rapid.Int64Range(1, 4000).Draw(t, "size") * testGiB, WriteBytes: rapid.Int64Range(0, 100).Draw(t, "written") * testGiB}
		p := DefaultVolumePolicy()
		verdicts := RankVolumes(p, services, req)
		if again := RankVolumes(p, services, req); !reflect.DeepEqual(again, verdicts) {
			t.Fatal("equal input, other output")
		}
		if len(verdicts) != len(services) {
			t.Fatalf("%d verdicts on %d back ends", len(verdicts), len(services))
		}
		for i, v := range verdicts {
			if v.Fits != (len(v.Reasons) == 0) {
				t.Fatalf("%+v", v)
			}
			if i > 0 && v.Fits && (!verdicts[i-1].Fits || verdicts[i-1].Score < v.Score) {
				t.Fatalf("%+v comes before %+v", verdicts[i-1], v)
			}
			for _, s := range services {
				if v.Fits && s.Service.Name == v.Service && (s.Promised["fast"]+req.Bytes > 2000*testGiB || !s.Up || s.Service.Disabled) {
					t.Fatalf("%+v fits %+v", v, s)
				}
			}
		}
	})
}
