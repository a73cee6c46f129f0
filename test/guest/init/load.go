package main

import (
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// loader keeps the CPU busy for a share of the time, so that a guest can follow a recorded load. It works in short turns: busy for the share of
// each, then asleep for the rest. A guest that does not get its CPU is busy for as long by its clock and does less, as a real one would.
type loader struct {
	share atomic.Uint64 // thousandths
	once  sync.Once
}

const (
	// loadPeriod is short against what anybody measures CPU use by, and long against a timer's delay in an emulated guest.
	loadPeriod = 100 * time.Millisecond
	// loadWhole is the share of a guest that never rests.
	loadWhole = 1000
)

// setShare sets the share in thousandths of one CPU.
func (l *loader) setShare(thousandths uint64) {
	l.share.Store(min(thousandths, loadWhole))
	if thousandths > 0 {
		l.once.Do(func() { go l.run() })
	}
}

func (l *loader) run() {
	for turn := range time.Tick(loadPeriod) {
		end := turn.Add(loadPeriod * time.Duration(l.share.Load()) / loadWhole)
		for time.Now().Before(end) {
			spin()
		}
	}
}

// spin is about ten microseconds of arithmetic on real hardware: without it the loop would mostly ask for the time.
func spin() {
	x := xorshift(1)
	var block [4096]byte
	x.fill(block[:])
}

// parseShare reads thousandths of one CPU, 0 to 1000.
func parseShare(s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n > loadWhole {
		return 0, fmt.Errorf("not a load: 0 to %d thousandths", loadWhole)
	}
	return n, nil
}
