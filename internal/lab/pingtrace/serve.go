package pingtrace

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// samplesMax bounds a trace: an hour at one request a millisecond, 58 MB.
const samplesMax = 3_600_000

// Message is one line that Serve writes: first that answers come, once; at the end the report.
type Message struct {
	FirstReply bool    `json:"first_reply,omitempty"`
	Report     *Report `json:"report,omitempty"`
}

// Serve traces from the network namespace it runs in until stop reaches its end, then writes the report.
func Serve(spec Spec, stop io.Reader, out io.Writer) error {
	if !spec.Target.Is4() || spec.Interval <= 0 {
		return fmt.Errorf("ping: %v every %v cannot be traced", spec.Target, spec.Interval)
	}
	fd, err := openSocket()
	if err != nil {
		return fmt.Errorf("ping: %w", err)
	}
	sock := os.NewFile(uintptr(fd), "icmp") // non-blocking, so Close ends a read
	t := &trace{spec: spec, id: uint16(os.Getpid()), first: make(chan struct{})}
	done := make(chan struct{})
	var sender, others sync.WaitGroup
	var recvErr error
	sender.Go(func() { t.send(fd, done) })
	others.Go(func() { recvErr = t.receive(sock) })
	enc := json.NewEncoder(out)
	others.Go(func() {
		select {
		case <-t.first:
			enc.Encode(Message{FirstReply: true})
		case <-done:
		}
	})
	io.Copy(io.Discard, stop)
	close(done)
	end := time.Now().UnixNano()
	sender.Wait() // it uses the descriptor by number, so it must end before the close
	sock.Close()
	others.Wait()
	if recvErr != nil {
		return fmt.Errorf("ping: %w", recvErr)
	}
	rep := analyse(spec, t.samples, end)
	return enc.Encode(Message{Report: &rep})
}

// openSocket makes a raw ICMP socket that gets echo replies only, each with the time it arrived.
func openSocket() (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
	if err != nil {
		return 0, err
	}
	const (
		solRaw, icmpFilter = 255, 1
		keepEchoReplies    = ^uint32(1 << 0) // a set bit drops that ICMP type
		bufferBytes        = 4 << 20         // what arrives while this process does not run
	)
	filter := make([]byte, 4)
	binary.NativeEndian.PutUint32(filter, keepEchoReplies)
	err = errors.Join(
		unix.SetsockoptString(fd, solRaw, icmpFilter, string(filter)),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, bufferBytes),
	)
	if err != nil {
		unix.Close(fd)
		return 0, err
	}
	return fd, nil
}

type trace struct {
	spec Spec
	id   uint16

	mu      sync.Mutex
	samples []sample
	first   chan struct{}
	seen    bool
}

const (
	icmpEchoRequest = 8
	icmpEchoReply   = 0
	headerBytes     = 8
	packetBytes     = headerBytes + 8 // the payload is the sample's index, for the ICMP sequence number is too short
)

// send emits requests on schedule until done closes. It owns its thread.
func (t *trace) send(fd int, done <-chan struct{}) {
	runtime.LockOSThread() // never unlocked: the thread, with its priority, ends with this goroutine
	// Refused without the privilege; SendPause then tells what that cost.
	unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: schedFIFO, Priority: 1}, 0)
	to := &unix.SockaddrInet4{Addr: t.spec.Target.As4()}
	packet := make([]byte, packetBytes)
	next := time.Now()
	for n := 0; n < samplesMax; n++ {
		select {
		case <-done:
			return
		default:
		}
		t.request(packet, uint64(n))
		t.mu.Lock()
		t.samples = append(t.samples, sample{sent: time.Now().UnixNano()})
		t.mu.Unlock()
		// While the path is broken, sending fails in many ways; each is a request without an answer, which is what is measured.
		unix.Sendto(fd, packet, 0, to)
		next = next.Add(t.spec.Interval)
		if wait := time.Until(next); wait > 0 {
			ts := unix.NsecToTimespec(int64(wait))
			unix.Nanosleep(&ts, nil) // a signal wakes it early, which the schedule evens out
		} else {
			next = time.Now() // do not make up for a pause with a burst
		}
	}
}

const schedFIFO = 1

func (t *trace) request(p []byte, n uint64) {
	p[0], p[1] = icmpEchoRequest, 0
	binary.BigEndian.PutUint16(p[2:], 0)
	binary.BigEndian.PutUint16(p[4:], t.id)
	binary.BigEndian.PutUint16(p[6:], uint16(n))
	binary.BigEndian.PutUint64(p[headerBytes:], n)
	binary.BigEndian.PutUint16(p[2:], checksum(p))
}

// checksum is the Internet checksum of an even number of bytes.
func checksum(p []byte) uint16 {
	var sum uint32
	for i := 0; i < len(p); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(p[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// receive records answers until the socket is closed.
func (t *trace) receive(sock *os.File) error {
	raw, err := sock.SyscallConn()
	if err != nil {
		return err
	}
	packet, control := make([]byte, 256), make([]byte, 128)
	for {
		var n, oobn int
		var readErr error
		err := raw.Read(func(fd uintptr) bool {
			n, oobn, _, _, readErr = unix.Recvmsg(int(fd), packet, control, 0)
			return !errors.Is(readErr, unix.EAGAIN)
		})
		if err != nil {
			return nil // closed
		}
		if readErr == nil {
			t.answer(packet[:n], arrival(control[:oobn]))
		}
	}
}

// arrival is the kernel's time stamp, in nanoseconds since 1970; the present if there is none.
func arrival(control []byte) int64 {
	msgs, err := unix.ParseSocketControlMessage(control)
	if err == nil {
		for _, m := range msgs {
			if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_TIMESTAMPNS && len(m.Data) >= 16 {
				return int64(binary.NativeEndian.Uint64(m.Data))*int64(time.Second) + int64(binary.NativeEndian.Uint64(m.Data[8:]))
			}
		}
	}
	return time.Now().UnixNano()
}

// answer records one packet, an IPv4 header included, if it answers a request of this trace for the first time.
func (t *trace) answer(packet []byte, at int64) {
	if len(packet) == 0 {
		return
	}
	ipHeader := int(packet[0]&0x0f) * 4
	if len(packet) < ipHeader+packetBytes {
		return
	}
	icmp := packet[ipHeader:]
	if icmp[0] != icmpEchoReply || binary.BigEndian.Uint16(icmp[4:]) != t.id {
		return
	}
	n := binary.BigEndian.Uint64(icmp[headerBytes:])
	t.mu.Lock()
	defer t.mu.Unlock()
	if n >= uint64(len(t.samples)) || t.samples[n].received != 0 {
		return
	}
	t.samples[n].received = at
	if !t.seen {
		t.seen = true
		close(t.first)
	}
}
