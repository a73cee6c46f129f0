package blockserve

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/nbd"
)

// rawClient negotiates by hand and returns the connection, ready for requests.
func rawClient(t testing.TB, l net.Listener, export string) net.Conn {
	t.Helper()
	c, err := net.Dial(l.Addr().Network(), l.Addr().String())
	must(t, err)
	t.Cleanup(func() { _ = c.Close() })
	choose(t, c, export)
	return c
}

// choose negotiates with OptGo.
func choose(t testing.TB, c net.Conn, export string) {
	t.Helper()
	hello := binary.BigEndian.AppendUint32(nil, 3)
	hello = append(hello, "IHAVEOPT"...)
	hello = binary.BigEndian.AppendUint32(hello, uint32(nbd.OptGo))
	hello = binary.BigEndian.AppendUint32(hello, uint32(4+len(export)+2+2))
	hello = binary.BigEndian.AppendUint32(hello, uint32(len(export)))
	hello = append(hello, export...)
	hello = append(hello, 0, 1, 0, 3) // one piece of information: the block size
	_, err := c.Write(hello)
	must(t, err)
	_, err = io.ReadFull(c, make([]byte, 18))
	must(t, err)
	for {
		h := make([]byte, 20)
		_, err := io.ReadFull(c, h)
		must(t, err)
		_, err = io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint32(h[16:])))
		must(t, err)
		switch kind := binary.BigEndian.Uint32(h[12:]); {
		case kind == 1:
			return
		case kind != 3:
			t.Fatalf("the server answers %#x", kind)
		}
	}
}

// request is a request's head.
func request(c nbd.Command, f nbd.CommandFlags, cookie, offset uint64, length uint32) []byte {
	h := binary.BigEndian.AppendUint32(nil, 0x25609513)
	h = binary.BigEndian.AppendUint16(h, uint16(f))
	h = binary.BigEndian.AppendUint16(h, uint16(c))
	h = binary.BigEndian.AppendUint64(h, cookie)
	h = binary.BigEndian.AppendUint64(h, offset)
	return binary.BigEndian.AppendUint32(h, length)
}

func TestHalfARequestThenSilenceHurtsNobodyElse(t *testing.T) {
	eachEngine(t, setting{options: Options{Loops: 1}}, func(t *testing.T, w *world) {
		l := w.listen("unix", nil)
		halves := [][]byte{
			request(nbd.CmdWrite, 0, 1, 0, 1<<20)[:13],
			append(request(nbd.CmdWrite, 0, 1, 0, 1<<20), make([]byte, 5000)...),
			append(request(nbd.CmdWrite, 0, 1, 0, 4096), make([]byte, 4095)...),
			append(request(nbd.CmdWrite, 0, 1, diskBytes, 1<<20), make([]byte, 70_000)...), // refused, and not yet skipped
		}
		for _, half := range halves {
			_, err := rawClient(t, l, "a").Write(half)
			must(t, err)
		}
		c := w.dial(l, nbd.ClientOptions{Export: "a"})
		p := bytes.Repeat([]byte{3}, 300_000)
		if _, err := c.WriteAt(p, 1); err != nil {
			t.Error(err)
		}
		got := make([]byte, len(p))
		if _, err := c.ReadAt(got, 1); err != nil || !bytes.Equal(got, p) {
			t.Errorf("%v, or other data", err)
		}
	})
}

func TestBrokenFramingEndsTheConnectionOnly(t *testing.T) {
	eachEngine(t, setting{options: Options{Loops: 1}}, func(t *testing.T, w *world) {
		l := w.listen("tcp", nil)
		c := w.dial(l, nbd.ClientOptions{Export: "a"})
		broken := rawClient(t, l, "a")
		_, err := broken.Write(bytes.Repeat([]byte{0xff}, 100))
		must(t, err)
		if n, err := broken.Read(make([]byte, 1)); err == nil {
			t.Errorf("%d bytes in answer to nonsense", n)
		}
		if _, err := c.WriteAt([]byte{1}, 0); err != nil {
			t.Error(err)
		}
	})
}

func TestWhoDoesNotNegotiateIsCutOff(t *testing.T) {
	eachEngine(t, setting{options: Options{HandshakeTimeout: time.Second}}, func(t *testing.T, w *world) { // a busy machine takes its time to negotiate
		l := w.listen("tcp", nil)
		c := w.dial(l, nbd.ClientOptions{Export: "a"})
		silent, err := net.Dial("tcp", l.Addr().String())
		must(t, err)
		defer silent.Close()
		if _, err := io.ReadAll(silent); err != nil && !strings.Contains(err.Error(), "reset") {
			t.Error(err)
		}
		if err := c.Flush(); err != nil { // it came before the one that was cut off
			t.Errorf("who negotiated is cut off too: %v", err)
		}
	})
}

// resident is the memory of this process, in bytes.
func resident(t testing.TB) int {
	t.Helper()
	for range 3 { // what lies in pools goes with the second or third collection
		debug.FreeOSMemory()
	}
	status, err := os.ReadFile("/proc/self/status")
	must(t, err)
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	must(t, err)
	return kib << 10
}

// Clients that ask for data and do not take it get to ask no more, and cost what the bounds say.
func TestClientsThatNeverReadCostBoundedMemory(t *testing.T) {
	eachEngine(t, setting{}, func(t *testing.T, w *world) {
		must(t, os.WriteFile(w.path, bytes.Repeat([]byte{1}, diskBytes), 0o600))
		l := w.listen("unix", nil)
		const greedy, length = 4, 1 << 20
		before := resident(t)
		for range greedy {
			c := rawClient(t, l, "a")
			must(t, c.SetWriteDeadline(time.Now().Add(500*time.Millisecond)))
			asked := 0
			for i := range uint64(20_000) { // 20 GB
				if _, err := c.Write(request(nbd.CmdRead, 0, i, 0, length)); err != nil {
					break
				}
				asked++
			}
			if asked == 20_000 {
				t.Error("a client that takes no answers may ask for ever")
			}
		}
		// What a connection may have under way, and what waits to be sent to it, twice for the collector's slack.
		most := greedy * 2 * (underWayBytesMax + length + 8<<20)
		if grown := resident(t) - before; grown > most {
			t.Errorf("%d MiB more for %d clients", grown>>20, greedy)
		}
		if _, err := w.dial(l, nbd.ClientOptions{Export: "a"}).ReadAt(make([]byte, length), 0); err != nil {
			t.Errorf("a client that reads: %v", err)
		}
	})
}

func TestMoreConnectionsThanAllowedWaitForOthersToEnd(t *testing.T) {
	eachEngine(t, setting{options: Options{ConnsMax: 2}}, func(t *testing.T, w *world) {
		l := w.listen("unix", nil)
		first, second := rawClient(t, l, "a"), rawClient(t, l, "a")
		served := make(chan struct{})
		go func() {
			defer close(served)
			rawClient(t, l, "a")
		}()
		select {
		case <-served:
			t.Error("a third of two was served")
		case <-time.After(50 * time.Millisecond):
		}
		must(t, first.Close())
		<-served
		must(t, second.Close())
	})
}
