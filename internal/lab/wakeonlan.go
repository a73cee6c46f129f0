package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// A node that is off has a network card all the same, which waits for a magic packet. In a lab one process is all nodes' cards: it hears what
// crosses the management bridge, as a card hears what reaches its port, and powers on the node that a packet names.

// startCards starts the process that listens for magic packets.
func (l *Lab) startCards() error { return l.startAside("cards") }

// RunCards is `godwit lab cards LAB`: it powers on the nodes that magic packets name, until the lab's switch is gone.
func RunCards(ctx context.Context, name string) error {
	l, err := Load(name)
	if err != nil {
		return err
	}
	sw, on := readPID(name, Switch)
	if !on {
		return fmt.Errorf("node %s: %w", Switch, ErrPoweredOff)
	}
	fd, err := listenFrames(name)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	log := slog.New(slog.NewTextHandler(os.Stdout, nil))
	for ctx.Err() == nil && sw.alive() {
		node, err := l.hearMagic(fd)
		if err != nil {
			return err
		}
		if _, on := readPID(name, node); node == "" || on {
			continue
		}
		log.Info("magic packet", "node", node)
		if err := l.wake(ctx, node); err != nil {
			log.Error("node does not come on", "node", node, "error", err)
		}
	}
	return nil
}

// wake powers on a node that ended by itself, which leaves its ports to the kernel.
func (l *Lab) wake(ctx context.Context, node string) error {
	_ = os.Remove(pidFile(l.Name, node)) // it may be gone
	return errors.Join(l.disconnect(node), awaitDisksFree(ctx, nodeDir(l.Name, node)), l.PowerOn(ctx, node))
}

// frameMax is longer than any magic packet with its headers.
const frameMax = 2048

// hearMagic waits a moment for a frame and returns the node that it wakes, "" when it is about something else or there was none.
func (l *Lab) hearMagic(fd int) (string, error) {
	frame := make([]byte, frameMax)
	n, _, err := unix.Recvfrom(fd, frame, 0)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENETDOWN) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("management bridge: %w", err)
	}
	for _, node := range l.ComputeNodes() {
		if bytes.Contains(frame[:n], magic(hardwareAddr(l.MgmtAddr(node)))) || bytes.Contains(frame[:n], magic(hardwareAddr(l.DataAddr(node)))) {
			return node, nil
		}
	}
	return "", nil
}

func magic(mac net.HardwareAddr) []byte {
	const times = 16
	return append(bytes.Repeat([]byte{0xff}, len(mac)), bytes.Repeat(mac, times)...)
}

// listenFrames opens a packet socket in the switch's network that hears Wake-on-LAN frames on all bridges.
func listenFrames(name string) (int, error) {
	ns, err := openNetwork(name, Switch)
	if err != nil {
		return 0, err
	}
	defer ns.Close()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	own, err := netns.Get()
	if err != nil {
		return 0, err
	}
	defer own.Close()
	if err := netns.Set(netns.NsHandle(ns.Fd())); err != nil {
		return 0, fmt.Errorf("network of the switch: %w", err)
	}
	const wakeOnLAN = 0x4208 // ether type 0x0842 in network order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, wakeOnLAN)
	if backErr := netns.Set(own); err == nil {
		err = backErr
	}
	if err != nil {
		return 0, fmt.Errorf("packet socket: %w", err)
	}
	patience := unix.NsecToTimeval(int64(500 * time.Millisecond)) // between looks at whether the switch is there
	return fd, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience)
}
