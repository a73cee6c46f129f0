package disklog

import (
	"bytes"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// memDisk is a disk in memory.
type memDisk []byte

func (d memDisk) ReadAt(p []byte, off int64) (int, error)  { return copy(p, d[off:]), nil }
func (d memDisk) WriteAt(p []byte, off int64) (int, error) { return copy(d[off:], p), nil }

var epoch = time.Unix(1_700_000_000, 0)

func appendN(t interface{ Fatal(...any) }, d memDisk, n int) *Log {
	l, _, err := Open(d, int64(len(d)), [16]byte{1}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if _, err := l.Append(epoch.Add(time.Duration(i))); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

func TestLogIsWholeAfterAnyNumberOfAppendsAndReopens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := make(memDisk, SlotBytes*rapid.IntRange(2, 40).Draw(t, "slots"))
		total := 0
		for range rapid.IntRange(1, 4).Draw(t, "boots") {
			n := rapid.IntRange(0, 90).Draw(t, "appends")
			l := appendN(t, d, n)
			total += n
			rep, err := l.Verify()
			if err != nil || !rep.OK || rep.Last != uint64(total) || rep.TornTail {
				t.Fatalf("after %d records: %+v, %v", total, rep, err)
			}
		}
	})
}

func TestEveryLostOrDamagedRecordIsFound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		slots := rapid.IntRange(3, 40).Draw(t, "slots")
		d := make(memDisk, SlotBytes*slots)
		n := rapid.IntRange(2, 90).Draw(t, "appends")
		appendN(t, d, n)
		oldest := max(1, n-slots+2)
		if oldest >= n {
			t.Skip("no record older than the newest is left")
		}
		victim := rapid.IntRange(oldest, n-1).Draw(t, "victim")
		sector := d[victim%slots*SlotBytes:][:SlotBytes]
		if rapid.Bool().Draw(t, "zeroed") {
			clear(sector)
		} else {
			sector[rapid.IntRange(0, SlotBytes-1).Draw(t, "byte")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		}
		rep, err := Verify(d, int64(len(d)))
		if err != nil || rep.OK || rep.Bad != 1 || rep.FirstBad != uint64(victim) {
			t.Fatalf("record %d of %d damaged: %+v, %v", victim, n, rep, err)
		}
	})
}

func TestInterruptedWriteAfterTheNewestRecordIsNoLoss(t *testing.T) {
	for _, n := range []int{3, 8, 20} { // not wrapped, just full, wrapped
		d := make(memDisk, SlotBytes*8)
		appendN(t, d, n)
		copy(d[(n+1)%8*SlotBytes:], bytes.Repeat([]byte{0xa5}, SlotBytes))
		rep, err := Verify(d, int64(len(d)))
		if err != nil || !rep.OK || !rep.TornTail || rep.Last != uint64(n) {
			t.Errorf("after %d records and a torn write: %+v, %v", n, rep, err)
		}
	}
}

func TestRollBackOfTheDiskIsSeenByTheRunningLog(t *testing.T) {
	d := make(memDisk, SlotBytes*8)
	l := appendN(t, d, 5)
	clear(d[5*SlotBytes : 6*SlotBytes])
	rep, err := l.Verify()
	if err != nil || rep.OK || rep.FirstBad != 5 {
		t.Errorf("newest record taken away: %+v, %v", rep, err)
	}
}
