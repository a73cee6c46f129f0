package lab

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/godwit-cloud/godwit/internal/lab/nodeinit"
	"github.com/godwit-cloud/godwit/internal/lab/pingtrace"
)

// PeerSpec says where a peer is plugged in and who it is.
type PeerSpec struct {
	// Name tells peers of a lab apart: up to 8 lower-case letters and digits.
	Name string
	// Node and Bridge are where the peer's cable goes, such as a tenant network's bridge on compute-1.
	Node, Bridge string
	// MAC of the peer; the kernel chooses one if nil.
	MAC net.HardwareAddr
	// Addr is the peer's address with its prefix.
	Addr netip.Prefix
}

// Peer is a machine without a guest or daemon: network namespaces and one link, the other end of a guest's conversations.
type Peer struct {
	lab  *Lab
	node string
	addr netip.Prefix
}

const peerLink = "eth0"

var (
	peerName = regexp.MustCompile(`^peer-[a-z0-9]{1,8}$`)
	// tracesMade numbers the traces of this process, for their files.
	tracesMade atomic.Int64
)

// StartPeer makes a peer. It lives until Stop or the lab's end; if its compute node loses power, its cable is gone with it.
func (l *Lab) StartPeer(ctx context.Context, spec PeerSpec) (*Peer, error) {
	p := &Peer{lab: l, node: "peer-" + spec.Name, addr: spec.Addr}
	if !peerName.MatchString(p.node) {
		return nil, fmt.Errorf("peer %q: a name is 1 to 8 lower-case letters and digits", spec.Name)
	}
	if err := l.checkNode(spec.Node); err != nil {
		return nil, err
	}
	if _, on := readPID(l.Name, p.node); on {
		return nil, fmt.Errorf("%s exists", p.node)
	}
	if err := l.startNode(ctx, nodeSpec{name: p.node}); err != nil {
		return nil, err
	}
	if err := p.connect(spec); err != nil {
		return nil, errors.Join(err, p.Stop(context.WithoutCancel(ctx)))
	}
	return p, nil
}

func (p *Peer) connect(spec PeerSpec) error {
	mtu, err := p.lab.bridgeMTU(spec.Node, spec.Bridge)
	if err != nil {
		return err
	}
	if err := loopbackUp(p.lab.Name, p.node); err != nil {
		return err
	}
	return p.lab.plug(cable{
		bridgeNode: spec.Node, bridge: spec.Bridge, port: p.node, node: p.node, link: peerLink,
		mtu: mtu, mac: spec.MAC, addr: spec.Addr,
	})
}

func (l *Lab) bridgeMTU(node, bridge string) (int, error) {
	var mtu int
	err := inNetwork(l.Name, node, func(h *netlink.Handle) error {
		br, err := h.LinkByName(bridge)
		if err != nil {
			return fmt.Errorf("node %s: bridge %s: %w", node, bridge, err)
		}
		mtu = br.Attrs().MTU
		return nil
	})
	return mtu, err
}

// Node is the peer's name as a node: Lab.Exec and Lab.Output run commands in it.
func (p *Peer) Node() string { return p.node }

// Addr is the peer's address.
func (p *Peer) Addr() netip.Addr { return p.addr.Addr() }

// Stop removes the peer.
func (p *Peer) Stop(ctx context.Context) error {
	if proc, on := readPID(p.lab.Name, p.node); on {
		if err := proc.kill(ctx); err != nil {
			return fmt.Errorf("%s: %w", p.node, err)
		}
	}
	return os.RemoveAll(nodeRunDir(p.lab.Name, p.node))
}

// Dial connects from the peer to a guest. Only the connecting happens in the peer's network namespace; the connection is used as any other.
func (p *Peer) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	ns, err := openNetwork(p.lab.Name, p.node)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	return dialIn(ctx, ns, network, addr)
}

// Trace is a running measurement, see package pingtrace.
type Trace struct {
	cmd    *exec.Cmd
	stdin  io.Closer
	lines  *json.Decoder
	stderr bytes.Buffer
	first  chan error // receives once: nil at the first reply, or why there will be none
	report *pingtrace.Report
	done   chan error // receives once, when the tracing process has ended
}

// StartTrace begins to ping target from the peer, a request every interval.
func (p *Peer) StartTrace(ctx context.Context, target netip.Addr, interval time.Duration) (*Trace, error) {
	name := fmt.Sprintf("trace-%d-%d.json", os.Getpid(), tracesMade.Add(1))
	spec := filepath.Join(nodeRunDir(p.lab.Name, p.node), name)
	err := writeJSON(spec, nodeinit.Spec{Ping: &pingtrace.Spec{Target: target, Interval: interval}})
	if err != nil {
		return nil, err
	}
	t := &Trace{first: make(chan error, 1), done: make(chan error, 1)}
	if t.cmd, err = p.lab.Command(ctx, p.node, []string{binaryFile(p.lab.Name), "lab", "init", spec}); err != nil {
		return nil, err
	}
	t.cmd.Stderr = &t.stderr
	if t.stdin, err = t.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := t.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := t.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: trace: %w", p.node, err)
	}
	t.lines = json.NewDecoder(bufio.NewReader(out))
	go t.read()
	return t, nil
}

// read follows the tracing process to its end.
func (t *Trace) read() {
	for {
		var m pingtrace.Message
		err := t.lines.Decode(&m)
		if err != nil {
			break
		}
		if m.FirstReply {
			t.first <- nil
		}
		if m.Report != nil {
			t.report = m.Report
		}
	}
	err := t.cmd.Wait()
	if err != nil {
		err = fmt.Errorf("trace: %w: %s", err, bytes.TrimSpace(t.stderr.Bytes()))
	} else if t.report == nil {
		err = errors.New("trace: no report")
	}
	select {
	case t.first <- errors.Join(errors.New("trace ended without a reply"), err):
	default:
	}
	t.done <- err
}

// AwaitReply returns when the first answer has come. Call it once.
func (t *Trace) AwaitReply(ctx context.Context) error {
	select {
	case err := <-t.first:
		return err
	case <-ctx.Done():
		return fmt.Errorf("trace: no reply: %w", ctx.Err())
	}
}

// Stop ends the trace and returns what it saw. Call it once.
func (t *Trace) Stop() (pingtrace.Report, error) {
	t.stdin.Close()
	if err := <-t.done; err != nil {
		return pingtrace.Report{}, err
	}
	return *t.report, nil
}

// PingTrace pings target from the peer until ctx ends and reports, so it suits being run beside what is measured. A caller that must
// know when answers begin uses StartTrace.
func (p *Peer) PingTrace(ctx context.Context, target netip.Addr, interval time.Duration) (pingtrace.Report, error) {
	t, err := p.StartTrace(context.WithoutCancel(ctx), target, interval)
	if err != nil {
		return pingtrace.Report{}, err
	}
	<-ctx.Done()
	return t.Stop()
}
