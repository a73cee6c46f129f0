package control

import (
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/telemetry"
)

// SetBook has the sessions note telemetry. Call it before serving agents.
func (s *Sessions) SetBook(b *telemetry.Book) { s.book = b }

// sampled notes a host's telemetry: in memory only.
func (s *Sessions) sampled(name cloud.HostName, t *hostpb.Telemetry) {
	if s.book == nil {
		return
	}
	out := telemetry.Sample{
		At: t.GetAt().AsTime(), Span: t.GetSpan().AsDuration(), CPUUsed: t.GetCpuUsed(), CPUStolen: t.GetCpuSteal(), MemoryUsedMiB: t.GetMemoryUsedMib(), Watts: t.GetPowerWatts(),
		Pressure: telemetry.Pressure{CPU: t.GetPsiCpu(), Memory: t.GetPsiMemory(), IO: t.GetPsiIo()},
	}
	for _, one := range t.GetServers() {
		out.Servers = append(out.Servers, telemetry.ServerSample{
			Server: cloud.ServerID(one.GetServerId()), CPUUsed: one.GetCpuUsed(), CPUWait: one.GetCpuWait(), MemoryUsedMiB: one.GetMemoryUsedMib(),
			DiskBytes: one.GetDiskReadBytes() + one.GetDiskWriteBytes(), NetBytes: one.GetNetRxBytes() + one.GetNetTxBytes(),
			DirtyBytesPerSecond: one.GetDirtyBytesPerSecond(),
		})
	}
	s.book.Add(name, out, time.Now().UTC())
}
