package disklog

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// Disk is where a log lives. WriteAt must return only when the bytes would survive a loss of power (O_DIRECT|O_SYNC on a block device).
type Disk interface {
	io.ReaderAt
	io.WriterAt
}

// Log appends records to a ring. It is safe for concurrent use.
type Log struct {
	disk  Disk
	size  int64
	boot  [bootSize]byte
	chunk []byte // aligned; for scanning

	mu   sync.Mutex
	slot []byte // aligned; for writing
	last uint64
}

// Open reads the ring of size bytes on disk, which may be empty, and returns a log that goes on after its newest record. buffer is memory
// the disk can read and write directly, at least MinBuffer bytes; nil for ordinary files.
func Open(disk Disk, size int64, boot [bootSize]byte, buffer []byte) (*Log, Report, error) {
	if buffer == nil {
		buffer = make([]byte, MinBuffer)
	}
	if len(buffer) < MinBuffer {
		return nil, Report{}, fmt.Errorf("disk log: a buffer of %d bytes is too small", len(buffer))
	}
	l := &Log{disk: disk, size: size, boot: boot, slot: buffer[:SlotBytes], chunk: buffer[SlotBytes : SlotBytes+readChunk]}
	rep, err := verify(disk, size, l.chunk)
	l.last = rep.Last
	return l, rep, err
}

// MinBuffer is the size of the buffer that Open needs.
const MinBuffer = SlotBytes + 256*SlotBytes

// Append writes the next record and returns its number once it is on the disk.
func (l *Log) Append(now time.Time) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.append(now)
}

func (l *Log) append(now time.Time) (uint64, error) {
	seq := l.last + 1
	Record{Seq: seq, Time: now, Boot: l.boot}.encode(l.slot)
	slots := uint64(l.size / SlotBytes)
	if _, err := l.disk.WriteAt(l.slot, int64(seq%slots)*SlotBytes); err != nil {
		return l.last, fmt.Errorf("disk log: record %d: %w", seq, err)
	}
	l.last = seq
	return seq, nil
}

// Last is the number of the newest record on the disk.
func (l *Log) Last() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

// Verify re-reads the whole ring. Appends wait meanwhile. A newest record older than the last one acknowledged counts as bad.
func (l *Log) Verify() (Report, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	rep, err := verify(l.disk, l.size, l.chunk)
	if err == nil && rep.Last < l.last {
		rep.OK, rep.Bad = false, rep.Bad+l.last-rep.Last
		if rep.FirstBad == 0 {
			rep.FirstBad, rep.Why = rep.Last+1, "acknowledged, and not on the disk"
		}
	}
	return rep, err
}
