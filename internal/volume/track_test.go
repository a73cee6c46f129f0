package volume

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

func TestATrackerNotesAtLeastWhatWasWrittenAndForgetsWhatWasTaken(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.Int64Range(1, 300*trackBytes).Draw(t, "size")
		tr := newTracker(size)
		written := map[int64]bool{} // grains
		for range rapid.IntRange(0, 20).Draw(t, "writes") {
			off := rapid.Int64Range(0, size-1).Draw(t, "off")
			length := rapid.Int64Range(0, size-off).Draw(t, "length")
			tr.mark(off, length)
			for g := off / trackBytes; length > 0 && g*trackBytes < off+length; g++ {
				written[g] = true
			}
		}
		list, total := tr.take()
		var sum, end int64
		for _, s := range list {
			if s.off < end || s.length <= 0 || s.off+s.length > size {
				t.Fatalf("stretch %+v after %d in %d bytes", s, end, size)
			}
			for g := s.off / trackBytes; g*trackBytes < s.off+s.length; g++ {
				if !written[g] {
					t.Fatalf("grain %d was not written", g)
				}
				delete(written, g)
			}
			sum, end = sum+s.length, s.off+s.length
		}
		if sum != total || len(written) > 0 {
			t.Fatalf("total %d, stretches %d, not noted %v", total, sum, written)
		}
		if again, _ := tr.take(); len(again) != 0 {
			t.Fatalf("taken twice: %v", again)
		}
	})
}

func TestACopiedSnapshotHoldsWritesOnlyAtItsEnd(t *testing.T) {
	for _, reflink := range []bool{true, false} {
		s, files := memStore(t, reflink)
		a := attach(t, s, Request{Attachment: "a", Host: "h"})
		must(a.File().WriteAt([]byte("something to copy"), 0))(t)
		var said []Verdict
		files.mu.Lock()
		files.fault = func(_ int, e effect) error {
			if e.path != s.snapshotPath(vol, "s") || e.kind == doLink {
				return nil
			}
			verdict := a.Begin() // looks at the gate alone, at no file
			if verdict == Go {
				a.End()
			}
			said = append(said, verdict)
			return nil
		}
		files.mu.Unlock()
		must(s.Snapshot(context.Background(), call(2), "s"))(t)
		said = slices.Compact(said)
		// Clone and sync; or length and copy, what was written meanwhile, and sync.
		if want := map[bool][]Verdict{true: {Go}, false: {Go, Held, Go}}[reflink]; !slices.Equal(said, want) {
			t.Errorf("reflink %v: Begin said %v, want %v", reflink, said, want)
		}
		if v := a.Begin(); v != Go {
			t.Errorf("reflink %v: Begin after it: %v", reflink, v)
		}
		a.End()
	}
}

// scribbler writes numbers into random blocks, one after another, and remembers what it wrote where.
type scribbler struct {
	lease *Lease
	where []int // block of write n
	err   error
}

const scribbleBlocks = 512 // of 64 KiB each, so that each is a grain

func (w *scribbler) write(r *rand.Rand) error {
	for v := w.lease.Begin(); v != Go; v = w.lease.Begin() {
		if err := answer(w.lease); err != nil {
			return err
		}
	}
	block := r.IntN(scribbleBlocks)
	off := int64(block) * trackBytes
	defer w.lease.EndAt(off, 8)
	w.where = append(w.where, block)
	_, err := w.lease.File().WriteAt(binary.BigEndian.AppendUint64(nil, uint64(len(w.where))), off)
	return err
}

// states returns the blocks' values after the first n writes.
func (w *scribbler) state(n int) []uint64 {
	out := make([]uint64, scribbleBlocks)
	for i, block := range w.where[:n] {
		out[block] = uint64(i) + 1
	}
	return out
}

func TestACopiedSnapshotIsTheVolumeAtOneMoment(t *testing.T) {
	ctx := context.Background()
	dir := mounted(t, "ext4", xfsBytes)
	s := openStore(t, Options{Dir: dir, Direct: DirectOff, Log: slog.New(slog.DiscardHandler)})
	must(s.Create(ctx, call(1), Spec{Bytes: scribbleBlocks * trackBytes}))(t)
	w := &scribbler{lease: attach(t, s, Request{Attachment: "a", Host: "h"})}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		r := rand.New(rand.NewPCG(1, 9))
		for w.err == nil {
			select {
			case <-stop:
				return
			default:
				w.err = w.write(r)
			}
		}
	}()
	const snapshots = 6
	id := func(i int) cloud.SnapshotID { return cloud.SnapshotID(fmt.Sprint("s", i)) }
	for i := range snapshots {
		must(s.Snapshot(ctx, call(1), id(i)))(t)
	}
	close(stop)
	<-stopped
	if w.err != nil {
		t.Fatal(w.err)
	}
	last := 0
	for i := range snapshots {
		raw := contents(t, s, vol, id(i))
		got := make([]uint64, scribbleBlocks)
		newest := 0
		for b := range got {
			got[b] = binary.BigEndian.Uint64(raw[b*trackBytes:])
			newest = max(newest, int(got[b]))
		}
		if newest < last {
			t.Fatalf("snapshot %d is older than the one before it", i)
		}
		if !slices.Equal(got, w.state(newest)) {
			t.Fatalf("snapshot %d has write %d, but is not the volume as it was then", i, newest)
		}
		last = newest
	}
	if last < scribbleBlocks {
		t.Fatalf("only %d writes were made meanwhile: nothing is shown", last)
	}
}
