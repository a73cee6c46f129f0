package nbd

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// start runs a server on a unix socket.
func start(t testing.TB, s *Server) (address string) {
	t.Helper()
	s.Log = slog.New(slog.DiscardHandler)
	address = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", address)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := <-served; !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
	return address
}

func connect(t testing.TB, address string, o ClientOptions) *Client {
	t.Helper()
	c, err := Dial(t.Context(), "unix", address, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestRandomRequestsBehaveLikeAModel(t *testing.T) {
	for name, o := range map[string]ClientOptions{"structured": {}, "simple": {Simple: true}} {
		t.Run(name, func(t *testing.T) {
			const size = 1 << 20
			_, d := memoryDevice(size)
			c := connect(t, start(t, &Server{Exports: exports{"": d}}), o)
			model := make([]byte, size)
			random := rand.New(rand.NewPCG(1, 2))
			for range 2000 {
				n := 1 + random.IntN(100_000)
				off := random.IntN(size - n)
				var err error
				switch random.IntN(6) {
				case 0, 1:
					p := make([]byte, n)
					for i := range p {
						p[i] = byte(random.Uint32())
					}
					copy(model[off:], p)
					_, err = c.Write(p, int64(off), CommandFlags(random.IntN(2)))
				case 2, 3:
					p := make([]byte, n)
					_, err = c.ReadAt(p, int64(off))
					if !bytes.Equal(p, model[off:off+n]) {
						t.Fatalf("read of %d at %d returned other data", n, off)
					}
				case 4:
					clear(model[off : off+n])
					err = c.WriteZeroes(int64(off), uint32(n), CmdFlagNoHole*CommandFlags(random.IntN(2)))
				case 5:
					err = c.Flush()
				}
				if err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func TestManyRequestsAtOnceOverSmallLimits(t *testing.T) {
	const size, workers = 4 << 20, 32
	_, d := memoryDevice(size)
	c := connect(t, start(t, &Server{Exports: exports{"": d}, Limits: Limits{Requests: 3, Bytes: 1}}), ClientOptions{})
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			const part = size / workers
			want := bytes.Repeat([]byte{byte(w + 1)}, part)
			for step, off := 37_000, 0; off < part; off += step {
				if _, err := c.WriteAt(want[off:min(part, off+step)], int64(w*part+off)); err != nil {
					t.Error(err)
					return
				}
			}
			got := make([]byte, part)
			if _, err := c.ReadAt(got, int64(w*part)); err != nil || !bytes.Equal(got, want) {
				t.Errorf("worker %d reads other data: %v", w, err)
			}
		})
	}
	wg.Wait()
}

func TestBlockStatusTellsHolesFromData(t *testing.T) {
	const size = 1 << 20
	_, d := memoryDevice(size)
	c := connect(t, start(t, &Server{Exports: exports{"": d}}), ClientOptions{})
	if _, err := c.WriteAt(make([]byte, 4096), 65536); err != nil {
		t.Fatal(err)
	}
	got, err := c.BlockStatus(0, size, 0)
	want := []Extent{{65536, StatusHole | StatusZero}, {4096, 0}, {size - 65536 - 4096, StatusHole | StatusZero}}
	if err != nil || len(got) != 3 || got[0] != want[0] || got[1] != want[1] || got[2] != want[2] {
		t.Errorf("got %v, %v", got, err)
	}
	got, err = c.BlockStatus(1024, 4096, CmdFlagReqOne)
	if err != nil || len(got) != 1 || got[0] != (Extent{4096, StatusHole | StatusZero}) {
		t.Errorf("one extent: got %v, %v", got, err)
	}
}

func TestErrorsHaveANumberAndAText(t *testing.T) {
	const size = 1 << 16
	m, d := memoryDevice(size)
	readOnly := NewBlocking(m, Info{Flags: FlagReadOnly | FlagFlush}, func() uint64 { return size }, 0)
	blocks := NewBlocking(m, Info{Flags: everything, BlockMin: 512, PayloadMax: 4096}, func() uint64 { return size }, 0)
	address := start(t, &Server{Exports: exports{"": d, "ro": readOnly, "blocks": blocks}})
	c, ro, bl := connect(t, address, ClientOptions{}), connect(t, address, ClientOptions{Export: "ro"}), connect(t, address, ClientOptions{Export: "blocks"})
	p := make([]byte, 100)
	for _, try := range []struct {
		what string
		do   func() error
		want Error
		text string
	}{
		{"read beyond the end", func() error { _, err := c.ReadAt(p, size-50); return err }, Invalid, "beyond the end"},
		{"read far beyond the end", func() error { _, err := c.ReadAt(p, -50); return err }, Invalid, "beyond the end"},
		{"write beyond the end", func() error { _, err := c.WriteAt(p, size-50); return err }, NoSpace, "beyond the end"},
		{"fast zero that would be slow", func() error { return c.WriteZeroes(0, 512, CmdFlagNoHole|CmdFlagFastZero) }, NotSupported, ""},
		{"flag of another command", func() error { _, err := c.Write(p, 0, CmdFlagNoHole); return err }, Invalid, "flags"},
		{"unknown command", func() error { _, err := c.do(9, 0, 0, 0, nil); return err }, Invalid, "not known"},
		{"write to a read-only export", func() error { _, err := ro.WriteAt(p, 0); return err }, NotPermitted, "read-only"},
		{"trim that is not offered", func() error { return ro.Trim(0, 512, 0) }, Invalid, "not offered"},
		{"FUA that is not offered", func() error { _, err := ro.do(CmdFlush, CmdFlagFUA, 0, 0, nil); return err }, Invalid, "flags"},
		{"block status without context", func() error { _, err := ro.BlockStatus(0, 512, 0); return err }, Invalid, "metadata"},
		{"unaligned", func() error { _, err := bl.ReadAt(p[:10], 0); return err }, Invalid, "units of 512"},
		{"too long", func() error { _, err := bl.do(CmdRead, 0, 0, 8192, make([]byte, 8192)); return err }, Invalid, "the most is 4096"},
		{"too long a write", func() error { _, err := bl.do(CmdWrite, 0, 0, 8192, make([]byte, 8192)); return err }, Invalid, "the most is 4096"},
		{"status of nothing", func() error { _, err := c.BlockStatus(0, 0, 0); return err }, Invalid, "nothing"},
	} {
		if err := try.do(); !errors.Is(err, try.want) || !strings.Contains(err.Error(), try.text) {
			t.Errorf("%s: got %v, want %v with %q", try.what, err, try.want, try.text)
		}
	}
	// The connections are as good as before.
	for _, c := range []*Client{c, ro, bl} {
		if _, err := c.ReadAt(make([]byte, 512), 0); err != nil {
			t.Error(err)
		}
	}
}

func TestDeviceErrorsReachTheClient(t *testing.T) {
	m, d := memoryDevice(4096)
	address := start(t, &Server{Exports: exports{"": d}})
	for _, o := range []ClientOptions{{}, {Simple: true}} {
		c := connect(t, address, o)
		m.failWith(errors.New("the disk is on fire"))
		if _, err := c.WriteAt([]byte("x"), 0); !errors.Is(err, IOError) || !o.Simple && !strings.Contains(err.Error(), "on fire") {
			t.Errorf("simple=%v: got %v", o.Simple, err)
		}
		if _, err := c.ReadAt(make([]byte, 10), 0); !errors.Is(err, IOError) {
			t.Errorf("simple=%v: read got %v", o.Simple, err)
		}
		m.failWith(nil)
	}
}

func TestBrokenFramingEndsTheConnection(t *testing.T) {
	_, d := memoryDevice(4096)
	address := start(t, &Server{Exports: exports{"": d}})
	c := connect(t, address, ClientOptions{})
	if _, err := c.conn.Write(make([]byte, requestBytes)); err != nil {
		t.Fatal(err)
	}
	<-c.ended
	if err := c.Flush(); !errors.Is(err, ErrDisconnected) {
		t.Errorf("got %v", err)
	}
}

func TestAClientThatDiesInTheMiddleOfARequestLeavesNothing(t *testing.T) {
	_, d := memoryDevice(1 << 20)
	attached := &counted{Device: d}
	s := &Server{Exports: exports{"": attached}}
	c := connect(t, start(t, s), ClientOptions{})
	if err := c.Flush(); err != nil { // the connection is attached now
		t.Fatal(err)
	}
	if _, err := c.conn.Write(append(requestHead(CmdWrite, 0, 1, 0, 1<<20), make([]byte, 5000)...)); err != nil {
		t.Fatal(err)
	}
	c.conn.Close()
	<-c.ended
	if err := s.Close(); err != nil { // waits for the connection's goroutines
		t.Fatal(err)
	}
	if attached.attached != 1 || attached.detached != 1 {
		t.Errorf("attached %d times, detached %d times", attached.attached, attached.detached)
	}
}

// counted is a Device that counts its connections.
type counted struct {
	Device
	attached, detached int
	refuse             error
}

func (c *counted) Attach(*Conn) error { c.attached++; return c.refuse }
func (c *counted) Detach()            { c.detached++ }

func TestADisconnectWaitsForWhatIsUnderWay(t *testing.T) {
	held := &holding{requests: make(chan *Request, 1)}
	c := connect(t, start(t, &Server{Exports: exports{"": held}}), ClientOptions{})
	answered := make(chan error, 1)
	go func() { answered <- c.Flush() }()
	r := <-held.requests
	if _, err := c.conn.Write(requestHead(CmdDisc, 0, 0, 0, 0)); err != nil {
		t.Fatal(err)
	}
	r.Done(nil)
	if err := <-answered; err != nil {
		t.Errorf("the flush before the disconnect: %v", err)
	}
	<-c.ended
}

// holding is a Device that hands its requests to the test.
type holding struct{ requests chan *Request }

func (h *holding) Info() Info       { return Info{Flags: everything, Status: true} }
func (h *holding) Size() uint64     { return 1 << 20 }
func (h *holding) Start(r *Request) { h.requests <- r }

func TestAnswersMayComeInAnyOrder(t *testing.T) {
	const n = 16
	held := &holding{requests: make(chan *Request, n)}
	c := connect(t, start(t, &Server{Exports: exports{"": held}}), ClientOptions{})
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			p := make([]byte, 100)
			if _, err := c.ReadAt(p, int64(i)); err != nil || p[0] != byte(i) {
				t.Errorf("read %d got %d, %v", i, p[0], err)
			}
		})
	}
	var all []*Request
	for range n {
		all = append(all, <-held.requests)
	}
	rand.Shuffle(n, func(i, j int) { all[i], all[j] = all[j], all[i] })
	for _, r := range all {
		r.Data[0] = byte(r.Offset)
		r.Done(nil)
	}
	wg.Wait()
}

func TestHolesInAReadAreNotSent(t *testing.T) {
	held := &holding{requests: make(chan *Request, 1)}
	address := start(t, &Server{Exports: exports{"": held}})
	for _, o := range []ClientOptions{{}, {Simple: true}} {
		c := connect(t, address, o)
		for name, extents := range map[string][]Extent{
			"hole, data": {{4096, StatusZero | StatusHole}, {4096, 0}}, "all hole": {{8192, StatusZero}}, "data, hole, data": {{1000, 0}, {96, StatusZero}, {7096, 0}},
			"not believed": {{1, StatusZero}},
		} {
			want := bytes.Repeat([]byte{7}, 8192)
			go func() {
				r := <-held.requests
				copy(r.Data, bytes.Repeat([]byte{7}, 8192)) // rubbish where there is a hole
				r.Extents = append(r.Extents, extents...)
				r.Done(nil)
			}()
			if name != "not believed" {
				at := uint64(0)
				for _, e := range extents {
					if e.Flags&StatusZero != 0 {
						clear(want[at : at+e.Length])
					}
					at += e.Length
				}
			}
			got := bytes.Repeat([]byte{9}, 8192)
			if _, err := c.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s, simple=%v: other data, %v", name, o.Simple, err)
			}
		}
	}
}

func TestShutdownTellsClientsAndWaitsForThem(t *testing.T) {
	_, d := memoryDevice(4096)
	s := &Server{Exports: exports{"": d}}
	c := connect(t, start(t, s), ClientOptions{})
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	down := make(chan error, 1)
	go func() { down <- s.Shutdown(t.Context()) }()
	for {
		if err := c.Flush(); errors.Is(err, Shutdown) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	c.Close()
	if err := <-down; err != nil {
		t.Error(err)
	}
}

func TestRefusedAttachmentEndsTheConnection(t *testing.T) {
	_, d := memoryDevice(4096)
	c := connect(t, start(t, &Server{Exports: exports{"": &counted{Device: d, refuse: errors.New("in use")}}}), ClientOptions{})
	// The kernel says "reset" instead of "end" when the request was still unread as the server closed.
	if err := c.Flush(); !errors.Is(err, ErrDisconnected) && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("got %v", err)
	}
}

func TestListAndDescription(t *testing.T) {
	_, d := memoryDevice(4096)
	address := start(t, &Server{Exports: exports{"one": d}})
	conn, err := net.Dial("unix", address)
	if err != nil {
		t.Fatal(err)
	}
	got, err := List(t.Context(), conn, nil)
	if err != nil || len(got) != 1 || got[0] != (Listing{"one", "in memory"}) {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := Dial(t.Context(), "unix", address, ClientOptions{Export: "two"}); err == nil || !strings.Contains(err.Error(), "two") {
		t.Errorf("an export that does not exist: %v", err)
	}
}

func TestTLSModes(t *testing.T) {
	server, client, stranger := certificates(t)
	_, d := memoryDevice(1 << 20)
	for _, try := range []struct {
		name  string
		mode  TLSMode
		c     *tls.Config
		works bool
	}{
		{"off, without", TLSOff, nil, true}, {"off, with", TLSOff, client, false},
		{"optional, without", TLSOptional, nil, true}, {"optional, with", TLSOptional, client, true},
		{"required, without", TLSRequired, nil, false}, {"required, with", TLSRequired, client, true},
		{"required, stranger", TLSRequired, stranger, false},
	} {
		t.Run(try.name, func(t *testing.T) {
			address := start(t, &Server{Exports: exports{"": d}, TLS: server, TLSMode: try.mode})
			c, err := Dial(t.Context(), "unix", address, ClientOptions{TLS: try.c})
			if err == nil {
				// With TLS 1.3 a server's no to the client's certificate comes with the first read.
				want := bytes.Repeat([]byte("godwit"), 50_000)
				_, werr := c.WriteAt(want, 0)
				got := make([]byte, len(want))
				_, rerr := c.ReadAt(got, 0)
				if err = errors.Join(werr, rerr); err == nil && !bytes.Equal(got, want) {
					t.Error("other data came back")
				}
				c.Close()
			}
			if (err == nil) != try.works {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestASilentClientIsCutOffDuringNegotiation(t *testing.T) {
	_, d := memoryDevice(4096)
	address := start(t, &Server{Exports: exports{"": d}, HandshakeTimeout: 1})
	c, err := net.Dial("unix", address)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(c); err != nil {
		t.Errorf("got %v", err)
	}
}
