package vnet

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
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

// voices are the announcements that servers here can make. They have a lock of their own: a guest that has just arrived must not wait
// for another's networks to be built.
type voices struct {
	mu sync.Mutex
	of map[cloud.ServerID]*voice
}

type voice struct {
	speakers []speaker
	hush     context.CancelFunc // ends the repetitions in progress
}

// learn replaces what a server has to say; an announcement in progress goes on with the old words.
func (v *voices) learn(id cloud.ServerID, nics []cloud.NIC) error {
	var speakers []speaker
	for _, nic := range nics {
		s, err := speakerOf(nic)
		if err != nil {
			return err
		}
		speakers = append(speakers, s)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if known := v.of[id]; known != nil {
		known.speakers = speakers
		return nil
	}
	v.of[id] = &voice{speakers: speakers, hush: func() {}}
	return nil
}

// forget silences a server; when it returns nothing more is said.
func (v *voices) forget(id cloud.ServerID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if known := v.of[id]; known != nil {
		known.hush()
		delete(v.of, id)
	}
}

// Announce tells the network that a server's NICs are here now. Call it on the target after a cut-over, never on the source. The
// first announcement leaves at once, whatever else is going on; repetitions follow for two seconds unless the server is released. A server that
// has not been ensured is KindNotFound.
func (n *Networks) Announce(ctx context.Context, id cloud.ServerID) error {
	if err := n.speak(id); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	r := n.residents[id]
	if r == nil {
		return nil // released meanwhile
	}
	var s script
	for _, nic := range r.nics {
		if nic.PortSecurity {
			s.arrived(TapName(nic.Port))
		}
	}
	return n.filter.apply(ctx, &s)
}

// speak says it now and arranges the repetitions. A newer announcement of the same server replaces an older one.
func (n *Networks) speak(id cloud.ServerID) error {
	n.voices.mu.Lock()
	defer n.voices.mu.Unlock()
	v := n.voices.of[id]
	if v == nil {
		return cloud.Errorf(cloud.KindNotFound, "server %s has no network here", id)
	}
	if err := n.say(v.speakers); err != nil {
		return fmt.Errorf("server %s: announce: %w", id, err)
	}
	v.hush()
	ctx, cancel := context.WithCancel(n.life)
	v.hush = cancel
	began, speakers := time.Now(), v.speakers
	n.owned.Go(func() {
		defer cancel()
		n.repeat(ctx, began, speakers)
	})
	return nil
}

func (n *Networks) repeat(ctx context.Context, began time.Time, speakers []speaker) {
	for _, at := range announceAt[1:] {
		timer := time.NewTimer(time.Until(began.Add(at)))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		n.voices.mu.Lock()
		var err error
		if ctx.Err() == nil { // not released meanwhile
			err = n.say(speakers)
		}
		n.voices.mu.Unlock()
		if err != nil {
			n.log.Warn("cannot repeat an announcement", "error", err)
		}
	}
}

// say sends each NIC's frames into its tunnel and points the local bridge at its tap. Caller holds the lock of n.voices.
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
