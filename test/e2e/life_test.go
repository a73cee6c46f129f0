package e2e

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"

	"github.com/godwit-cloud/godwit/test/guest"
	"github.com/godwit-cloud/godwit/test/labcloud"
)

// lifeMax bounds one test of this file: a handful of boots and moves.
const lifeMax = 4 * time.Minute

// TestAGuestNoticesNothingOfAMoveButTime: a stream through the guest loses no byte, its address stays, and its console has no gap.
func TestAGuestNoticesNothingOfAMoveButTime(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), lifeMax)
	defer cancel()
	g := boot(t, guestOptions{name: "settler", host: here})
	before := g.status(t)
	flow := pour(ctx, t, g.ip)
	flow.past(ctx, t, pourChunk)
	for _, to := range []string{there, "compute-3", here} {
		moveTo(ctx, t, g, to)
		flow.past(ctx, t, pourChunk)
	}
	if sent, back, err := flow.stop(); err != nil || sent != back {
		t.Errorf("of %d bytes sent through the guest while it moved %d came back: %v", sent, back, err)
	}
	now := g.status(t)
	if now.BootID != before.BootID || now.IP != before.IP || now.MAC != before.MAC || now.MTU != before.MTU {
		t.Errorf("the guest was %+v and is %+v", before, now)
	}
	g.whole(t)
	out, err := cloud.Client(ctx, "nova", "console-log", "settler")
	if err != nil {
		t.Fatal(err)
	}
	ticksInARow(t, out, now.Ticks)
}

// ticksInARow checks that a console says every tick once, in order, from the first to at least the last known.
func ticksInARow(t *testing.T, console string, last uint64) {
	t.Helper()
	next := uint64(1)
	for line := range strings.Lines(console) {
		fields := strings.Fields(line)
		if len(fields) != 4 || fields[0] != "tick" {
			continue
		}
		n, err := strconv.ParseUint(fields[1], 10, 64)
		if err != nil || n != next {
			t.Fatalf("console says %q, want tick %d", line, next)
		}
		next++
	}
	if next <= last {
		t.Errorf("the console ends at tick %d, the guest was at %d", next-1, last)
	}
	if !strings.Contains(console, "godwit-guest booting") {
		t.Error("the console has lost its beginning")
	}
}

// A stream sends numbers to the guest's echo port without a pause and checks what comes back.
type stream struct {
	conn       net.Conn
	sent, back atomic.Int64
	ended      chan error // receives once, from the reader
	halt       chan struct{}
	written    chan error // receives once, from the writer
}

const (
	// pourChunk is what is sent every pourPeriod, and also what is waited for: a few hundred kB/s.
	pourChunk  = 1 << 10
	pourPeriod = 5 * time.Millisecond
)

func pour(ctx context.Context, t *testing.T, ip string) *stream {
	t.Helper()
	conn, err := cloud.Peer.Dial(ctx, "tcp4", net.JoinHostPort(ip, strconv.Itoa(guest.EchoPort)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	s := &stream{conn: conn, ended: make(chan error, 1), halt: make(chan struct{}), written: make(chan error, 1)}
	go func() { s.written <- s.write() }()
	go func() { s.ended <- s.read() }()
	return s
}

// number is the i-th piece of the stream.
func number(i int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(i)) }

func (s *stream) write() error {
	tick := time.NewTicker(pourPeriod)
	defer tick.Stop()
	var chunk []byte
	for i := int64(0); ; {
		chunk = chunk[:0]
		for ; len(chunk) < pourChunk; i++ {
			chunk = append(chunk, number(i)...)
		}
		n, err := s.conn.Write(chunk)
		s.sent.Add(int64(n))
		if err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-s.halt:
			return s.conn.(*net.TCPConn).CloseWrite()
		}
	}
}

func (s *stream) read() error {
	got := make([]byte, len(number(0)))
	for i := int64(0); ; i++ {
		_, err := io.ReadFull(s.conn, got)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if !bytes.Equal(got, number(i)) {
			return fmt.Errorf("piece %d came back as %x", i, got)
		}
		s.back.Add(int64(len(got)))
	}
}

// past waits until so many more bytes than now have come back.
func (s *stream) past(ctx context.Context, t *testing.T, bytes int64) {
	t.Helper()
	want := s.sent.Load() + bytes
	err := labcloud.Until(ctx, "echo", func() (bool, error) { return s.back.Load() >= want, nil })
	if err != nil {
		t.Fatalf("%d bytes sent, %d came back: %v", s.sent.Load(), s.back.Load(), err)
	}
}

// stop ends the stream when all has come back.
func (s *stream) stop() (sent, back int64, err error) {
	close(s.halt)
	err = errors.Join(<-s.written, <-s.ended)
	return s.sent.Load(), s.back.Load(), err
}

// TestPowerByStockClients: stop, start, soft and hard reboot; the disk's log goes on over all of them. The guest has no config drive and was moved
// before, so each boot also shows that DHCP and the metadata service serve it on its new host.
func TestPowerByStockClients(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), lifeMax)
	defer cancel()
	g := boot(t, guestOptions{name: "phoenix", host: here, noDrive: true})
	moveTo(ctx, t, g, there)
	steps := []struct {
		name string
		argv []string
		then string // status it leads to
	}{
		{"stop", []string{"openstack", "server", "stop", "phoenix"}, "SHUTOFF"},
		{"start", []string{"nova", "start", "phoenix"}, "ACTIVE"},
		{"soft reboot", []string{"openstack", "server", "reboot", "--wait", "phoenix"}, "ACTIVE"},
		{"hard reboot", []string{"nova", "reboot", "--hard", "phoenix"}, "ACTIVE"},
	}
	running := true
	for _, s := range steps {
		var before guest.Status
		if running {
			before = g.status(t)
		}
		if _, err := cloud.Client(ctx, s.argv...); err != nil {
			t.Fatal(err)
		}
		now := awaitIdle(ctx, t, g.id)
		if now.Status != s.then || now.Host != there {
			t.Fatalf("%s: the server is %s on %s, want %s on %s", s.name, now.Status, now.Host, s.then, there)
		}
		if running = s.then == "ACTIVE"; !running {
			if state := domainState(ctx, there, g.id); !strings.HasPrefix(state, "shut off") {
				t.Errorf("%s: libvirt says %q", s.name, state)
			}
			continue
		}
		g.reconnect(t)
		if err := labcloud.Until(ctx, "", func() (bool, error) { return g.status(t).MetadataSeen, nil }); err != nil {
			t.Fatalf("%s: the metadata service does not answer on %s", s.name, there)
		}
		after := g.status(t)
		if after.BootID == before.BootID {
			t.Errorf("%s: the guest was not started anew", s.name)
		}
		if after.IP != g.ip || after.UUID != g.id || after.Name != "phoenix" {
			t.Errorf("%s: the guest was told %+v", s.name, after)
		}
		g.whole(t)
	}
}

// awaitIdle waits until nothing is being done with a server.
func awaitIdle(ctx context.Context, t *testing.T, id string) *servers.Server {
	t.Helper()
	var s *servers.Server
	err := labcloud.Until(ctx, id+" idle", func() (bool, error) {
		var err error
		s, err = cloud.Server(ctx, id)
		return err == nil && s.TaskState == "", err
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}
