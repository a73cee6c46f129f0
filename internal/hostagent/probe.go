package hostagent

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"syscall"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
)

const (
	// probeMax bounds one try: a host on the same network answers within a millisecond, its kernel even when all its processors are busy. The judge
	// wants to know before a silence has lasted three seconds.
	probeMax = 600 * time.Millisecond
	// probeTargetsMax bounds one call; a host has three networks.
	probeTargetsMax = 16
)

// Probe implements hostpb.HostServer: it tries to reach another host over each of its addresses, all at once, and looks at its lease on shared storage.
func (a *Agent) Probe(ctx context.Context, req *hostpb.ProbeRequest) (*hostpb.ProbeReply, error) {
	targets := req.GetTargets()
	if len(targets) > probeTargetsMax {
		return nil, cloud.Errorf(cloud.KindInvalid, "probe: %d targets, at most %d are possible", len(targets), probeTargetsMax)
	}
	reply := &hostpb.ProbeReply{Results: make([]*hostpb.ProbeResult, len(targets))}
	var tries sync.WaitGroup
	for i, t := range targets {
		tries.Go(func() { reply.Results[i] = probe(ctx, t) })
	}
	if req.GetStorage() {
		reply.StorageSeen, reply.StorageAge = a.lookAtLease(cloud.HostName(req.GetHost()))
	}
	tries.Wait()
	return reply, nil
}

// lookAtLease says how long ago a host's lease on the shared directory was seen to change.
func (a *Agent) lookAtLease(host cloud.HostName) (seen bool, age *durationpb.Duration) {
	if a.guardian == nil {
		return false, nil
	}
	since, ok := a.guardian.leases.Look(host)
	if !ok {
		return false, nil
	}
	return true, durationpb.New(since)
}

// probe tries one address.
func probe(ctx context.Context, t *hostpb.ProbeTarget) *hostpb.ProbeResult {
	began := time.Now()
	r := &hostpb.ProbeResult{Network: t.GetNetwork()}
	ip, err := netip.ParseAddr(t.GetAddress())
	if err == nil {
		r.Reached, err = Reaches(ctx, ip, int(t.GetPort()))
	}
	r.Took = durationpb.New(time.Since(began))
	if err != nil {
		r.Detail = err.Error()
	}
	return r
}

// Reaches reports whether a host answers at an address: to a connection to the port, a refusal included, or to an ICMP echo when the port is 0. It
// takes probeMax at most.
func Reaches(ctx context.Context, ip netip.Addr, port int) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, probeMax)
	defer cancel()
	if port == 0 {
		err := echo(ctx, ip)
		return err == nil, err
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(ip.String(), strconv.Itoa(port)))
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET) {
		return true, nil // its kernel said so
	}
	if err != nil {
		return false, err
	}
	return true, conn.Close()
}

// The ICMP messages of RFC 792 and RFC 4443 that are spoken here.
const (
	echoRequest4, echoReply4 = 8, 0
	echoRequest6, echoReply6 = 128, 129
)

// echo sends ICMP echo requests until one is answered.
func echo(ctx context.Context, ip netip.Addr) error {
	network, request, answer := "ip4:icmp", byte(echoRequest4), byte(echoReply4)
	if ip.Is6() && !ip.Is4In6() {
		network, request, answer = "ip6:ipv6-icmp", echoRequest6, echoReply6
	}
	dialled, err := new(net.Dialer).DialContext(ctx, network, ip.String())
	if err != nil {
		return err
	}
	defer dialled.Close()
	conn, ok := dialled.(*net.IPConn)
	if !ok {
		return fmt.Errorf("echo: %T is no IP connection", dialled)
	}
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return err
		}
	}
	id := uint16(time.Now().UnixNano()) // two probes of one address at once must not take each other's answers
	if _, err := conn.Write(echoMessage(request, id)); err != nil {
		return err
	}
	buf := make([]byte, 256)
	for {
		n, _, err := conn.ReadFrom(buf) // without the IP header, which Read would leave there
		if err != nil {
			return err
		}
		if n >= 8 && buf[0] == answer && binary.BigEndian.Uint16(buf[4:]) == id {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("no echo: %w", context.Cause(ctx))
		}
	}
}

// echoMessage is an echo request with RFC 1071's checksum; the kernel fills in that of ICMPv6.
func echoMessage(kind byte, id uint16) []byte {
	m := make([]byte, 16)
	m[0] = kind
	binary.BigEndian.PutUint16(m[4:], id)
	binary.BigEndian.PutUint16(m[6:], 1)
	copy(m[8:], "godwit")
	var sum uint32
	for i := 0; i < len(m); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(m[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	if kind == echoRequest4 {
		binary.BigEndian.PutUint16(m[2:], ^uint16(sum))
	}
	return m
}
