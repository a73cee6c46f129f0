package nbd

import (
	"encoding/binary"
	"testing"
)

// tape is a Wire that records, and follows the rules of one that is slow: what was released is checked.
type tape struct {
	t       testing.TB
	conn    *Conn
	out     []byte
	fill    []byte
	paused  bool
	closed  bool
	aborted error
}

func (w *tape) Write(p []byte) (int, error) { w.out = append(w.out, p...); return len(p), nil }
func (w *tape) Send(p []byte, done Releaser) {
	w.out = append(w.out, p...)
	done.Release()
}
func (w *tape) Fill(p []byte) {
	if w.fill != nil || len(p) == 0 {
		w.t.Fatal("Fill before the last one was filled, or of nothing")
	}
	w.fill = p
}
func (w *tape) Pause() { w.paused = true }
func (w *tape) Resume() {
	if !w.paused {
		w.t.Fatal("Resume without Pause")
	}
	w.paused = false
}
func (w *tape) Close()             { w.closed = true }
func (w *tape) Abort(reason error) { w.aborted = reason }

// feed gives bytes to the Conn as a Wire would.
func (w *tape) feed(p []byte) {
	for len(p) > 0 && !w.closed && w.aborted == nil {
		if w.fill != nil {
			n := copy(w.fill, p)
			p = p[n:]
			if n < len(w.fill) {
				w.fill = w.fill[n:]
				return
			}
			full := w.fill
			w.fill = nil
			w.conn.Filled(full)
			continue
		}
		if w.paused {
			return // nothing is done here by itself, so nobody would resume
		}
		n := w.conn.Received(p)
		if n < 0 || n > len(p) || n == 0 && !w.paused {
			w.t.Fatalf("took %d of %d bytes", n, len(p))
		}
		p = p[n:]
	}
}

// lent is a Memory that counts.
type lent struct{ out, bytes int }

func (m *lent) Get(n int) *Buffer {
	m.out++
	m.bytes += n
	return &Buffer{Whole: make([]byte, HeadRoom+n)}
}

func (m *lent) Put(b *Buffer) {
	m.out--
	m.bytes -= len(b.Whole) - HeadRoom
}

// instant is a Device that does nothing, at once, and checks that requests are what was promised.
type instant struct {
	t    testing.TB
	size uint64
	held []*Request
	hold bool
}

func (d *instant) Info() Info   { return Info{Flags: everything, Status: true} }
func (d *instant) Size() uint64 { return d.size }
func (d *instant) Start(r *Request) {
	if r.Offset > d.size || uint64(r.Length) > d.size-r.Offset || len(r.Data) != 0 && len(r.Data) != int(r.Length) || r.Command > CmdBlockStatus {
		d.t.Fatalf("device was given %v of %d bytes at %d with %d bytes of data", r.Command, r.Length, r.Offset, len(r.Data))
	}
	if d.hold {
		d.held = append(d.held, r)
		return
	}
	r.Done(nil)
}

func newTape(t testing.TB, d Device, m Memory, l Limits) *tape {
	w := &tape{t: t}
	info, err := d.Info().normal()
	if err != nil {
		t.Fatal(err)
	}
	info.Flags |= FlagDF | FlagHasFlags
	w.conn, err = NewConn(Result{Device: d, Info: info, Structured: true, Status: true}, w, ConnOptions{Memory: m, Limits: l})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestAConnectionAtItsLimitsTakesNoMore(t *testing.T) {
	d, m := &instant{t: t, size: 1 << 20, hold: true}, &lent{}
	w := newTape(t, d, m, Limits{Requests: 4, Bytes: 10_000})
	var say []byte
	for i := range 10 {
		say = append(say, requestHead(CmdRead, 0, uint64(i), 0, 4096)...)
	}
	w.feed(say)
	if len(d.held) != 3 || !w.paused || m.bytes != 3*4096 {
		t.Fatalf("%d requests with %d bytes are under way, paused %v", len(d.held), m.bytes, w.paused)
	}
	d.held[0].Done(nil)
	if w.paused {
		t.Error("still paused with room for one more")
	}
	d.held[1].Done(nil)
	d.held[2].Done(nil)
	if m.out != 0 {
		t.Errorf("%d buffers were not given back", m.out)
	}
}

func TestALargePayloadIsReceivedInPlace(t *testing.T) {
	d := &instant{t: t, size: 1 << 20, hold: true}
	w := newTape(t, d, &lent{}, Limits{})
	payload := make([]byte, 100_000)
	for i := range payload {
		payload[i] = byte(i)
	}
	w.feed(append(requestHead(CmdWrite, 0, 1, 0, 100_000), payload[:1000]...))
	if len(w.fill) != 99_000 {
		t.Fatalf("asks for %d bytes", len(w.fill))
	}
	w.feed(payload[1000:])
	if len(d.held) != 1 || string(d.held[0].Data) != string(payload) {
		t.Error("the device has other data")
	}
	d.held[0].Done(nil)
}

func TestTheDeviceMayFinishAfterTheConnectionIsGone(t *testing.T) {
	d, m := &instant{t: t, size: 1 << 20, hold: true}, &lent{}
	idle := false
	w := newTape(t, d, m, Limits{})
	w.conn.idle = func() { idle = true }
	w.feed(append(requestHead(CmdRead, 0, 1, 0, 4096), requestHead(CmdWrite, 0, 2, 0, 4096)...))
	w.conn.Closed(nil)
	if idle {
		t.Error("idle with a request under way")
	}
	d.held[0].Done(nil)
	if !idle || m.out != 0 || len(w.out) != 0 {
		t.Errorf("idle %v, %d buffers out, %d bytes said to nobody", idle, m.out, len(w.out))
	}
}

func TestWhatIsRefusedIsSkippedWhole(t *testing.T) {
	d, m := &instant{t: t, size: 4096}, &lent{}
	w := newTape(t, d, m, Limits{})
	// Far more than any limit: answered, skipped without a buffer, and the next request is understood.
	say := requestHead(CmdWrite, 0, 1, 0, 40<<20)
	w.feed(say)
	for range 40 {
		w.feed(make([]byte, 1<<20))
	}
	w.feed(requestHead(CmdFlush, 0, 2, 0, 0))
	if w.aborted != nil || m.out != 0 || binary.BigEndian.Uint64(w.out[len(w.out)-8:]) != 2 {
		t.Errorf("aborted with %v", w.aborted)
	}
}

func FuzzTransmission(f *testing.F) {
	f.Add(append(requestHead(CmdWrite, 0, 1, 0, 5), "hello"...), uint16(3))
	f.Add(append(requestHead(CmdRead, CmdFlagDF, 1, 100, 5000), requestHead(CmdDisc, 0, 0, 0, 0)...), uint16(28))
	f.Add(append(requestHead(CmdBlockStatus, CmdFlagReqOne, 1, 0, 5), requestHead(CmdTrim, CmdFlagFUA, 7, 512, 512)...), uint16(9))
	f.Add(requestHead(CmdWrite, 0, 1, 0, 1<<31), uint16(1000))
	f.Fuzz(func(t *testing.T, p []byte, cut uint16) {
		m := &lent{}
		w := newTape(t, &instant{t: t, size: 1 << 20}, m, Limits{Requests: 4, Bytes: 1 << 16})
		for len(p) > 0 {
			k := min(len(p), 1+int(cut))
			w.feed(p[:k])
			p = p[k:]
			if m.bytes > 1<<16+payloadDefault {
				t.Fatalf("holds %d bytes", m.bytes)
			}
		}
		w.conn.Closed(nil)
		if m.out != 0 {
			t.Fatalf("%d buffers were not given back", m.out)
		}
	})
}
