package uring

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func fakeLoop(t testing.TB, f *fake, o Options) *Loop {
	t.Helper()
	o.kernel = f
	l, err := NewLoop(o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// finishing completes pending requests until stop is called.
func finishing(f *fake, result func(SQE) int32) (stop func()) {
	done, gone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		for {
			select {
			case <-done:
				return
			default:
				if f.finish(result) == 0 {
					runtime.Gosched()
				}
			}
		}
	}()
	return func() { close(done); <-gone }
}

// Whatever the kernel's mood, every request gets its own result, once.
func TestLoopKeepsTheProtocolWhateverTheKernelsMood(t *testing.T) {
	for seed := range uint64(30) {
		f := newFake(seed)
		f.moody = seed%3 != 0
		f.begin = func(e SQE) (int32, bool) { return int32(e.Len), f.random.IntN(2) == 0 }
		l := fakeLoop(t, f, Options{Entries: 4, CQEntries: 8})
		stop := finishing(f, func(e SQE) int32 { return int32(e.Len) })
		var wg sync.WaitGroup
		for w := range 8 {
			wg.Go(func() {
				for i := range 50 {
					want := w*1000 + i
					e := SQE{Opcode: OpNop, Len: uint32(want)}
					if got, err := l.Do(e); got != want || err != nil {
						t.Errorf("seed %d: got %d, %v, want %d", seed, got, err, want)
					}
				}
			})
		}
		wg.Wait()
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		stop()
		f.verdict(t)
	}
}

func TestCancelOfACompletedRequestReachesNobody(t *testing.T) {
	f := newFake(1)
	f.begin = func(e SQE) (int32, bool) { return 0, e.Len == 1 }
	l := fakeLoop(t, f, Options{})
	onLoop := func(do func()) {
		done := make(chan struct{})
		if err := l.Post(func() { do(); close(done) }); err != nil {
			t.Fatal(err)
		}
		<-done
	}
	first := make(chan int32, 1)
	var old, fresh uint64
	onLoop(func() {
		e := l.Begin(Handler(func(res int32, _ CQEFlags) { first <- res }))
		e.Opcode = OpNop
		old = e.UserData
	})
	<-first
	second := make(chan int32, 1)
	onLoop(func() {
		e := l.Begin(Handler(func(res int32, _ CQEFlags) { second <- res }))
		e.Opcode, e.Len = OpNop, 1 // stays pending
		fresh = e.UserData
		l.Cancel(old)
	})
	if uint32(old) != uint32(fresh) || old == fresh {
		t.Fatalf("tokens %#x and %#x should share a slot and differ", old, fresh)
	}
	onLoop(func() {}) // a round has passed
	select {
	case res := <-second:
		t.Fatalf("the cancel of another request ended this one with %d", res)
	default:
	}
	onLoop(func() { l.Cancel(fresh) })
	if res := <-second; unix.Errno(-res) != unix.ECANCELED {
		t.Errorf("cancelled with %d", res)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	f.verdict(t)
}

func TestALoopThatClosesFinishesWhatItHas(t *testing.T) {
	for seed := range uint64(20) {
		f := newFake(seed)
		f.begin = func(SQE) (int32, bool) { return 7, true }
		l := fakeLoop(t, f, Options{Entries: 4})
		stop := finishing(f, func(SQE) int32 { return 7 })
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for {
					switch n, err := l.Do(SQE{Opcode: OpNop}); {
					case errors.Is(err, ErrClosed):
						return
					case err != nil || n != 7:
						t.Errorf("got %d, %v", n, err)
						return
					}
				}
			})
		}
		runtime.Gosched()
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		wg.Wait()
		stop()
		f.verdict(t)
	}
}

// stream is the far side of a socket on the fake kernel: what it says arrives in random pieces, what it hears is kept. It takes sends in
// pieces too, and is sometimes cancelled just when something has arrived.
type stream struct {
	f     *fake
	fd    int32
	say   []byte
	heard bytes.Buffer
	ended bool
}

// step lets something happen on the stream: bytes arrive for a pending receive, or the kernel lets go of what it has sent. It reports
// whether anything did.
func (s *stream) step() bool {
	f := s.f
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.random.IntN(4) == 0 && f.notify() { // late: most of the time something else happens first
		return true
	}
	for _, e := range f.pending {
		if e.Opcode != OpRecv || e.FD != s.fd {
			continue
		}
		s.arrive(e)
		f.changed.Broadcast()
		return true
	}
	return f.notify()
}

// arrive completes a receive with some bytes, the end, or want of buffers.
func (s *stream) arrive(e SQE) {
	f := s.f
	if len(s.say) == 0 {
		s.ended = true
		f.end(e, 0, 0)
		return
	}
	n := 1 + f.random.IntN(len(s.say))
	if e.Flags&BufferSelect == 0 { // in place, all of it
		n = min(int(e.Len), len(s.say))
		copy(memoryAt(e.Addr, n), s.say[:n])
		s.say = s.say[n:]
		f.end(e, int32(n), 0)
		return
	}
	id, n, ok := f.receive(e.BufIndex, s.say[:n])
	if !ok {
		f.end(e, -int32(unix.ENOBUFS), 0)
		return
	}
	s.say = s.say[n:]
	flags := CQEBuffer | CQEFlags(id)<<cqeBufferShift
	if e.IOPrio&recvMultishot != 0 && f.random.IntN(8) > 0 {
		f.complete(e, int32(n), flags|CQEMore)
		return
	}
	f.end(e, int32(n), flags)
}

// begin takes what the program asks of the socket.
func (s *stream) begin(e SQE) (int32, bool) {
	switch e.Opcode {
	case OpSend:
		return s.hear(memoryAt(e.Addr, int(e.Len))), false
	case OpSendZC:
		p := memoryAt(e.Addr, int(e.Len))
		s.f.sendZC(e, [][]byte{p}, s.hear(p))
		return 0, true
	case OpSendmsg, OpSendmsgZC:
		pieces := iovecs((*unix.Msghdr)(pointerTo(e.Addr)))
		if e.Opcode == OpSendmsgZC {
			s.f.sendZC(e, pieces, s.hear(bytes.Join(pieces, nil)))
			return 0, true
		}
		return s.hear(bytes.Join(pieces, nil)), false
	case OpRecv, OpTimeout:
		return 0, true
	default:
		return 0, false
	}
}

func (s *stream) hear(p []byte) int32 {
	n := 1 + s.f.random.IntN(len(p))
	s.heard.Write(p[:n])
	return int32(n)
}

// A link on the fake kernel echoes everything, in whatever pieces it comes and goes, with hardly any buffers.
func TestLinkKeepsTheProtocolInEveryMode(t *testing.T) {
	for seed := range uint64(60) {
		f := newFake(seed)
		f.moody = seed%2 == 1
		random := rand.New(rand.NewPCG(seed, 3))
		want := make([]byte, 1+random.IntN(20_000))
		for i := range want {
			want[i] = byte(random.Uint32())
		}
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0) // only for its number: no byte goes through it
		if err != nil {
			t.Fatal(err)
		}
		far := &stream{f: f, fd: int32(fds[0]), say: bytes.Clone(want)}
		f.begin = far.begin
		stack, err := NewStack(StackOptions{Buffers: 1 << random.IntN(3), BufferBytes: 1 + random.IntN(500), Ring: Options{Entries: 8, CQEntries: 16, kernel: f}})
		if err != nil {
			t.Fatal(err)
		}
		closed := make(chan error, 1)
		server := &Server{stack: stack, emptied: make(chan struct{}), links: map[*Link]struct{}{},
			options: ServerOptions{ConnsMax: 1, QueuedBytesMax: 1 + random.IntN(2000), CloseTimeout: closeTimeoutDefault, SingleReceives: seed%4 == 2, ZeroCopyMin: int(seed % 3)}}
		server.acceptor = acceptor{loop: stack.loop, closed: true}
		server.service = service(func(l *Link) Session { return fickle(l, seed, closed) })
		if err := stack.loop.Post(func() { server.open(fds[0], server.service) }); err != nil {
			t.Fatal(err)
		}
		for done := false; !done; {
			select {
			case err := <-closed:
				if err != nil {
					t.Errorf("seed %d: closed with %v", seed, err)
				}
				done = true
			default:
				if !far.step() {
					f.finishTimers()
					runtime.Gosched()
				}
			}
		}
		unix.Close(fds[1])
		f.mu.Lock()
		g := f.groups[stackGroup]
		f.refill(g)
		if len(g.owned) != len(g.ring) {
			t.Errorf("seed %d: %d of %d buffers came back", seed, len(g.owned), len(g.ring))
		}
		f.mu.Unlock()
		if err := stack.Close(); err != nil {
			t.Error(err)
		}
		if !bytes.Equal(far.heard.Bytes(), want) {
			t.Errorf("seed %d: said %d bytes, heard %d, or they differ", seed, len(want), far.heard.Len())
		}
		f.verdict(t)
		if t.Failed() {
			return
		}
	}
}

// finishTimers lets a short time-out pass.
func (f *fake) finishTimers() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range f.pending {
		if e.Opcode == OpTimeout && (*timespec)(pointerTo(e.Addr)).Sec == 0 {
			f.end(e, -int32(unix.ETIME), 0)
			f.changed.Broadcast()
			return
		}
	}
}

// poisoned is a buffer that is worth nothing once it was given back.
type poisoned []byte

// Release implements Releaser.
func (p poisoned) Release() {
	for i := range p {
		p[i] = 0xdb
	}
}

// fickle echoes, now by copying, now in place, now after a pause.
func fickle(l *Link, seed uint64, closed chan error) Session {
	random := rand.New(rand.NewPCG(seed, 4))
	s := &session{link: l, closed: func(err error) { closed <- err }}
	s.received = func(p []byte) int {
		n := 1 + random.IntN(len(p))
		switch random.IntN(4) {
		case 0:
			l.Send(p[:n], l.Hold())
		case 1:
			own := poisoned(bytes.Clone(p[:n]))
			l.Send(own, own)
		default:
			l.Write(p[:n])
		}
		if random.IntN(10) == 0 {
			l.Pause()
			l.Loop().After(1, l.Resume)
		}
		return n
	}
	s.filled = func(p []byte) { l.Send(p, nil) }
	return s
}

func TestAConnThatIsClosedLeavesItsDescriptorToTheNext(t *testing.T) {
	s := newStack(t, StackOptions{})
	for range 300 {
		a, b, stop, err := pair(s)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			p := bytes.Repeat([]byte("a"), 1<<20) // more than the socket holds, so that the ring has it when the close comes
			if _, err := a.Write(p); err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
				t.Error(err)
			}
		})
		wg.Go(func() { a.Close() })
		c, d, stop2, err := pair(s) // may get a's number
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(c, "x")
		got := make([]byte, 2)
		if n, err := d.Read(got); n != 1 || got[0] != 'x' {
			t.Fatalf("another connection's bytes: %q, %v", got[:n], err)
		}
		b.Close()
		wg.Wait()
		stop()
		stop2()
	}
}

func TestEveryReaderIsToldOfData_EndAndClose(t *testing.T) {
	s := newStack(t, StackOptions{BufferBytes: 16})
	a, b, stop, err := pair(s)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	const readers = 4
	var wg sync.WaitGroup
	var mu sync.Mutex
	total := 0
	for range readers {
		wg.Go(func() {
			p := make([]byte, 1)
			for {
				n, err := b.Read(p)
				mu.Lock()
				total += n
				mu.Unlock()
				if err != nil {
					if !errors.Is(err, io.EOF) {
						t.Error(err)
					}
					return
				}
			}
		})
	}
	if _, err := a.Write(make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	if err := a.(*Conn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if total != 1000 {
		t.Errorf("%d of 1000 bytes were read", total)
	}
	// And those who wait when it is closed.
	c, d, stop2, err := pair(s)
	if err != nil {
		t.Fatal(err)
	}
	defer stop2()
	_ = c
	for range readers {
		wg.Go(func() {
			if _, err := d.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
				t.Errorf("got %v", err)
			}
		})
	}
	d.Close()
	wg.Wait()
}

func TestSocketsOnAnOldKernelAreRefusedInTheOpen(t *testing.T) {
	f := newFake(1)
	f.old = true
	_, err := NewStack(StackOptions{Ring: Options{kernel: f}})
	if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "6.0") {
		t.Errorf("got %v", err)
	}
	f.verdict(t)
}

func TestNoTokenIsZero(t *testing.T) {
	var s slots
	first := s.take(Handler(func(int32, CQEFlags) {}))
	s.all[0].use = ^uint32(0) // as after four thousand million requests
	s.free(s.token(0))
	if again := s.take(Handler(func(int32, CQEFlags) {})); first == 0 || again == 0 {
		t.Errorf("tokens %d and %d", first, again)
	}
}
