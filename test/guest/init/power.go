package main

import (
	"encoding/binary"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// inputEvent is the kernel's struct input_event on 64-bit machines.
type inputEvent struct {
	Seconds, Micros int64
	Type, Code      uint16
	Value           int32
}

const (
	eventKey = 1
	keyPower = 116
	pressed  = 1

	// buttonWait bounds the wait for the button's device node.
	buttonWait = 5 * time.Second
)

// watchPowerButton calls off when the ACPI power button is pressed, or for control-alt-delete, which asks for a reboot.
func watchPowerButton(off func(reboot bool)) {
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, unix.SIGINT)
	unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF) // the keys become a signal to process 1
	go func() {
		<-interrupts
		off(true)
	}()
	var devices []string
	for end := time.Now().Add(buttonWait); len(devices) == 0 && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		devices, _ = filepath.Glob("/dev/input/event*")
	}
	for _, dev := range devices {
		go watchKeys(dev, func() { off(false) })
	}
}

func watchKeys(dev string, off func()) {
	f, err := os.Open(dev)
	if err != nil {
		say("power button: %v", err)
		return
	}
	defer f.Close()
	for {
		var ev inputEvent
		if err := binary.Read(io.Reader(f), binary.LittleEndian, &ev); err != nil {
			say("power button: %v", err)
			return
		}
		if ev.Type == eventKey && ev.Code == keyPower && ev.Value == pressed {
			off()
		}
	}
}
