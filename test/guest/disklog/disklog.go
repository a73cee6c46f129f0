// Package disklog is a log that tells whether a disk kept every write it acknowledged.
//
// The log is a ring of 512-byte slots, one record each. Record s (s = 1, 2, ...) lies in slot s mod N and is written with one aligned
// sector write that has reached the disk before Append returns. A record carries its own sequence number and a checksum, so a reader
// needs nothing but the sectors:
//
//	slot:    0    1    2    3   ...  N-1        N = 8, last = 11:   8  9 10 11  4  5  6  7
//
// A ring is whole when, for its newest record M, every record of (M-N, M] that was ever written is there and sound. One case is no loss:
// the slot of M+1 may hold anything, because a guest can die between issuing that write and hearing of its end.
//
// The guest writes and verifies it on its own disk; a test may verify the same sectors from outside, in a disk image whose guest is gone.
package disklog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"time"
)

// SlotBytes is the size of a record: one disk sector, the largest write a disk does whole.
const SlotBytes = 512

const (
	magic    = 0x6764776c6f673031 // "gdwlog01"
	crcAt    = SlotBytes - 4
	payload  = 40 // where the pattern begins
	bootSize = 16
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Record is what one slot says.
type Record struct {
	// Seq counts from 1, over all boots of the guest.
	Seq uint64
	// Time is the guest's clock when the record was made, to the nanosecond.
	Time time.Time
	// Boot identifies the boot of the guest that made the record.
	Boot [bootSize]byte
}

// encode fills slot with the record. The bytes after the header follow from Seq, so that a slot is never mostly zeros.
func (r Record) encode(slot []byte) {
	binary.BigEndian.PutUint64(slot[0:], magic)
	binary.BigEndian.PutUint64(slot[8:], r.Seq)
	binary.BigEndian.PutUint64(slot[16:], uint64(r.Time.UnixNano()))
	copy(slot[24:payload], r.Boot[:])
	x := r.Seq*0x9e3779b97f4a7c15 + 1
	for i := payload; i+8 <= SlotBytes; i += 8 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		binary.BigEndian.PutUint64(slot[i:], x)
	}
	binary.BigEndian.PutUint32(slot[crcAt:], crc32.Checksum(slot[:crcAt], castagnoli))
}

var (
	errEmpty  = errors.New("empty slot")
	errSum    = errors.New("checksum differs")
	errMagic  = errors.New("not a record")
	zeroSlot  [SlotBytes]byte
	readChunk = 256 * SlotBytes // sectors read at once when scanning
)

func decode(slot []byte) (Record, error) {
	var r Record
	if bytes.Equal(slot, zeroSlot[:]) {
		return r, errEmpty
	}
	if binary.BigEndian.Uint64(slot) != magic {
		return r, errMagic
	}
	if crc32.Checksum(slot[:crcAt], castagnoli) != binary.BigEndian.Uint32(slot[crcAt:]) {
		return r, errSum
	}
	r.Seq = binary.BigEndian.Uint64(slot[8:])
	r.Time = time.Unix(0, int64(binary.BigEndian.Uint64(slot[16:])))
	copy(r.Boot[:], slot[24:payload])
	return r, nil
}

// Report is the outcome of reading a whole ring.
type Report struct {
	// OK says that no acknowledged record is missing or damaged.
	OK bool `json:"ok"`
	// Last is the newest sequence number, 0 in an empty log.
	Last uint64 `json:"last"`
	// Oldest is the oldest sequence number that the ring should still hold, 0 in an empty log.
	Oldest uint64 `json:"oldest"`
	// Bad counts lost or damaged records; FirstBad is the lowest of their sequence numbers and Why what is wrong there.
	Bad      uint64 `json:"bad"`
	FirstBad uint64 `json:"first_bad,omitempty"`
	Why      string `json:"why,omitempty"`
	// TornTail says that the slot after the newest record holds a damaged record, which an interrupted write explains.
	TornTail bool `json:"torn_tail,omitempty"`
}

// Verify reads a ring of the given size in bytes. The error reports a failure to read, not a damaged log.
func Verify(disk io.ReaderAt, size int64) (Report, error) {
	return verify(disk, size, make([]byte, readChunk))
}

// verify lets a caller that reads with O_DIRECT bring its own aligned buffer.
func verify(disk io.ReaderAt, size int64, buf []byte) (Report, error) {
	slots := uint64(size / SlotBytes)
	if slots < 2 {
		return Report{}, fmt.Errorf("disk log: %d bytes hold no ring", size)
	}
	seqs := make([]uint64, slots) // 0: nothing sound there
	why := make(map[uint64]error)
	var last uint64
	err := scan(disk, slots, buf, func(slot uint64, raw []byte) {
		r, err := decode(raw)
		switch {
		case err != nil:
			why[slot] = err
		case r.Seq%slots != slot || r.Seq == 0:
			why[slot] = fmt.Errorf("record %d is out of place", r.Seq)
		default:
			seqs[slot] = r.Seq
			last = max(last, r.Seq)
		}
	})
	if err != nil {
		return Report{}, err
	}
	return judge(seqs, why, last), nil
}

// judge compares what each slot holds with what a ring whose newest record is last must hold.
func judge(seqs []uint64, why map[uint64]error, last uint64) Report {
	slots := uint64(len(seqs))
	rep := Report{Last: last, OK: true}
	if tail := why[(last+1)%slots]; tail != nil && !errors.Is(tail, errEmpty) {
		rep.TornTail = true
	}
	if last == 0 {
		return rep
	}
	rep.Oldest = 1
	if last >= slots {
		// The slot of the record after the newest is the oldest's: a write may have been on its way there.
		rep.Oldest = last - slots + 2
	}
	for seq := rep.Oldest; seq <= last; seq++ {
		slot := seq % slots
		if seqs[slot] == seq {
			continue
		}
		rep.Bad++
		if rep.FirstBad == 0 {
			rep.FirstBad = seq
			rep.Why = fmt.Sprintf("slot holds record %d", seqs[slot])
			if err := why[slot]; err != nil {
				rep.Why = err.Error()
			}
		}
	}
	rep.OK = rep.Bad == 0
	return rep
}

func scan(disk io.ReaderAt, slots uint64, buf []byte, visit func(slot uint64, raw []byte)) error {
	perChunk := uint64(len(buf) / SlotBytes)
	for first := uint64(0); first < slots; first += perChunk {
		n := min(perChunk, slots-first)
		chunk := buf[:n*SlotBytes]
		if _, err := disk.ReadAt(chunk, int64(first)*SlotBytes); err != nil {
			return fmt.Errorf("disk log: slot %d: %w", first, err)
		}
		for i := range n {
			visit(first+i, chunk[i*SlotBytes:(i+1)*SlotBytes])
		}
	}
	return nil
}
