package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// dirtier changes memory at a steady rate with bytes that do not compress, going round a region. Migration has to send those pages again.
type dirtier struct {
	rate  atomic.Int64 // bytes per second
	total atomic.Uint64
	once  sync.Once
	size  atomic.Int64
}

func newDirtier() *dirtier {
	d := &dirtier{}
	d.setSize(dirtySizeDefault)
	return d
}

// setSize sets the region's size, to have effect before the first setRate. It is cut to what memory there is.
func (d *dirtier) setSize(bytes int64) { d.size.Store(bytes) }

// setRate changes the rate; the region is made when it is first needed.
func (d *dirtier) setRate(bytesPerSecond int64) {
	d.rate.Store(bytesPerSecond)
	if bytesPerSecond > 0 {
		d.once.Do(func() { go d.run() })
	}
}

const (
	pageBytes = 4096
	// dirtyPeriod is short against a migration's rounds, so the rate looks steady to it.
	dirtyPeriod = 10 * time.Millisecond
)

func (d *dirtier) run() {
	size := max(min(d.size.Load(), memoryAvailable()-memoryReserve)&^(pageBytes-1), pageBytes)
	region, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		say("dirty: %v", err)
		return
	}
	rng := newXorshift()
	at, debt := 0, int64(0)
	last := time.Now()
	for now := range time.Tick(dirtyPeriod) {
		rate := d.rate.Load()
		// What a pause or a slow machine kept from being done is not made up for beyond a second's worth.
		debt = min(debt+rate*int64(now.Sub(last))/int64(time.Second), rate)
		last = now
		for ; debt >= pageBytes; debt -= pageBytes {
			rng.fill(region[at : at+pageBytes])
			d.total.Add(pageBytes)
			at = (at + pageBytes) % len(region)
		}
	}
}

// memoryReserve is left free for the kernel and this program.
const memoryReserve = 24 << 20

// fillMemory holds size bytes of random memory for good, or as much as there is.
func fillMemory(size int64) int64 {
	size = min(size, memoryAvailable()-memoryReserve) &^ (pageBytes - 1)
	if size <= 0 {
		return 0
	}
	region, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		say("fill: %v", err)
		return 0
	}
	rng := newXorshift()
	rng.fill(region)
	return size
}

func memoryAvailable() int64 {
	raw, _ := os.ReadFile("/proc/meminfo")
	for line := range strings.Lines(string(raw)) {
		var kb int64
		if n, _ := fmt.Sscanf(line, "MemAvailable: %d kB", &kb); n == 1 {
			return kb << 10
		}
	}
	return 0
}

// xorshift makes random bytes fast; they need not be unpredictable, only incompressible.
type xorshift uint64

func newXorshift() *xorshift {
	x := xorshift(time.Now().UnixNano()) | 1
	return &x
}

// fill overwrites b, whose length is a multiple of 8.
func (x *xorshift) fill(b []byte) {
	v := uint64(*x)
	for i := 0; i+8 <= len(b); i += 8 {
		v ^= v << 13
		v ^= v >> 7
		v ^= v << 17
		binary.LittleEndian.PutUint64(b[i:], v)
	}
	*x = xorshift(v)
}
