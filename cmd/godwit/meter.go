package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/operator"
)

// A meter shows a migration as it goes: each status on a line of its own and the figures on one that is redrawn on a terminal, as plain lines
// elsewhere, or as JSON lines on request.
type meter struct {
	w        io.Writer
	json     bool
	terminal bool
	width    func() int       // of the terminal, 0 when unknown
	now      func() time.Time // the clock
	name     string           // of the server
	ramBytes int64            // of the server

	began  time.Time
	status cloud.MigrationStatus
	plain  time.Time // when figures were last written to what is no terminal
	drawn  bool      // a line is on the terminal and not ended
	before *cloud.MigrationProgress
}

func newMeter(w io.Writer, asJSON bool, name string) *meter {
	m := &meter{w: w, json: asJSON, name: name, now: time.Now, began: time.Now(), width: func() int { return 0 }}
	f, ok := w.(*os.File)
	if !ok {
		return m
	}
	if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err == nil {
		m.terminal, m.width = true, func() int { return columns(f) }
	}
	return m
}

// columns returns the terminal's width, 0 when it has none.
func columns(f *os.File) int {
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0
	}
	return int(size.Col)
}

// watched is a JSON line; exactly one field beside Event is set, and it has the event's name.
type watched struct {
	Event     string                   `json:"event"` // migration, progress
	Migration *operator.Migration      `json:"migration,omitempty"`
	Progress  *cloud.MigrationProgress `json:"progress,omitempty"`
}

// migration shows a new status, once.
func (m *meter) migration(now operator.Migration) {
	if m.json {
		m.line(watched{Event: operator.EventMigration, Migration: &now})
		return
	}
	if now.Status == m.status {
		return
	}
	m.status = now.Status
	m.end()
	if !now.Status.Final() {
		m.stamped(fmt.Sprintf("%s  %s -> %s", now.Status, now.Source, orDash(string(now.Target))))
		return
	}
	m.stamped(summary(m.name, now))
}

// summary is the last line about a migration.
func summary(name string, m operator.Migration) string {
	took := seconds(m.Finished.Sub(m.Created))
	if m.Status != cloud.MigrationCompleted {
		text := fmt.Sprintf("%s after %s: %s stays on %s", m.Status, took, name, m.Source)
		if m.Error != "" {
			text += ": " + m.Error
		}
		return text
	}
	text := fmt.Sprintf("completed: %s moved from %s to %s, took %s", name, m.Source, m.Target, took)
	if t := m.Totals; t != nil {
		text += fmt.Sprintf(", downtime %s, copied %s (RAM %s, disk %s)", millis(t.Downtime), bytesText(t.MemoryProcessed+t.DiskProcessed),
			bytesText(t.MemoryProcessed), bytesText(t.DiskProcessed))
	}
	return text
}

// plainPeriod is how often figures are written to a file or pipe: a log wants fewer than a screen.
const plainPeriod = time.Second

// progress shows the latest figures.
func (m *meter) progress(p cloud.MigrationProgress) {
	if m.json {
		m.line(watched{Event: operator.EventProgress, Progress: &p})
		return
	}
	stats := completedBy(m.before, p, m.ramBytes)
	m.before = &p
	switch {
	case m.terminal:
		// The last column stays free: a full line makes some terminals go on to the next.
		fmt.Fprintf(m.w, "\r\x1b[K%s", progressLine(m.status, stats, max(0, m.width()-1)))
		m.drawn = true
	case m.now().Sub(m.plain) >= plainPeriod:
		m.plain = m.now()
		m.stamped(progressLine(m.status, stats, 0))
	}
}

// end finishes the line that is being redrawn.
func (m *meter) end() {
	if m.drawn {
		fmt.Fprintln(m.w)
		m.drawn = false
	}
}

func (m *meter) stamped(text string) {
	fmt.Fprintf(m.w, "%6.2fs  %s\n", m.now().Sub(m.began).Seconds(), text)
}

// line writes one JSON line.
func (m *meter) line(v watched) { _ = json.NewEncoder(m.w).Encode(v) }
