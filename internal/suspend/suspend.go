// Package suspend puts the machine that this process runs on to sleep in memory (ACPI S3, or what the kernel has in its place), through the kernel's own
// file. The call returns when the machine has woken; nothing of this process notices but its clocks: CLOCK_MONOTONIC has stood still.
//
//	read /sys/power/state: "freeze mem disk" --no mem--> refused, and nothing has happened
//	write "mem" -------------------------------> the machine sleeps -------------> woken (Wake-on-LAN, BMC, button): the write returns
//
// Its test does it in a virtual machine with a real kernel, whose firmware sleeps and is woken.
package suspend

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// StateFile is where the kernel says which sleeps it knows, and takes one.
const StateFile = "/sys/power/state"

// memory is the kernel's word for it.
const memory = "mem"

// Able returns cloud.KindUnsupported when the machine cannot sleep in memory; file is StateFile.
func Able(file string) error {
	raw, err := os.ReadFile(file)
	if err != nil {
		return cloud.E(cloud.KindUnsupported, "suspend", "", err)
	}
	if known := strings.Fields(string(raw)); !slices.Contains(known, memory) {
		return cloud.Errorf(cloud.KindUnsupported, "suspend: kernel and firmware know only these sleeps: %q", known)
	}
	return nil
}

// Memory has the machine sleep and returns when it has woken, or with the reason why it did not sleep; file is StateFile.
func Memory(file string) error {
	if err := Able(file); err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("suspend: %w", err)
	}
	_, err = f.WriteString(memory) // one write, as the kernel wants it
	if closing := f.Close(); err == nil {
		err = closing
	}
	if err != nil { // a driver may refuse (EBUSY), or something that wakes came first
		return fmt.Errorf("suspend: %w", err)
	}
	return nil
}
