package main

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// seedRandom tells the kernel that its random numbers are good enough. An emulated CPU has no random source and a guest this small makes too
// few interrupts, so the first reader would wait for half a minute. What is mixed in tells guests and boots apart; it is no secret, and
// nothing in this guest needs one.
func seedRandom() error {
	h := sha256.New()
	fmt.Fprint(h, time.Now().UnixNano())
	for _, pattern := range []string{"/sys/class/net/*/address", "/sys/class/dmi/id/product_uuid"} {
		files, _ := filepath.Glob(pattern)
		for _, f := range files {
			raw, _ := os.ReadFile(f)
			h.Write(raw)
		}
	}
	f, err := os.OpenFile("/dev/random", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(h.Sum(nil)); err != nil {
		return fmt.Errorf("seed: %w", err)
	}
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.RNDADDTOENTCNT, 8*sha256.Size); err != nil {
		return fmt.Errorf("seed: %w", err)
	}
	return nil
}
