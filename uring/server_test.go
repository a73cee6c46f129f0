package uring

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// service makes sessions by a function.
type service func(l *Link) Session

func (s service) Accept(l *Link) Session { return s(l) }

// session is a Session of functions; the missing ones do what is usual.
type session struct {
	link     *Link
	received func(p []byte) int
	filled   func(p []byte)
	closed   func(err error)
}

func (s *session) Received(p []byte) int { return s.received(p) }
func (s *session) Filled(p []byte)       { s.filled(p) }
func (s *session) Ended()                { s.link.Close() }
func (s *session) Closed(err error) {
	if s.closed != nil {
		s.closed(err)
	}
}

func echo(l *Link) Session {
	return &session{link: l, received: func(p []byte) int {
		if len(p)%2 == 0 {
			l.Send(p, l.Hold())
		} else {
			l.Write(p)
		}
		return len(p)
	}}
}

func listen(t testing.TB, network string) net.Listener {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(t.TempDir(), "s")
	}
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func serve(t testing.TB, so StackOptions, o ServerOptions, network string, s service) *Server {
	t.Helper()
	server, err := newStack(t, so).Serve(listen(t, network), s, o)
	if err != nil {
		t.Fatal(err)
	}
	return server
}

func dial(t testing.TB, s *Server) net.Conn {
	t.Helper()
	c, err := net.Dial(s.Addr().Network(), s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// echoes sends random data in random pieces and checks that it comes back.
func echoes(c net.Conn, size int, seed uint64) error {
	random := rand.New(rand.NewPCG(seed, 1))
	want := make([]byte, size)
	for i := range want {
		want[i] = byte(random.Uint32())
	}
	sent := make(chan error, 1)
	go func() {
		for rest := want; len(rest) > 0; {
			n := min(len(rest), 1+random.IntN(40<<10))
			if _, err := c.Write(rest[:n]); err != nil {
				sent <- err
				return
			}
			rest = rest[n:]
		}
		sent <- c.(interface{ CloseWrite() error }).CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err = errors.Join(err, <-sent); err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("%d bytes came back, %d were sent, or they differ", len(got), len(want))
	}
	return nil
}

func TestServerEchoesEverythingInEveryMode(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		for name, o := range map[string]ServerOptions{"multishot": {}, "single": {SingleReceives: true}, "zero-copy": {ZeroCopyMin: 1}, "tight": {QueuedBytesMax: 1}} {
			for _, so := range []StackOptions{{}, {Buffers: 2, BufferBytes: 100}} {
				t.Run(fmt.Sprintf("%s-%s-%d", network, name, so.Buffers), func(t *testing.T) {
					s := serve(t, so, o, network, echo)
					var wg sync.WaitGroup
					for i := range 8 {
						c := dial(t, s)
						wg.Go(func() {
							if err := echoes(c, 300<<10, uint64(i)); err != nil {
								t.Error(err)
							}
						})
					}
					wg.Wait()
				})
			}
		}
	}
}

// lengthPrefixed answers each message of 4 bytes length and a body with its body, receiving the bodies by Fill.
func lengthPrefixed(l *Link) Session {
	s := &session{link: l}
	var head []byte
	s.received = func(p []byte) int {
		n := min(len(p), 4-len(head))
		head = append(head, p[:n]...)
		if len(head) == 4 {
			size := int(head[0])<<16 | int(head[1])<<8 | int(head[2])
			head = head[:0]
			l.Fill(make([]byte, size))
			return n
		}
		return n
	}
	s.filled = func(p []byte) { l.Send(p, nil) }
	return s
}

func TestFillPutsTheBodyWhereTheSessionWantsIt(t *testing.T) {
	for _, so := range []StackOptions{{}, {Buffers: 4, BufferBytes: 512}} {
		for _, o := range []ServerOptions{{}, {SingleReceives: true}} {
			s := serve(t, so, o, "tcp", lengthPrefixed)
			c := dial(t, s)
			random := rand.New(rand.NewPCG(7, 7))
			var want, wire []byte
			for range 200 {
				body := make([]byte, random.IntN(20<<10)*random.IntN(2))
				for i := range body {
					body[i] = byte(random.Uint32())
				}
				wire = append(wire, byte(len(body)>>16), byte(len(body)>>8), byte(len(body)), 0)
				wire = append(wire, body...)
				want = append(want, body...)
			}
			go c.Write(wire)
			got := make([]byte, len(want))
			if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
				t.Errorf("bodies differ: %v", err)
			}
		}
	}
}

func TestAPeerThatDoesNotReadGetsToAskNoMore(t *testing.T) {
	const limit = 64 << 10
	var most atomic.Int64
	s := serve(t, StackOptions{}, ServerOptions{QueuedBytesMax: limit}, "tcp", func(l *Link) Session {
		return &session{link: l, received: func(p []byte) int {
			l.Write(p)
			most.Store(max(most.Load(), int64(l.Queued())))
			return len(p)
		}}
	})
	c := dial(t, s)
	c.SetWriteDeadline(time.Now().Add(time.Second))
	sent, err := io.Copy(c, io.LimitReader(zeros{}, 1<<30))
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("sent %d bytes to a server whose answers nobody reads: %v", sent, err)
	}
	// What one round brings may come on top of the limit, never more.
	if got := most.Load(); got > limit+4<<20 {
		t.Errorf("%d bytes were queued, the limit is %d", got, limit)
	}
}

// Many small requests fit into one receive buffer; their answers must not all be queued at once.
func TestAHandfulOfReceivedRequestsDoesNotQueueMoreThanTheBound(t *testing.T) {
	const answer, bound, requests = 100_000, 250_000, 2000
	most := 0
	s := serve(t, StackOptions{}, ServerOptions{QueuedBytesMax: bound}, "unix", func(l *Link) Session {
		return &session{link: l, received: func([]byte) int {
			l.Send(make([]byte, answer), nil)
			most = max(most, l.Queued())
			return 1
		}}
	})
	c := dial(t, s)
	if _, err := c.Write(make([]byte, requests)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, c, requests*answer); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil { // then most is ours
		t.Fatal(err)
	}
	if most > bound+answer {
		t.Errorf("%d bytes were queued, the bound is %d", most, bound)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestWhatASessionDoesNotTakeComesAgainAfterResume(t *testing.T) {
	var got []byte
	done := make(chan struct{})
	s := serve(t, StackOptions{BufferBytes: 64}, ServerOptions{}, "tcp", func(l *Link) Session {
		return &session{link: l, received: func(p []byte) int {
			got = append(got, p[0]) // one byte at a time
			l.Pause()
			l.Loop().After(0, l.Resume)
			if len(got) == 500 {
				close(done)
			}
			return 1
		}}
	})
	c := dial(t, s)
	want := make([]byte, 500)
	for i := range want {
		want[i] = byte(i)
	}
	if _, err := c.Write(want); err != nil {
		t.Fatal(err)
	}
	<-done
	if !bytes.Equal(got, want) {
		t.Error("bytes were lost, repeated or reordered")
	}
}

func TestAPanicEndsItsConnectionOnly(t *testing.T) {
	reason := make(chan error, 1)
	s := serve(t, StackOptions{}, ServerOptions{}, "tcp", func(l *Link) Session {
		return &session{link: l, closed: func(err error) {
			if err != nil {
				reason <- err
			}
		}, received: func(p []byte) int {
			if string(p) == "boom" {
				panic("boom")
			}
			l.Write(p)
			return len(p)
		}}
	})
	good, bad := dial(t, s), dial(t, s)
	fmt.Fprint(bad, "boom")
	if err := <-reason; !strings.Contains(err.Error(), "boom") {
		t.Errorf("closed with %v", err)
	}
	if _, err := bad.Read(make([]byte, 1)); err == nil {
		t.Error("the connection of the session that panicked is open")
	}
	if err := echoes(good, 1000, 1); err != nil {
		t.Errorf("another connection suffered: %v", err)
	}
}

func TestCloseSendsWhatIsQueuedThenGivesUp(t *testing.T) {
	const size = 8 << 20
	reasons := make(chan error, 2)
	s := serve(t, StackOptions{}, ServerOptions{CloseTimeout: 2 * time.Second}, "tcp", func(l *Link) Session {
		return &session{link: l, closed: func(err error) { reasons <- err }, received: func(p []byte) int {
			l.Send(make([]byte, size), nil)
			l.Close()
			return len(p)
		}}
	})
	reader, silent := dial(t, s), dial(t, s)
	fmt.Fprint(reader, "x")
	if n, err := io.Copy(io.Discard, reader); n != size || err != nil {
		t.Errorf("received %d of %d bytes: %v", n, size, err)
	}
	if err := <-reasons; err != nil {
		t.Errorf("closed with %v", err)
	}
	fmt.Fprint(silent, "x")
	if err := <-reasons; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a peer that reads nothing was closed with %v", err)
	}
}

func TestDetachHandsOverTheConnectionAndItsUnreadBytes(t *testing.T) {
	type result struct {
		fd     int
		unread string
	}
	results := make(chan result, 1)
	s := serve(t, StackOptions{}, ServerOptions{}, "tcp", func(l *Link) Session {
		return &session{link: l, received: func(p []byte) int {
			l.Write([]byte("ready"))
			l.Detach(func(fd int, unread []byte) { results <- result{fd, string(unread)} })
			return 5
		}}
	})
	c := dial(t, s)
	fmt.Fprint(c, "start and more")
	r := <-results
	f := os.NewFile(uintptr(r.fd), "detached")
	defer f.Close()
	fmt.Fprint(f, ", steady")
	f.Close()
	got, err := io.ReadAll(c)
	if r.unread != " and more" || string(got) != "ready, steady" || err != nil {
		t.Errorf("unread %q, got %q, %v", r.unread, got, err)
	}
}

func TestMoreConnectionsThanAllowedWaitAndAreServedLater(t *testing.T) {
	s := serve(t, StackOptions{}, ServerOptions{ConnsMax: 2}, "tcp", echo)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			c, err := net.Dial("tcp", s.Addr().String())
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			if err := echoes(c, 10_000, uint64(i)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestClosingAServerTellsEverySession(t *testing.T) {
	const conns = 10
	var open, closed sync.WaitGroup
	open.Add(conns)
	closed.Add(conns)
	s := serve(t, StackOptions{}, ServerOptions{}, "tcp", func(l *Link) Session {
		open.Done()
		return &session{link: l, received: func(p []byte) int { return len(p) }, closed: func(err error) {
			if !errors.Is(err, net.ErrClosed) {
				t.Errorf("closed with %v", err)
			}
			closed.Done()
		}}
	})
	for range conns {
		dial(t, s)
	}
	open.Wait()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	closed.Wait()
}
