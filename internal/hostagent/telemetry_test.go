package hostagent

import (
	"context"
	"errors"
	"math"
	"net"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/kvm"
)

type fakeMeter struct {
	stats    []kvm.Stats
	measured []cloud.ServerID
}

func (m *fakeMeter) Stats(context.Context) ([]kvm.Stats, error) { return m.stats, nil }

func (m *fakeMeter) MeasureDirtying(_ context.Context, id cloud.ServerID) error {
	m.measured = append(m.measured, id)
	return errors.New("busy")
}

func TestTelemetryIsWhatWasUsedBetweenTwoLooks(t *testing.T) {
	meter := &fakeMeter{stats: []kvm.Stats{{ID: "a", CPUTime: 10 * time.Second, VCPUs: []kvm.VCPUStats{{Run: 9 * time.Second, Delay: time.Second}}}, {ID: "b", CPUTime: 7 * time.Second}}}
	tm := &telemeter{meter: meter, servers: map[cloud.ServerID]kvm.Stats{}}
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	if first, err := tm.sample(t.Context(), at); first != nil || err != nil {
		t.Fatalf("the first look has nothing to compare with, got %v, %v", first, err)
	}
	// a used half a CPU and waited a fifth of the time, in half of which it would have run; b was started anew, c has come.
	meter.stats = []kvm.Stats{{ID: "a", CPUTime: 15 * time.Second, VCPUs: []kvm.VCPUStats{{Run: 13 * time.Second, Delay: 3 * time.Second}}, ResidentMiB: 99, DirtyBytesPerSecond: -1}, {ID: "b", CPUTime: time.Second}, {ID: "c", CPUTime: time.Hour}}
	got, err := tm.sample(t.Context(), at.Add(10*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if len(got.GetServers()) != 1 {
		t.Fatalf("only a server seen twice in one life has a difference, got %v", got.GetServers())
	}
	a := got.GetServers()[0]
	if a.GetServerId() != "a" || a.GetCpuUsed() != 0.5 || math.Abs(a.GetCpuWait()-0.1) > 1e-9 || a.GetMemoryUsedMib() != 99 || a.GetDirtyBytesPerSecond() != -1 {
		t.Errorf("got %v", a)
	}
	if got.GetSpan().AsDuration() != 10*time.Second || got.GetSeq() != 1 || got.GetMemoryUsedMib() <= 0 {
		t.Errorf("got %v", got)
	}
}

func TestWaitingCountsAsFarAsTheGuestWouldHaveRun(t *testing.T) {
	const span = 10 * time.Second
	at := func(run, delay float64) kvm.VCPUStats {
		return kvm.VCPUStats{Run: time.Duration(run * float64(span)), Delay: time.Duration(delay * float64(span))}
	}
	for _, tt := range []struct {
		name string
		now  []kvm.VCPUStats
		want float64
	}{
		{"never waits", []kvm.VCPUStats{at(0.7, 0)}, 0},
		{"never sleeps", []kvm.VCPUStats{at(0.4, 0.6)}, 0.6},
		{"got nothing at all", []kvm.VCPUStats{at(0, 1)}, 1},
		{"ran a tenth of the time that was left", []kvm.VCPUStats{at(0.05, 0.5)}, 0.05},
		{"one never sleeps, one hardly runs", []kvm.VCPUStats{at(0.5, 0.5), at(0.01, 0.01)}, 0.5 + 0.01*0.01/0.99},
		{"counted more than there was", []kvm.VCPUStats{at(0.9, 1.2)}, 1},
		{"one CPU was added", []kvm.VCPUStats{at(0.5, 0.5), {}, at(1, 1)}, 0.5},
	} {
		before := make([]kvm.VCPUStats, 2)
		if got := missed(before, tt.now, span); math.Abs(got-tt.want) > 1e-9 {
			t.Errorf("%s: %g, want %g", tt.name, got, tt.want)
		}
	}
}

func TestDirtyingIsMeasuredOfEveryServerInTurn(t *testing.T) {
	meter := &fakeMeter{stats: []kvm.Stats{{ID: "a"}, {ID: "b"}}}
	tm := &telemeter{meter: meter, servers: map[cloud.ServerID]kvm.Stats{}}
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range 10 { // every 30 s: each second one is too early
		if _, err := tm.sample(t.Context(), at.Add(time.Duration(i)*30*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	want := []cloud.ServerID{"a", "b", "a", "b", "a"}
	if len(meter.measured) != len(want) {
		t.Fatalf("measured %v, want %v", meter.measured, want)
	}
	for i := range want {
		if meter.measured[i] != want[i] {
			t.Fatalf("measured %v, want %v", meter.measured, want)
		}
	}
}

func TestProcIsReadByItsFields(t *testing.T) {
	var c hostCounters
	if err := c.parseStat("cpu  100 20 30 1000 500 5 5 40 7 0\ncpu0 1 2\n"); err != nil {
		t.Fatal(err)
	}
	if c.busy != 1600*time.Millisecond || c.stolen != 400*time.Millisecond {
		t.Errorf("busy %v, stolen %v: want 1.6 s without idle and I/O wait, 0.4 s", c.busy, c.stolen)
	}
	if err := c.parseStat("intr 1 2 3"); err == nil {
		t.Error("a file that is not /proc/stat was read")
	}
	if got := parsePressure("some avg10=12.50 avg60=1.00 avg300=0.10 total=1\nfull avg10=99.0 avg60=0 avg300=0 total=0\n"); got != 0.125 {
		t.Errorf("pressure %v, want 0.125", got)
	}
	if got := busyOf("12 (a) b) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0"); got != 2*time.Second {
		t.Errorf("a process used %v, want 2 s", got)
	}
}

func TestMagicPacketIsSixOnesAndSixteenAddresses(t *testing.T) {
	mac := net.HardwareAddr{2, 0x67, 198, 18, 1, 11}
	p := MagicPacket(mac)
	if len(p) != 102 || p[0] != 0xff || p[5] != 0xff || net.HardwareAddr(p[6:12]).String() != mac.String() || net.HardwareAddr(p[96:]).String() != mac.String() {
		t.Errorf("got %x", p)
	}
}
