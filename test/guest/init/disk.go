package main

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/godwit-cloud/godwit/test/guest/disklog"
	"github.com/godwit-cloud/godwit/test/guest/layout"
)

// diskWait bounds the wait for the disk after its driver was loaded.
const diskWait = 5 * time.Second

// findRootDisk returns the disk this guest was booted from, known by the signature in its partition table.
func findRootDisk() (string, error) {
	for end := time.Now().Add(diskWait); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		for _, dev := range blockDevices() {
			if diskSignature(dev) == layout.Signature {
				return dev, nil
			}
		}
	}
	return "", errors.New("no disk with the image's signature")
}

func diskSignature(dev string) uint32 {
	f, err := os.Open(dev)
	if err != nil {
		return 0
	}
	defer f.Close()
	var b [4]byte
	if _, err := f.ReadAt(b[:], layout.SignatureAt); err != nil {
		return 0
	}
	return binary.LittleEndian.Uint32(b[:])
}

// diskLog keeps the checksummed log on the disk's second partition.
type diskLog struct {
	log    *disklog.Log
	errs   atomic.Uint64
	period sync.Mutex   // held while a record is written, and for ever once stopped
	stall  atomic.Int64 // longest time between the ends of two records, in nanoseconds, since it was asked for
}

// partition is a part of a disk as a disk of its own.
type partition struct {
	f   *os.File
	off int64
}

func (p partition) ReadAt(b []byte, off int64) (int, error)  { return p.f.ReadAt(b, p.off+off) }
func (p partition) WriteAt(b []byte, off int64) (int, error) { return p.f.WriteAt(b, p.off+off) }

func openDiskLog(dev, bootID string) (*diskLog, error) {
	f, err := os.OpenFile(dev, os.O_RDWR|unix.O_DIRECT|unix.O_SYNC, 0)
	if err != nil {
		return nil, err
	}
	// Page-aligned, as O_DIRECT wants it.
	buf, err := unix.Mmap(-1, 0, disklog.MinBuffer, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, err
	}
	var boot [16]byte
	raw, err := hex.DecodeString(strings.ReplaceAll(bootID, "-", ""))
	if err != nil {
		return nil, fmt.Errorf("boot id: %w", err)
	}
	copy(boot[:], raw)
	log, rep, err := disklog.Open(partition{f, layout.LogOffset}, layout.LogBytes, boot, buf)
	if err != nil {
		return nil, err
	}
	say("log last=%d ok=%t torn_tail=%t", rep.Last, rep.OK, rep.TornTail)
	return &diskLog{log: log}, nil
}

func (d *diskLog) run(every time.Duration) {
	last := time.Now()
	for now := range time.Tick(every) {
		d.period.Lock()
		if _, err := d.log.Append(now); err != nil {
			if d.errs.Add(1) == 1 {
				say("%v", err)
			}
		}
		end := time.Now()
		d.noteStall(end.Sub(last))
		last = end
		d.period.Unlock()
	}
}

// noteStall keeps the longest time.
func (d *diskLog) noteStall(took time.Duration) {
	for {
		longest := d.stall.Load()
		if int64(took) <= longest || d.stall.CompareAndSwap(longest, int64(took)) {
			return
		}
	}
}

// stop lets the record under way be written and allows no further one.
func (d *diskLog) stop() { d.period.Lock() }

// fill puts size bytes of random data on the disk behind the partitions, as far as the disk goes, and touches as much memory.
func fill(dev string, size int64) {
	onDisk, err := fillDisk(dev, size)
	if err != nil {
		say("fill: %v", err)
	}
	inRAM := fillMemory(size)
	say("filled disk=%dMiB ram=%dMiB", onDisk>>20, inRAM>>20)
}

func fillDisk(dev string, size int64) (int64, error) {
	if dev == "" {
		return 0, errors.New("no disk")
	}
	f, err := os.OpenFile(dev, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	size = min(size, end-layout.FillOffset)
	block := make([]byte, 1<<20)
	rng := newXorshift()
	var done int64
	for done < size {
		n := min(int64(len(block)), size-done)
		rng.fill(block[:n])
		if _, err := f.WriteAt(block[:n], layout.FillOffset+done); err != nil {
			return done, err
		}
		done += n
	}
	return done, f.Sync()
}
