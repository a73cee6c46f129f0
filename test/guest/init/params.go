package main

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// params are the guest's orders. Each is a word "godwit.NAME=VALUE" on the kernel command line, a "meta" entry of the config drive's
// meta_data.json, or a line of its user_data (or, without config drive, the same from the metadata service); durations as Go writes them (100ms), sizes with KiB, MiB or GiB.
type params struct {
	tick      time.Duration // godwit.tick: print a tick to the console this often
	log       time.Duration // godwit.log: append a record to the disk log this often
	dirty     int64         // godwit.dirty: bytes of memory to dirty per second
	dirtySize int64         // godwit.dirty_size: over a region this large
	fill      int64         // godwit.fill: bytes of random data to put on the disk, and as many (if they fit) into memory
	ip        netip.Prefix  // godwit.ip: a fixed address with its prefix, for networks without DHCP
}

const (
	orderPrefix      = "godwit."
	dirtySizeDefault = 64 << 20
)

// with returns p changed by orders and an error for each order it cannot follow.
func (p params) with(orders map[string]string) (params, []error) {
	if p.dirtySize == 0 {
		p.dirtySize = dirtySizeDefault
	}
	var errs []error
	for name, value := range orders {
		var err error
		switch name {
		case "tick":
			p.tick, err = positiveDuration(value)
		case "log":
			p.log, err = positiveDuration(value)
		case "dirty":
			p.dirty, err = parseSize(value)
		case "dirty_size":
			p.dirtySize, err = parseSize(value)
		case "fill":
			p.fill, err = parseSize(value)
		case "ip":
			p.ip, err = netip.ParsePrefix(value)
		default:
			err = fmt.Errorf("unknown")
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s%s=%s: %w", orderPrefix, name, value, err))
		}
	}
	return p, errs
}

// parseWords picks the orders out of a list of words.
func parseWords(words []string) map[string]string {
	orders := map[string]string{}
	for _, w := range words {
		name, value, ok := strings.Cut(strings.TrimSpace(w), "=")
		if name, mine := strings.CutPrefix(strings.TrimSpace(name), orderPrefix); ok && mine {
			orders[name] = strings.TrimSpace(value)
		}
	}
	return orders
}

func positiveDuration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err == nil && d < time.Millisecond {
		err = fmt.Errorf("a millisecond is the least")
	}
	return d, err
}

var sizeUnits = []struct {
	suffix string
	bytes  int64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"", 1}}

func parseSize(s string) (int64, error) {
	for _, u := range sizeUnits {
		digits, ok := strings.CutSuffix(s, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(digits, 10, 64)
		if err != nil || n < 0 || n > (1<<50)/u.bytes {
			return 0, fmt.Errorf("not a size")
		}
		return n * u.bytes, nil
	}
	return 0, fmt.Errorf("not a size")
}
