package main

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/client"
	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/operator"
)

// slowly lets the watcher see each status: without it, two quick writes are one event, as they should be.
func (c *testCloud) slowly(out *lockedBuffer) func(cloud.MigrationStatus) {
	return func(status cloud.MigrationStatus) { out.await(c.Context(), string(status)) }
}

// lockedBuffer is standard output that others may look at.
type lockedBuffer struct {
	mu      sync.Mutex
	buf     bytes.Buffer
	changed chan struct{}
}

func newLockedBuffer() *lockedBuffer { return &lockedBuffer{changed: make(chan struct{}, 1)} }

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case b.changed <- struct{}{}:
	default:
	}
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// await returns when the text was written, or ctx ends.
func (b *lockedBuffer) await(ctx context.Context, text string) {
	for !strings.Contains(b.String(), text) {
		select {
		case <-ctx.Done():
			return
		case <-b.changed:
		}
	}
}

// watched runs `migrate web --watch` while the flow is played.
func (c *testCloud) watched(ctx context.Context, out *lockedBuffer, play func(), args ...string) ran {
	c.Helper()
	var playing sync.WaitGroup
	playing.Go(play)
	defer playing.Wait()
	began := false
	root := newRoot(&began)
	var notes bytes.Buffer
	root.SetOut(out)
	root.SetErr(&notes)
	root.SetArgs(append([]string{"migrate", "web", "--watch"}, args...))
	err := root.ExecuteContext(ctx)
	r := ran{out: out.String(), notes: notes.String(), err: err}
	if err != nil {
		r.code = exitCode(err)
	}
	return r
}

func TestWatchFollowsAMoveToItsEnd(t *testing.T) {
	c, _ := furnished(t)
	out := newLockedBuffer()
	r := c.watched(t.Context(), out, func() {
		c.play(completed, func(s cloud.MigrationStatus) {
			out.await(t.Context(), string(s))
			if s == cloud.MigrationRunning {
				out.await(t.Context(), "RAM") // its figures
			}
		})
	})
	if r.err != nil || r.notes != "" {
		t.Fatalf("%v\n%s%s", r.err, r.out, r.notes)
	}
	c.golden("watch", elapsed.ReplaceAllString(r.out, "  0.00s  "))
}

func TestWatchOfAMoveThatFailsSaysWhyAndFails(t *testing.T) {
	for _, tt := range []struct {
		status cloud.MigrationStatus
		code   int
	}{{cloud.MigrationFailed, exitFailure}, {cloud.MigrationError, exitFailure}, {cloud.MigrationCancelled, exitCodes[cloud.KindCancelled]}} {
		c, _ := furnished(t)
		out := newLockedBuffer()
		r := c.watched(t.Context(), out, func() {
			c.play(func(m *cloud.Migration) { m.Status, m.Error = tt.status, "the target lost power" }, c.slowly(out))
		})
		if r.code != tt.code || !strings.HasSuffix(r.out, string(tt.status)+" after 5.42 s: web stays on compute-1: the target lost power\n") {
			t.Errorf("%s: code %d\n%s%s", tt.status, r.code, r.out, r.notes)
		}
	}
}

func TestWatchPrintsJSONLines(t *testing.T) {
	c, _ := furnished(t)
	out := newLockedBuffer()
	r := c.watched(t.Context(), out, func() { c.play(completed, c.slowly(out)) }, "-o", "json")
	if r.err != nil {
		t.Fatal(r.err)
	}
	var last watched
	for line := range strings.Lines(r.out) {
		last = watched{}
		if err := json.Unmarshal([]byte(line), &last); err != nil || (last.Migration == nil) == (last.Progress == nil) {
			t.Errorf("%q: %v", line, err)
		}
	}
	if last.Event != operator.EventMigration || last.Migration.Status != cloud.MigrationCompleted || last.Migration.Totals.Downtime != 58*time.Millisecond {
		t.Errorf("the last line: %+v", last)
	}
}

func TestInterruptEndsWatchingAndNotTheMove(t *testing.T) {
	c, _ := furnished(t)
	out := newLockedBuffer()
	ctx, cancel := context.WithCancel(t.Context())
	r := c.watched(ctx, out, func() {
		out.await(t.Context(), "queued")
		cancel()
	})
	if r.code != exitInterrupted || !strings.Contains(r.notes, "The move goes on; `godwit migrations web` shows it, `godwit abort web` stops it.") {
		t.Errorf("code %d, said %q", r.code, r.notes)
	}
	if list := c.must("migrations", "web", "--status", "unfinished"); !strings.Contains(list, "queued") {
		t.Errorf("the move:\n%s", list)
	}
}

func TestWatchSurvivesTheLossOfItsStream(t *testing.T) {
	c, _ := furnished(t)
	out := newLockedBuffer()
	r := c.watched(t.Context(), out, func() {
		c.play(completed, func(s cloud.MigrationStatus) {
			out.await(t.Context(), string(s))
			if s == cloud.MigrationRunning {
				c.server.CloseClientConnections()
			}
		})
	})
	if r.err != nil || !strings.Contains(r.notes, "the move goes on, connecting again") || !strings.Contains(r.out, "completed: web moved from compute-1 to compute-2") {
		t.Errorf("%v\n%s%s", r.err, r.out, r.notes)
	}
	if n := c.streams.Load(); n != 2 {
		t.Errorf("%d streams were opened", n)
	}
}

func TestFollowerFindsAMoveItHasNotSeenYet(t *testing.T) {
	c, web := furnished(t)
	conn, err := client.Connect(t.Context(), client.Credentials{})
	if err != nil {
		t.Fatal(err)
	}
	c.must("migrate", "web")
	out := newLockedBuffer()
	var notes bytes.Buffer
	f := &follower{client: conn, server: client.Server{ID: string(web.ID), Name: "web"}, after: 2, show: newMeter(out, false, "web"), notes: &notes}
	stream, err := f.reopen(t.Context())
	if err != nil || f.last.Number != 3 {
		t.Fatalf("found %+v, %v", f.last, err)
	}
	// The stream is about that migration: it is shown although it is over by the time of the next one.
	_ = stream.Close()
	c.play(completed, func(cloud.MigrationStatus) {})
	if stream, err = f.reopen(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := f.toTheEnd(t.Context(), stream); err != nil || !strings.Contains(out.String(), "completed: web moved") {
		t.Errorf("%v\n%s", err, out.String())
	}
}

func TestMeterRedrawsOnATerminal(t *testing.T) {
	out := newLockedBuffer()
	now := epoch
	m := newMeter(out, false, "web")
	m.terminal, m.began, m.now, m.width = true, now, func() time.Time { return now }, func() int { return 61 }
	running := operator.Migration{Migration: cloud.Migration{Status: cloud.MigrationRunning, Source: "a", Target: "b"}}
	m.migration(running)
	m.migration(running) // the same status is said once
	p := cloud.MigrationProgress{Stats: cloud.MigrationStats{MemoryTotal: 100 << 20, MemoryRemaining: 50 << 20, MemoryBytesPerSecond: 10 << 20}}
	m.progress(p)
	m.progress(p)
	line := progressLine(cloud.MigrationRunning, p.Stats, 60)
	running.Status, running.Target = cloud.MigrationPostCopy, "b"
	m.migration(running)
	want := "  0.00s  running  a -> b\n\r\x1b[K" + line + "\r\x1b[K" + line + "\n  0.00s  running (post-copy)  a -> b\n"
	if got := out.String(); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestMeterWritesFiguresOnceASecondElsewhere(t *testing.T) {
	out := newLockedBuffer()
	now := epoch
	m := newMeter(out, false, "web")
	m.began, m.now = now, func() time.Time { return now }
	for range 10 {
		m.progress(cloud.MigrationProgress{Stats: cloud.MigrationStats{MemoryTotal: 1}})
		now = now.Add(300 * time.Millisecond)
	}
	if n := strings.Count(out.String(), "\n"); n != 3 {
		t.Errorf("10 figures in 3 seconds made %d lines:\n%s", n, out.String())
	}
}
