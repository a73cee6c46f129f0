package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// The bar takes what the figures leave of a line, between these bounds.
const (
	barCellsMin = 8
	barCellsMax = 40
)

// part is one figure of a progress line. Lines too narrow for all leave out those with the greatest rank first.
type part struct {
	text string
	rank int
}

// progressLine is one line about a running migration, at most width characters: what is done of what has to be copied, what is left, how fast it
// goes, how fast the guest undoes it, and when it ends. Width 0 means any.
func progressLine(status cloud.MigrationStatus, s cloud.MigrationStats, width int) string {
	head := string(status)
	total, left := s.MemoryTotal+s.DiskTotal, s.MemoryRemaining+s.DiskRemaining
	if total <= 0 {
		return fit(head+"  connecting", width)
	}
	done := min(1, max(0, 1-float64(left)/float64(total)))
	percent := fmt.Sprintf("%3d%%", int(done*100))
	parts := chosen(figures(s), len(head)+2+barCellsMin+2+1+len(percent), width)
	tail := percent
	for _, p := range parts {
		tail += "  " + p.text
	}
	cells := barCellsMax
	if width > 0 {
		cells = min(barCellsMax, width-len(head)-2-len("[] ")-len(tail))
	}
	if cells < barCellsMin {
		return fit(head+"  "+tail, width)
	}
	filled := int(done * float64(cells))
	return head + "  [" + strings.Repeat("#", filled) + strings.Repeat(".", cells-filled) + "] " + tail
}

// completedBy fills in what hosts leave out: memory is not counted before the disk is copied, but ramBytes will have to be; and rates that are not
// reported follow from what was processed since the figures before (nil for the first).
func completedBy(before *cloud.MigrationProgress, now cloud.MigrationProgress, ramBytes int64) cloud.MigrationStats {
	s := now.Stats
	if s.MemoryTotal == 0 && s.DiskTotal > 0 {
		s.MemoryTotal, s.MemoryRemaining = ramBytes, ramBytes
	}
	if before == nil || before.Migration != now.Migration {
		return s
	}
	span := now.At.Sub(before.At)
	if s.MemoryBytesPerSecond == 0 {
		s.MemoryBytesPerSecond = rate(s.MemoryProcessed-before.Stats.MemoryProcessed, span)
	}
	if s.DiskBytesPerSecond == 0 {
		s.DiskBytesPerSecond = rate(s.DiskProcessed-before.Stats.DiskProcessed, span)
	}
	return s
}

// rate returns bytes per second, 0 when that makes no sense.
func rate(bytes int64, span time.Duration) int64 {
	if bytes <= 0 || span <= 0 {
		return 0
	}
	return int64(float64(bytes) / span.Seconds())
}

// figures are all that can be said, in the order they are shown.
func figures(s cloud.MigrationStats) []part {
	out := []part{{"RAM " + bytesText(s.MemoryRemaining) + " left", 1}}
	if s.DiskTotal > 0 {
		out = append(out, part{"disk " + bytesText(s.DiskRemaining) + " left", 2})
	}
	out = append(out, part{bytesText(s.MemoryBytesPerSecond+s.DiskBytesPerSecond) + "/s", 3})
	if s.DirtyBytesPerSecond > 0 {
		out = append(out, part{"dirties " + bytesText(s.DirtyBytesPerSecond) + "/s", 4})
	}
	eta := "ETA ?"
	if left, ok := remaining(s); ok {
		eta = "ETA " + left.Round(time.Second).String()
	}
	return append(out, part{eta, 0})
}

// chosen keeps the most important parts that fit beside taken characters.
func chosen(parts []part, taken, width int) []part {
	if width <= 0 {
		return parts
	}
	keep := map[int]bool{}
	for rank := range len(parts) + 1 {
		for i, p := range parts {
			if p.rank == rank && taken+2+len(p.text) <= width {
				keep[i] = true
				taken += 2 + len(p.text)
			}
		}
	}
	var out []part
	for i, p := range parts {
		if keep[i] {
			out = append(out, p)
		}
	}
	return out
}

func fit(text string, width int) string {
	if width > 0 && len(text) > width {
		return text[:width]
	}
	return text
}

// remaining estimates the time to the end: the disk first, then memory, whose copy must outrun what the guest dirties. ok is false when nobody can
// tell.
func remaining(s cloud.MigrationStats) (left time.Duration, ok bool) {
	seconds := 0.0
	if s.DiskRemaining > 0 {
		if s.DiskBytesPerSecond <= 0 {
			return 0, false
		}
		seconds += float64(s.DiskRemaining) / float64(s.DiskBytesPerSecond)
	}
	if s.MemoryRemaining > 0 {
		rate := s.MemoryBytesPerSecond - s.DirtyBytesPerSecond
		if rate <= 0 {
			return 0, false
		}
		seconds += float64(s.MemoryRemaining) / float64(rate)
	}
	return time.Duration(seconds * float64(time.Second)), true
}

// bytesText writes a size with three digits and a unit.
func bytesText(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	f, i := float64(n), 0
	for f >= 1000 && i < len(units)-1 {
		f /= 1024
		i++
	}
	switch {
	case i == 0:
		return fmt.Sprintf("%d B", n)
	case f >= 100:
		return fmt.Sprintf("%.0f %s", f, units[i])
	}
	return fmt.Sprintf("%.3g %s", f, units[i])
}
