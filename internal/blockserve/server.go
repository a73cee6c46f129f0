package blockserve

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/nbd"
	"github.com/godwit-cloud/godwit/uring"
)

// Engine is how requests are carried out.
type Engine string

// The engines. Auto is io_uring where the kernel has it, else threads; the other two fail or run as they say.
const (
	Auto    Engine = "auto"
	Ring    Engine = "io_uring"
	Threads Engine = "threads"
)

// Options make a Server. The zero value is good.
type Options struct {
	Engine Engine // Auto if empty
	// Loops is how many loops the connections are spread over; one for each processor if zero, at most loopsMax.
	Loops int
	// ConnsMax is how many connections may be open; more wait in the listeners' backlog. 10,000 if zero.
	ConnsMax int
	// Workers bounds the requests of one connection that run at a time in the threads engine; 64 if zero.
	Workers int
	// HandshakeTimeout bounds the negotiation, and TLS's handshake within it. Ten seconds if zero.
	HandshakeTimeout time.Duration
	Log              *slog.Logger // slog.Default if nil

	fault     func(*nbd.Request) error // tests: the device's error for a request
	syncFault func() error             // tests: the device's error for a sync
	// syncsNothing is the mistake that the tests of power cuts must find: syncs are acknowledged and not done.
	syncsNothing bool
	cancels      func() bool // tests: the kernel cancels a linked sync
}

const (
	connsDefault     = 10_000
	handshakeDefault = 10 * time.Second
	// loopsMax bounds the loops: beyond it, memory for receive buffers is spent and no disk is faster.
	loopsMax = 8
	// asideMax bounds the goroutines that do what the ring has no operation for.
	asideMax = 32
)

// Server serves volumes to NBD clients. Make it with New, give it listeners by Serve, end it with Shutdown or Close.
type Server struct {
	volumes Volumes
	options Options
	log     *slog.Logger
	engine  Engine
	why     string // this engine and no other
	start   time.Time

	lanes   []*lane  // of the ring engine
	threads *threads // of the other

	life    context.Context // ends with Close
	end     context.CancelFunc
	conns   atomic.Int64  // open
	tickets chan struct{} // one for each open connection, and for each acceptor
	asides  chan struct{} // one for each goroutine that works aside
	group   sync.WaitGroup

	closing  sync.Once
	closeErr error // of the first Close

	mu        sync.Mutex // guards what follows
	closed    bool
	listeners []net.Listener
	servers   []*nbd.Server // of the threads engine, one for each listener
}

// New starts the engine. An Engine of Ring fails, with an error that wraps uring.ErrUnavailable, where io_uring is refused. A loop occupies one
// of Go's processors while it waits, so New raises GOMAXPROCS if it would leave none for the rest of the program.
func New(volumes Volumes, o Options) (*Server, error) {
	o.ConnsMax = cmp.Or(o.ConnsMax, connsDefault)
	o.HandshakeTimeout = cmp.Or(o.HandshakeTimeout, handshakeDefault)
	o.Engine = cmp.Or(o.Engine, Auto)
	o.Loops = min(cmp.Or(o.Loops, runtime.NumCPU()), loopsMax)
	s := &Server{volumes: volumes, options: o, log: cmp.Or(o.Log, slog.Default()), start: time.Now(),
		tickets: make(chan struct{}, o.ConnsMax), asides: make(chan struct{}, asideMax)}
	s.life, s.end = context.WithCancel(context.Background())
	if err := s.choose(); err != nil {
		s.end()
		return nil, err
	}
	return s, nil
}

// choose starts the engine.
func (s *Server) choose() error {
	switch s.options.Engine {
	case Threads:
		s.useThreads("it was asked for")
		return nil
	case Auto, Ring:
	default:
		return fmt.Errorf("blockserve: no engine is called %q", s.options.Engine)
	}
	err := s.useRing()
	if err == nil {
		s.log.Info("volumes are served by io_uring", "loops", len(s.lanes))
		return nil
	}
	if s.options.Engine == Ring || !errors.Is(err, uring.ErrUnavailable) {
		return fmt.Errorf("blockserve: %w", err)
	}
	s.useThreads(err.Error())
	return nil
}

func (s *Server) useRing() error {
	if least := s.options.Loops + 1; runtime.GOMAXPROCS(0) < least {
		runtime.GOMAXPROCS(least)
	}
	for range s.options.Loops {
		l, err := s.newLane()
		if err != nil {
			for _, l := range s.lanes {
				err = errors.Join(err, l.close())
			}
			s.lanes = nil
			return err
		}
		s.lanes = append(s.lanes, l)
	}
	s.engine, s.why = Ring, "the kernel has it"
	return nil
}

func (s *Server) useThreads(why string) {
	s.log.Warn("volumes are served by plain threads, not by io_uring", "why", why)
	s.engine, s.why = Threads, why
	s.threads = &threads{server: s, meter: &meter{}, gates: map[*gate]struct{}{}}
}

// Engine returns the engine that runs, Ring or Threads, and why it and not the other.
func (s *Server) Engine() (engine Engine, why string) { return s.engine, s.why }

// now is the time since the server's start, by a clock that only goes forward.
func (s *Server) now() time.Duration { return time.Since(s.start) }

// aside runs f in a goroutine, a bounded number at a time. The requests it serves are bounded, and so are those that wait.
func (s *Server) aside(f func()) {
	s.group.Go(func() {
		s.asides <- struct{}{}
		defer func() { <-s.asides }()
		f()
	})
}

// list returns what a client may be told of.
func (s *Server) list(peer nbd.Peer) []nbd.Listing {
	var host cloud.HostName
	if peer.TLS != nil {
		var err error
		if host, err = hostOf(peer.TLS); err != nil {
			return nil
		}
	}
	return s.volumes.List(host)
}

// sayEnded logs connections that ended badly. A client that is killed or reset is the client's affair.
func (s *Server) sayEnded(remote net.Addr, reason error) {
	if reason == nil || errors.Is(reason, net.ErrClosed) || errors.Is(reason, io.EOF) || errors.Is(reason, unix.ECONNRESET) || errors.Is(reason, unix.EPIPE) {
		return
	}
	s.log.Warn("a connection to a volume ended", "peer", remote, "error", reason)
}

// begin takes a listener, unless the server has ended.
func (s *Server) begin(l net.Listener, server *nbd.Server) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	s.listeners = append(s.listeners, l)
	if server != nil {
		s.servers = append(s.servers, server)
	}
	return nil
}

// Serve accepts connections until the server ends, and takes over the listener: TCP or unix. With a configuration every client must use TLS and
// show a certificate whose common name is the host that the attachment is for; without one everything is in the clear, and nobody is asked who
// they are.
func (s *Server) Serve(l net.Listener, config *tls.Config) error {
	if config != nil {
		if config.ClientAuth != tls.RequireAndVerifyClientCert {
			return errors.New("blockserve: TLS without the client's certificate lets anybody in")
		}
		config = config.Clone()
		config.DynamicRecordSizingDisabled = true // answers are for programs that wait for all of them
	}
	open := s.openOnLane(config)
	var server *nbd.Server
	if s.threads != nil {
		server = s.threads.newServer(config)
		open = func(c net.Conn, ticket func()) { s.threads.open(server, c, ticket) }
	}
	if err := s.begin(l, server); err != nil {
		return errors.Join(err, l.Close())
	}
	s.group.Go(func() { s.accept(l, open) })
	return nil
}

// stop closes the listeners and returns the servers of the threads engine.
func (s *Server) stop() []*nbd.Server {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, l := range s.listeners {
		_ = l.Close() // it may be closed already
	}
	s.listeners = nil
	return s.servers
}

// Shutdown stops accepting, finishes what is under way and closes the connections; what it does not finish until ctx ends is broken off. No client
// is told "no": see Restart in the package comment.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stop()
	for _, l := range s.lanes {
		l.finish()
	}
	if s.threads != nil {
		s.threads.finish()
	}
	for range cap(s.tickets) {
		select {
		case s.tickets <- struct{}{}:
		case <-ctx.Done():
			return errors.Join(ctx.Err(), s.Close())
		}
	}
	return s.Close()
}

// Close breaks all connections off, waits until no request is under way, and ends the engine.
func (s *Server) Close() error {
	s.closing.Do(func() { s.closeErr = s.close() })
	return s.closeErr
}

func (s *Server) close() error {
	servers := s.stop()
	s.end()
	var errs []error
	for _, server := range servers {
		errs = append(errs, server.Close())
	}
	for _, l := range s.lanes {
		errs = append(errs, l.close())
	}
	s.group.Wait()
	return errors.Join(errs...)
}
