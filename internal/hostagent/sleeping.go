package hostagent

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/suspend"
)

// Power puts a machine to sleep.
type Power interface {
	// Sleep returns when the machine is told to sleep, which then happens, or with the reason why it does not.
	Sleep(ctx context.Context, mode cloud.SleepMode) error
}

// Abler is a Power that knows beforehand how it cannot sleep, so that whoever asks is told at once.
type Abler interface {
	Able(mode cloud.SleepMode) error
}

// sleepDelay lets the answer to the call leave before the machine does.
const sleepDelay = 300 * time.Millisecond

// Sleep makes the host go to sleep. It refuses while servers run on it, or come. Stopped ones sleep with it.
func (a *Agent) Sleep(ctx context.Context, req *hostpb.SleepRequest) (*hostpb.SleepReply, error) {
	if err := a.awaitReady(ctx); err != nil {
		return nil, err
	}
	mode := cloud.SleepMode(req.GetMode())
	if mode != cloud.SleepSuspend && mode != cloud.SleepPowerOff && mode != cloud.SleepBMC {
		return nil, cloud.Errorf(cloud.KindInvalid, "sleep: mode %q: suspend, poweroff or bmc", mode)
	}
	states, err := a.hv.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, s := range states {
		if s.HasProcess() {
			return nil, cloud.Errorf(cloud.KindConflict, "sleep: server %s is %s on host %s", s.ID, s.Run, a.o.Name)
		}
	}
	if mode == cloud.SleepBMC { // who asked presses the button
		return &hostpb.SleepReply{}, nil
	}
	power := a.o.Power
	if power == nil {
		power = machinePower{}
	}
	if able, ok := power.(Abler); ok {
		if err := able.Able(mode); err != nil {
			return nil, err
		}
	}
	a.log.Warn("going to sleep", "mode", mode, "reason", req.GetReason())
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return nil, cloud.Errorf(cloud.KindUnavailable, "agent is stopping")
	}
	a.work.Go(func() {
		if !a.pause(sleepDelay, nil) {
			return
		}
		if err := power.Sleep(a.life, mode); err != nil {
			a.log.Error("cannot sleep", "mode", mode, "error", err)
		}
	})
	return &hostpb.SleepReply{}, nil
}

// machinePower is the machine that the agent runs on. A machine made of namespaces has a power switch, too: reboot(2) in a pid namespace ends its
// first process and so everything in it, and nothing else.
type machinePower struct{}

// initialPidNamespace is what the kernel calls the one that is no container (PROC_PID_INIT_INO).
const initialPidNamespace = "pid:[4026531836]"

// contained reports whether this process lives in a pid namespace of its own.
func contained() bool {
	ns, err := os.Readlink("/proc/self/ns/pid")
	return err == nil && ns != initialPidNamespace
}

// systemdRuns is there when systemd is the init.
const systemdRuns = "/run/systemd/system"

// Able implements Abler.
func (machinePower) Able(mode cloud.SleepMode) error {
	switch {
	case mode != cloud.SleepSuspend:
		return nil
	case contained():
		return cloud.Errorf(cloud.KindUnsupported, "suspend: this host is made of namespaces, which can only power off")
	}
	return suspend.Able(suspend.StateFile)
}

func (machinePower) Sleep(ctx context.Context, mode cloud.SleepMode) error {
	inside := contained()
	if mode == cloud.SleepSuspend {
		if err := (machinePower{}).Able(mode); err != nil {
			return err
		}
		return suspend.Memory(suspend.StateFile)
	}
	if _, err := os.Stat(systemdRuns); err == nil && !inside {
		out, err := exec.CommandContext(ctx, "systemctl", "poweroff").CombinedOutput()
		if err != nil {
			return fmt.Errorf("systemctl poweroff: %w: %s", err, strings.TrimSpace(string(out)))
		}
		return nil
	}
	unix.Sync()
	return unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// wakeRepeats: datagrams get lost, and a card that is about to sleep may miss the first.
const wakeRepeats = 3

// Wake sends magic packets to another host's interfaces, as broadcast frames on every network this host is on.
func (a *Agent) Wake(_ context.Context, req *hostpb.WakeRequest) (*hostpb.WakeReply, error) {
	var packets [][]byte
	for _, text := range req.GetMacs() {
		mac, err := net.ParseMAC(text)
		if err != nil || len(mac) != 6 {
			return nil, cloud.Errorf(cloud.KindInvalid, "wake: %q is no MAC address", text)
		}
		packets = append(packets, MagicPacket(mac))
	}
	if len(packets) == 0 {
		return nil, cloud.Errorf(cloud.KindInvalid, "wake: no MAC address given")
	}
	interfaces, err := wakeInterfaces()
	if err != nil {
		return nil, err
	}
	var errs []error
	sent := 0
	for range wakeRepeats {
		for _, i := range interfaces {
			for _, p := range packets {
				if err := sendFrame(i, p); err != nil {
					errs = append(errs, fmt.Errorf("interface %s: %w", i.Name, err))
					continue
				}
				sent++
			}
		}
	}
	if sent == 0 {
		return nil, cloud.Errorf(cloud.KindUnavailable, "wake: nothing could be sent: %w", errors.Join(errs...))
	}
	return &hostpb.WakeReply{}, nil
}

// MagicPacket returns AMD's magic packet for a MAC address: six bytes of ones, then the address sixteen times.
func MagicPacket(mac net.HardwareAddr) []byte {
	const times = 16
	return append(bytes.Repeat([]byte{0xff}, len(mac)), bytes.Repeat(mac, times)...)
}

// etherTypeWake is the Ethernet type of Wake-on-LAN. Cards look for the pattern anywhere in a frame.
const etherTypeWake = 0x0842

// sendFrame broadcasts a magic packet on an interface.
func sendFrame(i net.Interface, packet []byte) error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	broadcast := net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	frame := slices.Concat(broadcast, i.HardwareAddr, binary.BigEndian.AppendUint16(nil, etherTypeWake), packet)
	to := &unix.SockaddrLinklayer{Ifindex: i.Index, Halen: uint8(len(broadcast))}
	copy(to.Addr[:], broadcast)
	return unix.Sendto(fd, frame, 0, to)
}

// wakeInterfaces are the Ethernet interfaces by which this host is on a network: up, with an address, and neither a bridge nor a port of one.
func wakeInterfaces() ([]net.Interface, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	const macLength = 6
	return slices.DeleteFunc(all, func(i net.Interface) bool {
		if i.Flags&net.FlagUp == 0 || i.Flags&net.FlagLoopback != 0 || len(i.HardwareAddr) != macLength {
			return true
		}
		for _, kind := range []string{"/bridge", "/brport"} {
			if _, err := os.Stat("/sys/class/net/" + i.Name + kind); err == nil {
				return true
			}
		}
		addresses, err := i.Addrs()
		return err != nil || !slices.ContainsFunc(addresses, func(a net.Addr) bool {
			ip, ok := a.(*net.IPNet)
			return ok && ip.IP.IsGlobalUnicast()
		})
	}), nil
}

// wakeMACs are what a magic packet must carry to wake this host.
func wakeMACs() []string {
	interfaces, err := wakeInterfaces()
	if err != nil {
		return nil // as good as none: the host is then woken by its BMC or not at all
	}
	out := make([]string, len(interfaces))
	for i := range interfaces {
		out[i] = interfaces[i].HardwareAddr.String()
	}
	return out
}

// containedBusy is the CPU time of all processes of this pid namespace: /proc/stat speaks of the whole machine there.
func containedBusy() (time.Duration, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	var sum time.Duration
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		raw, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue // it has ended
		}
		sum += busyOf(string(raw))
	}
	return sum, nil
}

// busyOf reads utime and stime of /proc/PID/stat. The name before them may hold anything but ends with the last parenthesis.
func busyOf(stat string) time.Duration {
	const user, system = 11, 12 // counted from the state, the first field after the name
	w := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(w) <= system {
		return 0
	}
	u, _ := strconv.ParseInt(w[user], 10, 64)
	s, _ := strconv.ParseInt(w[system], 10, 64)
	return time.Duration(u+s) * time.Second / userHZ
}
