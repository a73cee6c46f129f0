package main

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// half is a migration with all figures: three quarters are done.
var half = cloud.MigrationStats{
	MemoryTotal: 256 << 20, MemoryRemaining: 128 << 20, MemoryBytesPerSecond: 96 << 20, DirtyBytesPerSecond: 32 << 20,
	DiskTotal: 256 << 20, DiskRemaining: 0, DiskBytesPerSecond: 0,
}

func TestProgressLineShowsWhatFits(t *testing.T) {
	shared, stuck, done := half, half, half
	shared.DiskTotal, shared.DirtyBytesPerSecond = 0, 0
	stuck.DirtyBytesPerSecond = 96 << 20
	done.MemoryRemaining = 0
	tests := []struct {
		name   string
		status cloud.MigrationStatus
		stats  cloud.MigrationStats
		width  int
		want   string
	}{
		{"any width", "running", half, 0, "running  [##############################..........]  75%  RAM 128 MiB left  disk 0 B left  96 MiB/s  dirties 32 MiB/s  ETA 2s"},
		{"a usual terminal", "running", half, 80, "running  [#########....]  75%  RAM 128 MiB left  disk 0 B left  96 MiB/s  ETA 2s"},
		{"a narrow one", "running", half, 50, "running  [######..]  75%  RAM 128 MiB left  ETA 2s"},
		{"a very narrow one", "running", half, 30, "running  [##########....]  75%"},
		{"one without room for a bar", "running", half, 20, "running   75%"},
		{"a tiny one", "running", half, 6, "runnin"},
		{"shared disks", "running", shared, 100, "running  [####################....................]  50%  RAM 128 MiB left  96 MiB/s  ETA 1s"},
		{"a guest that dirties as fast as it is copied", "running", stuck, 0,
			"running  [##############################..........]  75%  RAM 128 MiB left  disk 0 B left  96 MiB/s  dirties 96 MiB/s  ETA ?"},
		{"the end", "running (post-copy)", done, 60, "running (post-copy)  [##########] 100%  RAM 0 B left  ETA 0s"},
		{"before the first figures", "preparing", cloud.MigrationStats{}, 80, "preparing  connecting"},
	}
	for _, tt := range tests {
		if got := progressLine(tt.status, tt.stats, tt.width); got != tt.want {
			t.Errorf("%s:\ngot  %q\nwant %q", tt.name, got, tt.want)
		}
	}
}

func TestProgressLineNeverExceedsItsWidth(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		amount := rapid.Int64Range(-1, 1<<50)
		s := cloud.MigrationStats{
			MemoryTotal: amount.Draw(t, "memory"), MemoryRemaining: amount.Draw(t, "memory left"), MemoryBytesPerSecond: amount.Draw(t, "rate"),
			DirtyBytesPerSecond: amount.Draw(t, "dirty"), DiskTotal: amount.Draw(t, "disk"), DiskRemaining: amount.Draw(t, "disk left"),
			DiskBytesPerSecond: amount.Draw(t, "disk rate"),
		}
		width := rapid.IntRange(1, 200).Draw(t, "width")
		status := rapid.SampledFrom(cloud.MigrationStatuses()).Draw(t, "status")
		if line := progressLine(status, s, width); len(line) > width || strings.Contains(line, "\n") {
			t.Fatalf("%d characters: %q", len(line), line)
		}
	})
}

func TestRemainingIsDiskThenMemory(t *testing.T) {
	s := cloud.MigrationStats{DiskRemaining: 300, DiskBytesPerSecond: 100, MemoryRemaining: 100, MemoryBytesPerSecond: 60, DirtyBytesPerSecond: 10}
	if left, ok := remaining(s); !ok || left != 5*time.Second {
		t.Errorf("got %v, %v", left, ok)
	}
	s.DiskBytesPerSecond = 0
	if _, ok := remaining(s); ok {
		t.Error("a disk that does not move will not arrive")
	}
}

func TestSizesHaveThreeDigits(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1000: "0.977 KiB", 1 << 20: "1 MiB", 1536 << 10: "1.5 MiB", 100 << 20: "100 MiB", 999 << 20: "999 MiB", 1 << 40: "1 TiB"} {
		if got := bytesText(n); got != want {
			t.Errorf("%d: got %q, want %q", n, got, want)
		}
	}
}

func TestFiguresThatHostsLeaveOutAreFilledIn(t *testing.T) {
	before := cloud.MigrationProgress{Migration: "m", At: epoch, Stats: cloud.MigrationStats{DiskTotal: 100, DiskProcessed: 10}}
	now := before
	now.At, now.Stats.DiskProcessed = epoch.Add(2*time.Second), 50
	s := completedBy(&before, now, 256)
	if s.MemoryTotal != 256 || s.MemoryRemaining != 256 || s.DiskBytesPerSecond != 20 || s.MemoryBytesPerSecond != 0 {
		t.Errorf("while the disk is copied: %+v", s)
	}
	now.Stats.MemoryTotal, now.Stats.MemoryBytesPerSecond, now.Stats.DiskBytesPerSecond = 300, 7, 9
	if s := completedBy(&before, now, 256); s != now.Stats {
		t.Errorf("what is reported stands: %+v", s)
	}
	for name, b := range map[string]*cloud.MigrationProgress{"none": nil, "another migration's": {Migration: "other", At: epoch}, "the same": &now} {
		silent := now
		silent.Stats.DiskBytesPerSecond = 0
		if s := completedBy(b, silent, 256); s.DiskBytesPerSecond != 0 {
			t.Errorf("with figures before: %s: %+v", name, s)
		}
	}
}
