package vnet

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// announceAt are the moments of an announcement, counted from the cut-over. The first does the work; the others are for frames that got lost
// and for peers that were learning the old place at that moment. After two seconds guests' own traffic has taught everybody.
var announceAt = []time.Duration{0, 50 * time.Millisecond, 150 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second}

// speaker is one NIC to be announced.
type speaker struct {
	vni    int
	tap    string
	mac    net.HardwareAddr
	frames [][]byte
}

func speakerOf(nic cloud.NIC) (speaker, error) {
	mac, err := net.ParseMAC(nic.MAC)
	if err != nil {
		return speaker{}, cloud.Errorf(cloud.KindInvalid, "port %s: %q is not a MAC address", nic.Port, nic.MAC)
	}
	var ips []netip.Addr
	for _, a := range nic.Addresses {
		if ip, err := netip.ParseAddr(a.Address); err == nil && ip.Is4() {
			ips = append(ips, ip)
		}
	}
	return speaker{vni: nic.VNI, tap: TapName(nic.Port), mac: mac, frames: announcement(mac, ips)}, nil
}

// Announce tells the network that a server's NICs are here now. Call it on the target after a cut-over, never on the source. The
// first announcement has left when it returns; repetitions follow for two seconds unless the server is released. A server that has not
// been ensured is KindNotFound.
func (n *Networks) Announce(ctx context.Context, id cloud.ServerID) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	r := n.residents[id]
	if r == nil {
		return cloud.Errorf(cloud.KindNotFound, "server %s has no network here", id)
	}
	var speakers []speaker
	for _, nic := range r.nics {
		s, err := speakerOf(nic)
		if err != nil {
			return err
		}
		speakers = append(speakers, s)
	}
	if err := n.say(speakers); err != nil {
		return fmt.Errorf("server %s: announce: %w", id, err)
	}
	n.repeat(r, speakers)
	var s script
	for _, nic := range r.nics {
		if nic.PortSecurity {
			s.arrived(TapName(nic.Port))
		}
	}
	return n.filter.apply(ctx, &s)
}

// repeat says it again at the later moments. A newer announcement of the same server replaces it; Release and Close end it.
func (n *Networks) repeat(r *resident, speakers []speaker) {
	r.hush()
	ctx, cancel := context.WithCancel(n.life)
	r.hush = cancel
	began := time.Now()
	n.owned.Go(func() {
		defer cancel()
		for _, at := range announceAt[1:] {
			timer := time.NewTimer(time.Until(began.Add(at)))
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
				return
			}
			n.mu.Lock()
			if ctx.Err() == nil { // not released meanwhile
				if err := n.say(speakers); err != nil {
					n.log.Warn("cannot repeat an announcement", "error", err)
				}
			}
			n.mu.Unlock()
		}
	})
}

// say sends each NIC's frames into its tunnel and points the local bridge at its tap. Caller holds the lock.
func (n *Networks) say(speakers []speaker) error {
	for _, s := range speakers {
		if err := n.pointAtTap(s.vni, s.tap, s.mac); err != nil {
			return err
		}
		tunnel, err := n.find(tunnelName(s.vni))
		if err != nil {
			return err
		}
		if tunnel == nil {
			return cloud.Errorf(cloud.KindNotFound, "tunnel %s does not exist", tunnelName(s.vni))
		}
		for _, frame := range s.frames {
			if err := n.raw.send(tunnel.Attrs().Index, frame); err != nil {
				return fmt.Errorf("tunnel %s: %w", tunnelName(s.vni), err)
			}
		}
	}
	return nil
}
