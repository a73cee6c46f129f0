package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/operator"
)

// A meter shows a migration as it goes: one line that is redrawn on a terminal, a line for each change elsewhere, JSON lines on request.
type meter struct {
	w        io.Writer
	json     bool
	terminal bool
	name     string
	status   cloud.MigrationStatus
	began    time.Time
	drawn    bool // a line is on the terminal and not ended
}

func newMeter(w io.Writer, asJSON bool, name string) *meter {
	return &meter{w: w, json: asJSON, terminal: isTerminal(w), name: name, began: time.Now()}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// migration shows a new status, once.
func (m *meter) migration(now operator.Migration) {
	if m.json {
		m.line(now)
		return
	}
	if now.Status == m.status {
		return
	}
	m.status = now.Status
	m.end()
	fmt.Fprintf(m.w, "%6.2fs  %s  %s -> %s\n", time.Since(m.began).Seconds(), now.Status, now.Source, orDash(string(now.Target)))
	if t := now.Totals; now.Status.Final() && t != nil {
		fmt.Fprintf(m.w, "         copied %s of memory, %s of disk in %.2f s; downtime %d ms\n",
			bytesText(t.MemoryProcessed), bytesText(t.DiskProcessed), t.Elapsed.Seconds(), t.Downtime.Milliseconds())
	}
	if now.Status.Final() && now.Error != "" {
		fmt.Fprintf(m.w, "         %s\n", now.Error)
	}
}

// progress shows the latest figures.
func (m *meter) progress(s cloud.MigrationStats) {
	if m.json {
		m.line(s)
		return
	}
	text := progressText(s)
	if !m.terminal {
		fmt.Fprintf(m.w, "%6.2fs  %s\n", time.Since(m.began).Seconds(), text)
		return
	}
	fmt.Fprintf(m.w, "\r\x1b[K%6.2fs  %s", time.Since(m.began).Seconds(), text)
	m.drawn = true
}

// end finishes the line that is being redrawn.
func (m *meter) end() {
	if m.drawn {
		fmt.Fprintln(m.w)
		m.drawn = false
	}
}

// line writes one JSON line.
func (m *meter) line(v any) { _ = json.NewEncoder(m.w).Encode(v) }

// barCells is the width of the bar.
const barCells = 24

// progressText is one line of figures: how much is done of what has to be copied, what is left, how fast it changes, when it ends.
func progressText(s cloud.MigrationStats) string {
	total, left := s.MemoryTotal+s.DiskTotal, s.MemoryRemaining+s.DiskRemaining
	if total == 0 {
		return "connecting"
	}
	done := 1 - float64(left)/float64(total)
	filled := int(done * barCells)
	text := fmt.Sprintf("[%s%s] %3.0f%%  RAM left %s", strings.Repeat("#", filled), strings.Repeat(".", barCells-filled), done*100, bytesText(s.MemoryRemaining))
	if s.DiskTotal > 0 {
		text += ", disk left " + bytesText(s.DiskRemaining)
	}
	text += fmt.Sprintf(", %s/s, dirties %s/s", bytesText(s.MemoryBytesPerSecond+s.DiskBytesPerSecond), bytesText(s.DirtyBytesPerSecond))
	if eta, ok := remaining(s); ok {
		text += fmt.Sprintf(", ETA %s", eta.Round(100*time.Millisecond))
	}
	return text
}

// remaining estimates the time to the end: the disk first, then memory, whose copy must outrun what the guest dirties. ok is false when nobody can tell.
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
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	f, i := float64(n), 0
	for f >= 1000 && i < len(units)-1 {
		f /= 1024
		i++
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.3g %s", f, units[i])
}
