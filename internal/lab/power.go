package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/godwit-cloud/godwit/internal/lab/nodeinit"
)

const libvirtdPath = "/usr/sbin/libvirtd"

// nodeSpec is what startNode needs to know beyond the lab itself.
type nodeSpec struct {
	name      string
	mounts    []nodeinit.Bind
	disks     []nodeinit.Disk
	units     []nodeinit.Unit
	listeners []*os.File // closed by the caller
	sockets   []string   // names of listeners
}

// startNode makes process 1 of a node and returns when its supervisor answers. The node's links and units are not up yet.
func (l *Lab) startNode(ctx context.Context, n nodeSpec) error {
	if err := os.MkdirAll(nodeRunDir(l.Name, n.name), 0o700); err != nil {
		return err
	}
	control := controlSocket(l.Name, n.name)
	os.Remove(control) // of an earlier life
	spec := nodeinit.Spec{
		Lab: l.Name, Node: n.name, Hostname: n.name, Control: control,
		Mounts: n.mounts, Disks: n.disks, Units: n.units, Tethered: l.tether != nil, Listeners: n.sockets,
	}
	if err := writeJSON(specFile(l.Name, n.name), spec); err != nil {
		return err
	}
	if err := l.spawn(n); err != nil {
		return fmt.Errorf("node %s: %w", n.name, err)
	}
	return l.awaitControl(ctx, n.name)
}

// spawn starts process 1 in its namespaces and records its pid.
func (l *Lab) spawn(n nodeSpec) error {
	out, err := os.OpenFile(filepath.Join(nodeRunDir(l.Name, n.name), "init.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	var extra []*os.File
	if l.tether != nil {
		extra = append(extra, l.tether.read)
	}
	cmd := exec.Command(binaryFile(l.Name), "lab", "init", specFile(l.Name, n.name))
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", out, out
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.ExtraFiles = append(extra, n.listeners...)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid:     true,
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	l.children.Go(func() { cmd.Wait() }) // how it ended is in init.log; this only reaps
	p, ok := identify(cmd.Process.Pid)
	if !ok {
		return errors.New("process 1 ended at once, see init.log")
	}
	return writePID(l.Name, n.name, p)
}

// PowerOn starts a node with the identity and disks it had. A node that is on is left alone.
func (l *Lab) PowerOn(ctx context.Context, node string) error {
	if err := l.checkNode(node); err != nil {
		return err
	}
	if _, on := readPID(l.Name, node); on {
		return nil
	}
	return l.powerOn(ctx, node)
}

func (l *Lab) powerOn(ctx context.Context, node string) error {
	n := nodeSpec{name: node, mounts: l.mounts(node), disks: l.disks(node), units: l.units(node)}
	if err := l.clearVolatile(node); err != nil {
		return fmt.Errorf("node %s: %w", node, err)
	}
	if node == Controller {
		file, err := l.listenAPI()
		if err != nil {
			return fmt.Errorf("node %s: %w", node, err)
		}
		defer file.Close()
		n.listeners, n.sockets = []*os.File{file}, []string{"api"}
	}
	if err := l.startNode(ctx, n); err != nil {
		return err
	}
	if err := l.connect(node); err != nil {
		return err
	}
	_, err := l.call(ctx, node, nodeinit.OpBoot, "")
	return err
}

// PowerOff ends a node as a cut cable would: everything in it dies at once, guests too, and its links are gone when PowerOff returns.
// A node that is off is left alone.
func (l *Lab) PowerOff(ctx context.Context, node string) error {
	if err := l.checkNode(node); err != nil {
		return err
	}
	p, on := readPID(l.Name, node)
	if !on {
		return nil
	}
	if err := p.kill(ctx); err != nil {
		return fmt.Errorf("node %s: power off: %w", node, err)
	}
	os.Remove(pidFile(l.Name, node))
	return errors.Join(l.disconnect(node), awaitDisksFree(ctx, nodeDir(l.Name, node)))
}

// listenAPI opens the API's socket in the root namespaces; the controller keeps it from then on.
func (l *Lab) listenAPI() (*os.File, error) {
	listener, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", l.APIPort))
	if err != nil {
		return nil, fmt.Errorf("api socket: %w", err)
	}
	defer listener.Close() // the returned file is a duplicate
	return listener.(*net.TCPListener).File()
}

func (l *Lab) units(node string) []nodeinit.Unit {
	logFile := func(unit string) string { return filepath.Join(nodeRunDir(l.Name, node), unit+".log") }
	binary := binaryFile(l.Name)
	if node == Controller {
		return []nodeinit.Unit{{
			Name: UnitServer, Argv: []string{binary, "server", "--config", configFile}, Log: logFile(UnitServer), Sockets: true,
		}}
	}
	if l.isStorage(node) {
		volumes := nodeinit.Unit{Name: UnitVolumes, Argv: []string{binary, "volumes", "--config", configFile}, Log: logFile(UnitVolumes)}
		if l.Gluster > 0 { // the service refuses to start without the mount, and is started again until it is there
			return []nodeinit.Unit{{Name: UnitShare, Argv: l.shareCommand(storageVolume, FarInside), Log: logFile(UnitShare), WaitFor: volumesStarted}, volumes}
		}
		return []nodeinit.Unit{volumes}
	}
	if l.isGluster(node) {
		return []nodeinit.Unit{{Name: UnitGlusterd, Argv: []string{glusterdPath, "--no-daemon", "--log-file=/dev/stderr"}, Log: logFile(UnitGlusterd)}}
	}
	libvirtd := nodeinit.Unit{
		Name: UnitLibvirtd, Argv: []string{libvirtdPath, "--listen"}, Log: logFile(UnitLibvirtd), WaitFor: serverCertificate,
	}
	if l.Bare {
		return []nodeinit.Unit{libvirtd}
	}
	agent := nodeinit.Unit{Name: UnitAgent, Argv: []string{binary, "agent", "--config", configFile}, Log: logFile(UnitAgent)}
	if l.Gluster > 0 {
		return []nodeinit.Unit{{Name: UnitShare, Argv: l.shareCommand(GlusterVolume, ShareInside), Log: logFile(UnitShare), WaitFor: volumesStarted}, libvirtd, agent}
	}
	return []nodeinit.Unit{libvirtd, agent}
}

func (l *Lab) views(node string) []view {
	var mine []view
	for _, v := range views {
		if (!v.compute || l.isCompute(node)) && (!v.gluster || l.isGluster(node)) {
			mine = append(mine, v)
		}
	}
	return mine
}

func (l *Lab) mounts(node string) []nodeinit.Bind {
	var binds []nodeinit.Bind
	for _, v := range l.views(node) {
		binds = append(binds, nodeinit.Bind{Source: l.Path(node, v.inside), Target: v.inside})
	}
	if l.Shared && l.isCompute(node) {
		binds = append(binds, nodeinit.Bind{Source: sharedDir(l.Name), Target: ShareInside}) // after the view it lies in
	}
	return binds
}

// makeViews creates what the node has for itself, before its first power on.
func (l *Lab) makeViews(node string) error {
	for _, v := range l.views(node) {
		path := l.Path(node, v.inside)
		if !v.file {
			if err := os.MkdirAll(path, 0o755); err != nil {
				return err
			}
			continue
		}
		text, err := l.fileView(v.inside)
		if err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	if l.Shared && l.isCompute(node) {
		return errors.Join(os.MkdirAll(sharedDir(l.Name), 0o755), os.MkdirAll(l.Path(node, ShareInside), 0o755))
	}
	return nil
}

// fileView is the content of a file that a node has for itself.
func (l *Lab) fileView(inside string) (string, error) {
	switch inside {
	case "/etc/hosts":
		return l.hostsFile(), nil
	case "/etc/passwd":
		return withEntry(inside, libvirtUser)
	case "/etc/group":
		return withEntry(inside, libvirtGroup)
	}
	return "", fmt.Errorf("%s: nothing to put there", inside)
}

// hostsFile resolves the nodes' names to the data network, which is where one host wants to reach another.
func (l *Lab) hostsFile() string {
	var b strings.Builder
	b.WriteString("127.0.0.1 localhost\n")
	for _, node := range slices.Concat(l.ComputeNodes(), l.StorageNodes(), l.GlusterNodes()) {
		fmt.Fprintf(&b, "%s %s\n", l.DataAddr(node), node)
	}
	if !l.Bare {
		fmt.Fprintf(&b, "%s %s\n", l.MgmtAddr(Controller), Controller)
	}
	return b.String()
}

// clearVolatile empties what does not survive a loss of power.
func (l *Lab) clearVolatile(node string) error {
	for _, v := range l.views(node) {
		if !v.volatile {
			continue
		}
		dir := l.Path(node, v.inside)
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
		if err := os.MkdirAll(filepath.Join(dir, "lock"), 0o755); err != nil {
			return err
		}
	}
	return nil
}
