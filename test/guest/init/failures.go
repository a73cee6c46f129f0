package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"
)

// panicKernel ends the guest as a defect of its kernel does. There is no answer.
func panicKernel() error {
	say("panic")
	return os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0)
}

// Intel's 6300ESB watchdog, as QEMU has it. The cloud kernel has no driver for it, so it is driven from here, by what its configuration space can do.
const (
	watchdogID     = "0x8086:0x25ab"
	watchdogConfig = 0x60 // two bytes: no interrupt, and ticks of a microsecond, of which its two stages count 2^20 each
	watchdogLock   = 0x68 // one byte: enable
	watchdogEnable = 0x02
)

// armWatchdog starts the watchdog device and never feeds it: it expires after about two seconds.
func armWatchdog() error {
	dir, err := findPCI(watchdogID)
	if err != nil {
		return err
	}
	config, err := os.OpenFile(filepath.Join(dir, "config"), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer config.Close()
	if _, err := config.WriteAt([]byte{0x07, 0x00}, watchdogConfig); err != nil {
		return fmt.Errorf("watchdog: %w", err)
	}
	if _, err := config.WriteAt([]byte{watchdogEnable}, watchdogLock); err != nil {
		return fmt.Errorf("watchdog: %w", err)
	}
	say("watchdog armed")
	return nil
}

func findPCI(id string) (string, error) {
	devices, _ := filepath.Glob("/sys/bus/pci/devices/*")
	for _, dir := range devices {
		vendor, _ := os.ReadFile(filepath.Join(dir, "vendor"))
		device, _ := os.ReadFile(filepath.Join(dir, "device"))
		if strings.TrimSpace(string(vendor))+":"+strings.TrimSpace(string(device)) == id {
			return dir, nil
		}
	}
	return "", fmt.Errorf("no PCI device %s", id)
}

// agent is the least of a qemu-guest-agent: it answers guest-ping and the two forms of guest-sync, until it is told to be silent.
type agent struct {
	silent atomic.Bool
	pings  atomic.Uint64 // answered
}

// agentPort is where the kernel shows the channel.
const agentPort = "/sys/class/virtio-ports/*/name"

// run serves the channel, if there is one, for the life of the machine.
func (a *agent) run() {
	dev, err := findAgentPort()
	if err != nil {
		return // a guest without the channel
	}
	f, err := os.OpenFile(dev, os.O_RDWR, 0)
	if err != nil {
		say("guest agent: %v", err)
		return
	}
	defer f.Close()
	say("guest agent on %s", dev)
	for {
		if err := a.serve(f); err != nil {
			say("guest agent: %v", err)
		}
		time.Sleep(100 * time.Millisecond) // nobody at the other end: reading ends at once
	}
}

func findAgentPort() (string, error) {
	names, _ := filepath.Glob(agentPort)
	for _, file := range names {
		name, _ := os.ReadFile(file)
		if strings.TrimSpace(string(name)) == "org.qemu.guest_agent.0" {
			return filepath.Join("/dev", filepath.Base(filepath.Dir(file))), nil
		}
	}
	return "", errors.New("no channel")
}

// mark clears a parser: whatever came before it is not to be answered.
const mark = 0xff

// afterMarks returns what follows the marks a line begins with.
func afterMarks(line []byte) []byte {
	for len(line) > 0 && line[0] == mark {
		line = line[1:]
	}
	return line
}

// serve answers requests until the other end hangs up.
func (a *agent) serve(f *os.File) error {
	in := bufio.NewScanner(f)
	in.Buffer(make([]byte, lineBytesMax), lineBytesMax)
	for in.Scan() {
		line := bytes.TrimSpace(afterMarks(in.Bytes()))
		if a.silent.Load() || len(line) == 0 {
			continue
		}
		var request struct {
			Execute   string `json:"execute"`
			Arguments struct {
				ID int64 `json:"id"`
			} `json:"arguments"`
		}
		if err := json.Unmarshal(line, &request); err != nil {
			continue
		}
		answer, lead := "{}", ""
		switch request.Execute {
		case "guest-ping":
		case "guest-sync":
			answer = fmt.Sprint(request.Arguments.ID)
		case "guest-sync-delimited":
			answer, lead = fmt.Sprint(request.Arguments.ID), string([]byte{mark})
		default:
			if _, err := fmt.Fprintf(f, `{"error":{"class":"CommandNotFound","desc":"no such command"}}`+"\n"); err != nil {
				return err
			}
			continue
		}
		if _, err := fmt.Fprintf(f, "%s{\"return\":%s}\n", lead, answer); err != nil {
			return err
		}
		if request.Execute == "guest-ping" {
			a.pings.Add(1)
		}
	}
	return in.Err()
}
