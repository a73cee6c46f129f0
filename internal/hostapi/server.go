package hostapi

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
)

const (
	// SessionTTLDefault is how long a session may be silent: eight missed heartbeats. Shorter calls a busy host dead, longer
	// keeps callers of a dead one waiting.
	SessionTTLDefault = 8 * time.Second

	// handshakesMax bounds the connections that have not yet proved who they are.
	handshakesMax = 256
	// streamsMax bounds what one agent can have going: one session, and an image for each boot in progress.
	streamsMax = 64
	// imageChunkBytes is the size of the pieces of an image on the wire.
	imageChunkBytes = 1 << 20
	// acceptRetryAfter paces a listener that fails to accept (no file descriptors left).
	acceptRetryAfter = 100 * time.Millisecond
)

// SessionHandler is told what hosts say. For one host, calls come strictly in turn: HostUp, any number of Events, HostDown;
// a newer session of the same host begins only after the older one's HostDown. Calls for different hosts are concurrent.
// A handler that blocks holds up its own host's stream only, and does not make that host look dead.
type SessionHandler interface {
	// HostUp begins a session. An error refuses it (HostDown is then not called); the agent tries again.
	// ctx ends with the session.
	HostUp(ctx context.Context, name cloud.HostName, facts *hostpb.HostFacts) error
	// Event hands over one message, heartbeats included. All that the host knows has come before the session's first heartbeat.
	// An error ends the session; the agent reconnects and says everything again.
	Event(ctx context.Context, name cloud.HostName, event *hostpb.HostEvent) error
	// HostDown ends the session.
	HostDown(name cloud.HostName)
}

// VolumeSessionHandler is told what volume services say, by the rules of SessionHandler.
type VolumeSessionHandler interface {
	// VolumesUp begins a session; see SessionHandler.HostUp.
	VolumesUp(ctx context.Context, name cloud.HostName, facts *hostpb.VolumeFacts) error
	// VolumesEvent hands over one message; see SessionHandler.Event.
	VolumesEvent(ctx context.Context, name cloud.HostName, event *hostpb.HostEvent) error
	// VolumesDown ends the session.
	VolumesDown(name cloud.HostName)
}

// Images gives agents the data of images.
type Images interface {
	// Open returns the image's data from the offset (bytes) to the end. Errors: KindNotFound, KindInvalid for a bad offset.
	Open(ctx context.Context, id cloud.ImageID, offset int64) (io.ReadCloser, error)
}

// Enrolment is a host's wish for a certificate.
type Enrolment struct {
	Host    cloud.HostName
	Secret  string   // of the join token; empty on renewal
	Renewal bool     // the peer has proved with a valid certificate that it is Host
	Peer    net.Addr // where it comes from
}

// ServerOptions are what NewServer needs. Authority, Admit, Images and Sessions are required.
type ServerOptions struct {
	Authority *Authority
	// Admit decides whether a host may have a certificate; nil admits it. See JoinToken.Admits for the secret.
	Admit      func(ctx context.Context, e Enrolment) error
	Images     Images
	Sessions   SessionHandler
	Volumes    VolumeSessionHandler // nil: volume services are refused
	Version    string               // told to agents
	SessionTTL time.Duration        // 0: SessionTTLDefault
	// TelemetryEvery is how often hosts say what they and their servers use; 0: never.
	TelemetryEvery time.Duration
	// SelfFenceAfter is told to hosts: see hostpb.Welcome. 0: never.
	SelfFenceAfter time.Duration
	// ImagePeers returns connected hosts other than to that have the image; nil: none ever has.
	ImagePeers func(id cloud.ImageID, to cloud.HostName) []*hostpb.DiskSource
	// ImageBandwidth bounds the image data sent to all hosts together, in bytes per second. 0: unlimited.
	ImageBandwidth int64
	Logger         *slog.Logger // nil: slog.Default
}

// Server is godwit's end of the wire. Make it with NewServer; Serve may be called once for each listener.
type Server struct {
	hostpb.UnimplementedControlServer
	opts     ServerOptions
	log      *slog.Logger
	pool     *Pool
	sessions sessionTable
	cert     serverCert
	images   *imageDesk
}

// NewServer makes a server; it does no I/O.
func NewServer(opts ServerOptions) (*Server, error) {
	if opts.Authority == nil || opts.Admit == nil || opts.Images == nil || opts.Sessions == nil {
		return nil, errors.New("hostapi.NewServer: Authority, Admit, Images and Sessions are required")
	}
	if opts.SessionTTL == 0 {
		opts.SessionTTL = SessionTTLDefault
	}
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	return &Server{
		opts: opts, log: opts.Logger, pool: newPool(),
		sessions: sessionTable{current: map[peerID]*sessionTurn{}},
		cert:     serverCert{authority: opts.Authority}, images: newImageDesk(opts.ImageBandwidth),
	}, nil
}

// Pool returns the hosts that can be called.
func (s *Server) Pool() *Pool { return s.pool }

// Serve accepts agents until ctx ends; then it closes the listener, ends every connection and session, waits for them and returns nil.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	control := newLinkListener()
	opts := append(serverKeepalive(),
		grpc.Creds(handshaken{}),
		grpc.MaxConcurrentStreams(streamsMax),
		grpc.WaitForHandlers(true),
		grpc.ChainUnaryInterceptor(unaryServerErrors),
		grpc.ChainStreamInterceptor(streamServerErrors),
	)
	server := grpc.NewServer(opts...)
	hostpb.RegisterControlServer(server, s)

	var owned sync.WaitGroup
	owned.Go(func() { _ = server.Serve(control) })
	owned.Go(func() {
		<-ctx.Done()
		_ = ln.Close()
		_ = control.Close()
		server.Stop()
	})
	err := s.accept(ctx, ln, control, &owned)
	cancel()
	owned.Wait()
	s.sessions.wait()
	return err
}

func (s *Server) accept(ctx context.Context, ln net.Listener, control *linkListener, owned *sync.WaitGroup) error {
	handshakes := make(chan struct{}, handshakesMax) // a slot for each connection that has not proved who it is
	for {
		conn, err := ln.Accept()
		if ctx.Err() != nil {
			if err == nil {
				_ = conn.Close()
			}
			return nil
		}
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("agent listener: %w", err)
			}
			s.log.Warn("cannot accept an agent", "error", err)
			if !pause(ctx, acceptRetryAfter) {
				return nil
			}
			continue
		}
		select {
		case handshakes <- struct{}{}:
		default:
			_ = conn.Close() // better to refuse a newcomer than to let silent ones starve everybody
			continue
		}
		owned.Go(func() { s.welcome(ctx, conn, control, func() { <-handshakes }) })
	}
}

// welcome does the TLS handshake and gives the connection to the protocol the agent chose. proved frees the handshake slot.
func (s *Server) welcome(ctx context.Context, conn net.Conn, control *linkListener, proved func()) {
	tune(conn)
	tlsConn := tls.Server(conn, s.tlsConfig())
	hctx, cancel := context.WithTimeout(ctx, handshakeMax)
	err := tlsConn.HandshakeContext(hctx)
	cancel()
	proved()
	if err != nil {
		s.log.Debug("agent connection refused", "peer", conn.RemoteAddr(), "error", err)
		_ = conn.Close()
		return
	}
	l := newLink(tlsConn)
	if tlsConn.ConnectionState().NegotiatedProtocol == alpnControl {
		control.offer(l)
		return
	}
	name, err := hostOfState(tlsConn.ConnectionState())
	if err != nil {
		s.log.Warn("reversed connection refused", "peer", conn.RemoteAddr(), "error", err)
		_ = l.Close()
		return
	}
	id := peerID{roleOf(tlsConn.ConnectionState().NegotiatedProtocol), name}
	if err := s.pool.hold(ctx, id, l); err != nil && ctx.Err() == nil {
		s.log.Warn("reversed connection ended", "peer", id, "error", err)
	}
}

func (s *Server) tlsConfig() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS13,
		NextProtos:     []string{alpnControl, alpnHost, alpnVolumes},
		ClientAuth:     tls.VerifyClientCertIfGiven,
		ClientCAs:      s.opts.Authority.pool(),
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.cert.get(time.Now()) },
		// No resumption: a resumed connection would skip the check of an expired client certificate.
		SessionTicketsDisabled: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			if state.NegotiatedProtocol == "" {
				return errors.New("the peer does not speak a protocol of godwit's agents")
			}
			return nil
		},
	}
}

// serverCert is the server's own certificate, made in memory and replaced before it expires.
type serverCert struct {
	authority *Authority
	mu        sync.Mutex
	current   *tls.Certificate
}

func (c *serverCert) get(now time.Time) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current != nil && now.Before(c.current.Leaf.NotAfter.Add(-leafLifetime/3)) {
		return c.current, nil
	}
	cert, err := c.authority.IssueServer(now)
	if err != nil {
		return nil, err
	}
	c.current = &cert
	return c.current, nil
}

// hostOfState returns the host that a verified connection belongs to.
func hostOfState(state tls.ConnectionState) (cloud.HostName, error) {
	if len(state.VerifiedChains) == 0 {
		return "", cloud.Errorf(cloud.KindUnauthenticated, "a host certificate is required")
	}
	return hostNameOf(state.PeerCertificates[0])
}

// callerOf returns the host on whose connection a call came; ok is false when the peer showed no certificate.
func callerOf(ctx context.Context) (name cloud.HostName, addr net.Addr, ok bool) {
	p, found := peer.FromContext(ctx)
	if !found {
		return "", nil, false
	}
	info, isTLS := p.AuthInfo.(credentials.TLSInfo)
	if !isTLS {
		return "", p.Addr, false
	}
	name, err := hostOfState(info.State)
	return name, p.Addr, err == nil
}

// hostCaller is callerOf for methods that require a certificate.
func hostCaller(ctx context.Context) (cloud.HostName, error) {
	name, _, ok := callerOf(ctx)
	if !ok {
		return "", cloud.Errorf(cloud.KindUnauthenticated, "a host certificate is required")
	}
	return name, nil
}

// Enroll implements Control.
func (s *Server) Enroll(ctx context.Context, req *hostpb.EnrollRequest) (*hostpb.EnrollReply, error) {
	name := cloud.HostName(req.GetHostName())
	if err := CheckHostName(name); err != nil {
		return nil, err
	}
	caller, addr, known := callerOf(ctx)
	if known && caller != name {
		return nil, cloud.Errorf(cloud.KindForbidden, "host %s may not enrol as %s", caller, name)
	}
	e := Enrolment{Host: name, Secret: req.GetToken(), Renewal: known, Peer: addr}
	if err := s.opts.Admit(ctx, e); err != nil {
		s.log.Warn("enrolment refused", "host", name, "peer", addr, "error", err)
		return nil, err
	}
	cert, err := s.opts.Authority.SignHost(name, req.GetCsr(), time.Now())
	if err != nil {
		return nil, err
	}
	s.log.Info("host enrolled", "host", name, "peer", addr, "renewal", known)
	return &hostpb.EnrollReply{Certificate: cert, Ca: s.opts.Authority.CertPEM()}, nil
}

// AdmitToken returns an Admit function that admits holders of the token, and renewals.
func AdmitToken(token JoinToken) func(context.Context, Enrolment) error {
	return func(_ context.Context, e Enrolment) error {
		if !e.Renewal && !token.Admits(e.Secret) {
			return cloud.Errorf(cloud.KindForbidden, "the join token is not valid")
		}
		return nil
	}
}

// pause waits for d and reports false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
