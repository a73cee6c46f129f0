// Package kvmtest holds what tests of guests need without a guest operating system: a boot sector that ticks, and a fake hypervisor that
// enforces libvirt's rules.
package kvmtest

import (
	_ "embed"
	"encoding/binary"
)

//go:embed ticker.bin
var ticker []byte

// tickerLogSector is where the ticker's ring of counters begins on its disk, tickerLogSectors how many there are.
const (
	tickerLogSector  = 64
	tickerLogSectors = 1024
	sectorBytes      = 512
)

// TickerBytesMin is the smallest disk the ticker can work with.
const TickerBytesMin = (tickerLogSector + tickerLogSectors) * sectorBytes

// Ticker returns a raw disk image of at least TickerBytesMin bytes whose guest needs 16 MiB and is up within a second under TCG. It prints
// "tick " and eight hexadecimal digits on its serial port about nine times a second, each time one more than before, and writes the same
// counter to a sector of its disk (see TickerLog).
func Ticker(bytes int64) []byte {
	image := make([]byte, max(bytes, TickerBytesMin))
	copy(image, ticker)
	return image
}

// TickerLog returns the greatest counter found on a ticker's disk and how many of the counters before it, within the ring, are missing or wrong.
func TickerLog(disk []byte) (last uint32, holes int) {
	at := func(n uint32) uint32 {
		offset := (tickerLogSector + int(n%tickerLogSectors)) * sectorBytes
		return binary.LittleEndian.Uint32(disk[offset:])
	}
	for i := range uint32(tickerLogSectors) {
		last = max(last, at(i))
	}
	for n := last; n > 0 && last-n < tickerLogSectors; n-- {
		if at(n) != n {
			holes++
		}
	}
	return last, holes
}
