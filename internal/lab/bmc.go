package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Each compute node of a lab with BMCs has one, made by ipmi_sim (Debian's openipmi), which speaks the real protocol on the management network and whose
// power commands are the lab's own:
//
//	controller --RMCP+, management network--> ipmi_sim, one per host --runs--> godwit lab chassis LAB HOST get|set power --> PowerOff, PowerOn
//	                                             ^ children of
//	                                        godwit lab bmcs LAB: in the root namespaces but for the network, which is the switch's
//
// They have the switch's power: a host that is off still has a BMC that says so, and they end with the lab.

const (
	// BMCUser and BMCPassword open every BMC of a lab.
	BMCUser     = "fence"
	BMCPassword = "lab-fence"

	bmcOctet    = 250
	bmcPortBase = 9000
	ipmiSimPath = "/usr/bin/ipmi_sim"
)

// BMCAddr is where a compute node's BMC is.
func (l *Lab) BMCAddr(node string) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 18, byte(l.Net), bmcOctet}), bmcPortBase+uint16(l.octet(node)))
}

// startBMCs gives the switch the BMCs' address and starts the process that runs them.
func (l *Lab) startBMCs() error {
	if _, err := os.Stat(ipmiSimPath); err != nil {
		return fmt.Errorf("lab: %s is missing; scripts/install-lab-deps.sh installs it", ipmiSimPath)
	}
	err := inNetwork(l.Name, Switch, func(h *netlink.Handle) error {
		br, err := h.LinkByName(bridgeMgmt)
		if err != nil {
			return err
		}
		addr, err := netlink.ParseAddr(netip.PrefixFrom(l.BMCAddr(HostName(1)).Addr(), prefixLen).String())
		if err != nil {
			return err
		}
		return h.AddrAdd(br, addr)
	})
	if err != nil {
		return fmt.Errorf("switch: address of the BMCs: %w", err)
	}
	return l.startAside("bmcs")
}

// RunBMCs is `godwit lab bmcs LAB`: it runs the BMCs of a lab until the lab's switch is gone.
func RunBMCs(ctx context.Context, name string) error {
	l, err := Load(name)
	if err != nil {
		return err
	}
	sw, on := readPID(name, Switch)
	if !on {
		return fmt.Errorf("node %s: %w", Switch, ErrPoweredOff)
	}
	runtime.LockOSThread() // children die with the thread that made them, which is this one
	defer runtime.UnlockOSThread()
	var running []*exec.Cmd
	defer func() {
		for _, cmd := range running {
			_ = cmd.Process.Kill()
			_ = cmd.Wait() // killed
		}
	}()
	for _, node := range l.ComputeNodes() {
		cmd, err := l.startBMC(node, sw)
		if err != nil {
			return fmt.Errorf("BMC of %s: %w", node, err)
		}
		running = append(running, cmd)
	}
	return sw.awaitEnd(ctx)
}

// startBMC starts one ipmi_sim in the switch's network.
func (l *Lab) startBMC(node string, sw process) (*exec.Cmd, error) {
	dir := filepath.Join(nodeRunDir(l.Name, Switch), "bmc-"+node)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	chassis := fmt.Sprintf("#!/bin/sh\nexec %s lab chassis %s %s \"$@\"\n", binaryFile(l.Name), l.Name, node)
	auths := ""
	for _, level := range []string{"callback", "user", "operator", "admin"} {
		auths += "    allowed_auths_" + level + " none md2 md5 straight\n"
	}
	address := l.BMCAddr(node)
	config := fmt.Sprintf(`name "%s"
set_working_mc 0x20
  startlan 1
    addr %s %d
    priv_limit admin
%s    guid a123456789abcdefa123456789abcdef
  endlan
  chassis_control "%s 0x20"
  user 1 false "" "unused" user 10 none md2 md5 straight
  user 2 true "%s" "%s" admin 10 none md2 md5 straight
`, node, address.Addr(), address.Port(), auths, filepath.Join(dir, "chassis"), BMCUser, BMCPassword)
	const commands = "mc_setbmc 0x20\nmc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr\nmc_enable 0x20\n"
	for file, text := range map[string]string{"chassis": chassis, "lan.conf": config, "commands": commands} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o700); err != nil {
			return nil, err
		}
	}
	cmd := exec.Command("nsenter", fmt.Sprintf("--net=/proc/%d/ns/net", sw.PID), "--",
		ipmiSimPath, "-n", "-c", filepath.Join(dir, "lan.conf"), "-f", filepath.Join(dir, "commands"), "-s", dir)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd, cmd.Start()
}

// awaitEnd waits until the process has ended.
func (p process) awaitEnd(ctx context.Context) error {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for ctx.Err() == nil && p.alive() {
		const slice = 500 // milliseconds between looks at ctx
		if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, slice); err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
	return nil
}

// RunChassis is `godwit lab chassis LAB NODE ARG...`, what ipmi_sim runs: MC get NAME... or MC set NAME VALUE... (ipmi_lan(5), chassis_control).
func RunChassis(ctx context.Context, name, node string, args []string, out io.Writer) error {
	l, err := Load(name)
	if err != nil {
		return err
	}
	if len(args) < 2 {
		return fmt.Errorf("chassis %s: want MC get|set NAME [VALUE]...", strings.Join(args, " "))
	}
	verb, rest := args[1], args[2:]
	if verb == "get" {
		for _, property := range rest {
			value := 0
			if _, on := readPID(name, node); on && property == "power" {
				value = 1
			}
			fmt.Fprintf(out, "%s:%d\n", property, value)
		}
		return nil
	}
	for ; len(rest) >= 2; rest = rest[2:] {
		if rest[0] == "shutdown" { // a node has nothing to end in order
			rest[0], rest[1] = "power", "0"
		}
		if rest[0] != "power" {
			continue // lamps and boot devices are nothing to a lab
		}
		on, err := strconv.Atoi(rest[1])
		if err != nil {
			return err
		}
		turn := l.PowerOff
		if on != 0 {
			turn = l.PowerOn
		}
		if err := turn(ctx, node); err != nil {
			return err
		}
	}
	return nil
}
