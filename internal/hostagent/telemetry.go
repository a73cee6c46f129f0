package hostagent

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/kvm"
)

// Meter says what running servers use; *kvm.Conn is one.
type Meter interface {
	Stats(ctx context.Context) ([]kvm.Stats, error)
	MeasureDirtying(ctx context.Context, id cloud.ServerID) error
}

// TelemetryOutbox takes samples and says how often the server wants them; *hostapi.Outbox is one.
type TelemetryOutbox interface {
	PutTelemetry(*hostpb.Telemetry)
	TelemetryEvery() time.Duration
}

const (
	// telemetryAsk is how often an agent that sends no telemetry looks whether the server wants some by now.
	telemetryAsk = 2 * time.Second
	// dirtyingEvery is the least time between two measurements of dirtying on a host. One reads a few thousand pages of one guest, so a
	// host of sixty guests has looked at each in an hour.
	dirtyingEvery = time.Minute
)

// telemeter turns counters into what was used between two looks.
type telemeter struct {
	meter    Meter
	seq      int64
	at       time.Time // of the last sample
	host     hostCounters
	servers  map[cloud.ServerID]kvm.Stats
	measured time.Time        // when dirtying was last measured
	next     []cloud.ServerID // to be measured, in turn
}

// keepTelemetry samples as often as the server wants, until the agent's life ends.
func (a *Agent) keepTelemetry() {
	out, ok := a.o.Outbox.(TelemetryOutbox)
	if !ok || a.o.Meter == nil {
		return
	}
	t := &telemeter{meter: a.o.Meter, servers: map[cloud.ServerID]kvm.Stats{}}
	for {
		every := out.TelemetryEvery()
		if every <= 0 {
			if !a.pause(telemetryAsk, nil) {
				return
			}
			continue
		}
		ctx, cancel := context.WithTimeout(a.life, lookMax)
		sample, err := t.sample(ctx, time.Now())
		cancel()
		switch {
		case err != nil && a.life.Err() == nil:
			a.log.Warn("telemetry unknown", "error", err)
		case sample != nil:
			out.PutTelemetry(sample)
		}
		if !a.pause(every, nil) {
			return
		}
	}
}

// sample looks once. The first look after a start has nothing to compare with and returns nil.
func (t *telemeter) sample(ctx context.Context, now time.Time) (*hostpb.Telemetry, error) {
	host, err := readHost()
	if err != nil {
		return nil, err
	}
	stats, err := t.meter.Stats(ctx)
	if err != nil {
		return nil, err
	}
	span, first := now.Sub(t.at), t.at.IsZero()
	before, servers := t.host, make(map[cloud.ServerID]kvm.Stats, len(stats))
	out := &hostpb.Telemetry{At: timestamppb.New(now), Span: durationpb.New(span), CpuUsed: before.cpuUsed(host, span), CpuSteal: before.steal(host, span), PowerWatts: raplWatts(before.energy, host.energy, span),
		MemoryUsedMib: host.memoryUsedMiB, PsiCpu: host.psi[0], PsiMemory: host.psi[1], PsiIo: host.psi[2],
		DiskReadBytes: host.diskRead, DiskWriteBytes: host.diskWritten, NetRxBytes: host.netIn, NetTxBytes: host.netOut}
	for _, s := range stats {
		servers[s.ID] = s
		if last, known := t.servers[s.ID]; known && s.CPUTime >= last.CPUTime {
			out.Servers = append(out.Servers, serverSample(last, s, span))
		}
	}
	t.measureOne(ctx, now, stats)
	t.at, t.host, t.servers = now, host, servers
	if first || span <= 0 {
		return nil, nil
	}
	t.seq++
	out.Seq = t.seq
	return out, nil
}

func serverSample(last, s kvm.Stats, span time.Duration) *hostpb.ServerTelemetry {
	share := func(d time.Duration) float64 { return max(0, d.Seconds()) / span.Seconds() }
	return &hostpb.ServerTelemetry{
		ServerId: string(s.ID), CpuUsed: share(s.CPUTime - last.CPUTime), CpuWait: missed(last.VCPUs, s.VCPUs, span), MemoryUsedMib: s.ResidentMiB,
		DiskReadBytes: s.DiskRead, DiskWriteBytes: s.DiskWritten, NetRxBytes: s.NetIn, NetTxBytes: s.NetOut, DirtyBytesPerSecond: s.DirtyBytesPerSecond,
	}
}

// missed is the CPU that a guest would have used had none of its virtual CPUs waited. Not all of the wait is that: a virtual CPU that sleeps most of the
// time gets its work done all the same, later. It is the share in which it would have run, as far as its running and sleeping tell (DRS's estimate of
// demand: Gulati et al., VMware Technical Journal, 2012), so all of the wait of one that never sleeps, and little of one that hardly runs.
func missed(last, now []kvm.VCPUStats, span time.Duration) float64 {
	sum := 0.0
	for i := range min(len(last), len(now)) {
		run := max(0, (now[i].Run-last[i].Run).Seconds()) / span.Seconds()
		wait := min(1, max(0, (now[i].Delay-last[i].Delay).Seconds())/span.Seconds())
		asleep := 1 - run - wait
		if asleep <= 0 {
			sum += wait
			continue
		}
		sum += wait * run / (run + asleep)
	}
	return sum
}

// measureOne has one guest's dirtying measured now and then, each in its turn. One that cannot be measured now (it moves) is measured next time.
func (t *telemeter) measureOne(ctx context.Context, now time.Time, stats []kvm.Stats) {
	if now.Sub(t.measured) < dirtyingEvery || len(stats) == 0 {
		return
	}
	present := map[cloud.ServerID]bool{}
	for _, s := range stats {
		present[s.ID] = true
	}
	for len(t.next) > 0 && !present[t.next[0]] {
		t.next = t.next[1:]
	}
	if len(t.next) == 0 {
		for _, s := range stats {
			t.next = append(t.next, s.ID)
		}
	}
	t.measured = now
	_ = t.meter.MeasureDirtying(ctx, t.next[0]) // what cannot be measured stays unknown
	t.next = t.next[1:]
}

// hostCounters are the machine's totals.
type hostCounters struct {
	busy, stolen          time.Duration
	memoryUsedMiB         int64
	psi                   [3]float64 // CPU, memory, I/O: share of the last ten seconds in which some task waited
	diskRead, diskWritten int64
	netIn, netOut         int64
	energy                map[string]raplCounter
}

func (c hostCounters) cpuUsed(now hostCounters, span time.Duration) float64 {
	return max(0, (now.busy-c.busy).Seconds()) / max(span.Seconds(), 1e-9)
}

func (c hostCounters) steal(now hostCounters, span time.Duration) float64 {
	return max(0, (now.stolen-c.stolen).Seconds()) / max(span.Seconds(), 1e-9)
}

// readHost reads /proc. What a kernel does not have (pressure) is 0.
func readHost() (hostCounters, error) {
	var c hostCounters
	var err error
	read := func(path string, parse func(string) error) {
		if err != nil {
			return
		}
		var raw []byte
		if raw, err = os.ReadFile(path); err == nil {
			err = parse(string(raw))
		}
	}
	read("/proc/stat", c.parseStat)
	read("/proc/meminfo", c.parseMemory)
	read("/proc/diskstats", c.parseDisks)
	read("/proc/net/dev", c.parseNetwork)
	for i, name := range []string{"cpu", "memory", "io"} {
		if raw, err := os.ReadFile("/proc/pressure/" + name); err == nil {
			c.psi[i] = parsePressure(string(raw))
		}
	}
	if err == nil && contained() {
		c.stolen = 0 // from the machine that all such hosts share
		c.busy, err = containedBusy()
		return c, err // what the machine draws is not this host's
	}
	c.energy = readRAPL(raplDir)
	return c, err
}

// userHZ is the unit of /proc/stat on every architecture that Linux runs on today.
const userHZ = 100

// parseStat reads the first line of /proc/stat: user nice system idle iowait irq softirq steal guest guest_nice. User time has guest time in it.
func (c *hostCounters) parseStat(text string) error {
	const fields, steal, idle, ioWait, counted = 9, 7, 3, 4, 7
	line, _, _ := strings.Cut(text, "\n")
	words := strings.Fields(line)
	if len(words) < fields || words[0] != "cpu" {
		return fmt.Errorf("/proc/stat begins with %q", line)
	}
	for i, word := range words[1:fields] {
		ticks, err := strconv.ParseInt(word, 10, 64)
		if err != nil {
			return fmt.Errorf("/proc/stat: %w", err)
		}
		d := time.Duration(ticks) * time.Second / userHZ
		switch {
		case i == steal:
			c.stolen = d
		case i < counted && i != idle && i != ioWait:
			c.busy += d
		}
	}
	return nil
}

func (c *hostCounters) parseMemory(text string) error {
	available, err := parseAvailable(text)
	if err != nil {
		return err
	}
	for line := range strings.Lines(text) {
		if words := strings.Fields(line); len(words) > 1 && words[0] == "MemTotal:" {
			total, err := strconv.ParseInt(words[1], 10, 64)
			c.memoryUsedMiB = total>>10 - available
			return err
		}
	}
	return fmt.Errorf("/proc/meminfo has no MemTotal")
}

// parseDisks sums whole devices; partitions, loop devices and RAM disks would count the same bytes twice or none.
func (c *hostCounters) parseDisks(text string) error {
	const fields, sector, read, written = 10, 512, 5, 9
	for line := range strings.Lines(text) {
		w := strings.Fields(line)
		if len(w) < fields || strings.HasPrefix(w[2], "loop") || strings.HasPrefix(w[2], "ram") || strings.HasPrefix(w[2], "dm-") {
			continue
		}
		if _, err := os.Stat("/sys/block/" + w[2]); err != nil {
			continue // a partition
		}
		for column, sum := range map[int]*int64{read: &c.diskRead, written: &c.diskWritten} {
			n, err := strconv.ParseInt(w[column], 10, 64)
			if err != nil {
				return fmt.Errorf("/proc/diskstats: %w", err)
			}
			*sum += n * sector
		}
	}
	return nil
}

// parseNetwork sums the interfaces that have a device behind them or, where none has (a namespace), all but loopback, bridges' ports and taps.
func (c *hostCounters) parseNetwork(text string) error {
	const in, out = 0, 8
	for line := range strings.Lines(text) {
		name, rest, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok || name == "lo" {
			continue
		}
		if _, err := os.Stat("/sys/class/net/" + name + "/brport"); err == nil {
			continue // counted where it leaves the machine
		}
		w := strings.Fields(rest)
		if len(w) <= out {
			continue
		}
		for column, sum := range map[int]*int64{in: &c.netIn, out: &c.netOut} {
			n, err := strconv.ParseInt(w[column], 10, 64)
			if err != nil {
				return fmt.Errorf("/proc/net/dev: %w", err)
			}
			*sum += n
		}
	}
	return nil
}

// parsePressure returns the ten seconds' average of "some" as a share.
func parsePressure(text string) float64 {
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(line, "some ")
		if !ok {
			continue
		}
		for _, word := range strings.Fields(rest) {
			if v, ok := strings.CutPrefix(word, "avg10="); ok {
				percent, err := strconv.ParseFloat(v, 64)
				if err == nil {
					return percent / 100
				}
			}
		}
	}
	return 0
}
