package hostapi

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
)

const (
	alpnControl = "h2"
	alpnHost    = "godwit-host/1"    // reversed, of a compute host
	alpnVolumes = "godwit-volumes/1" // reversed, of a volume service

	// handshakeMax bounds what a peer that connects and says nothing can hold.
	handshakeMax = 10 * time.Second

	// TCP notices a dead peer of an idle connection after keepaliveIdle + keepaliveProbes*keepaliveInterval, and of a busy one
	// after userTimeoutMax. A few seconds: longer than a stall of a loaded host, shorter than a person's patience.
	keepaliveIdle     = 2 * time.Second
	keepaliveInterval = time.Second
	keepaliveProbes   = 4
	userTimeoutMax    = 6 * time.Second

	// HTTP/2 pings notice a peer whose kernel lives but whose process does not. gRPC allows a client no shorter time than 10 s.
	serverPingAfter = 3 * time.Second
	clientPingAfter = 10 * time.Second
	pingAnswerMax   = 5 * time.Second
	// pingToleratedEvery is the fastest pinging a server accepts.
	pingToleratedEvery = 5 * time.Second

	// messageMax bounds one message: a console log is at most 1 MiB, a specification with user data far less.
	messageMax = 8 << 20
)

func serverKeepalive() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: serverPingAfter, Timeout: pingAnswerMax}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingToleratedEvery, PermitWithoutStream: true}),
		grpc.MaxRecvMsgSize(messageMax),
	}
}

func clientKeepalive() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: clientPingAfter, Timeout: pingAnswerMax, PermitWithoutStream: true}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(messageMax)),
		grpc.WithIdleTimeout(0), // an idle reversed connection must stay: only the agent could dial it again
		grpc.WithDisableServiceConfig(),
	}
}

// tune makes the kernel notice a dead peer. Connections that are not TCP (tests) are left alone.
func tune(conn net.Conn) {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return
	}
	_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: keepaliveIdle, Interval: keepaliveInterval, Count: keepaliveProbes})
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = syscall.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeoutMax/time.Millisecond))
	})
}

// link is a TLS connection after its handshake; closed tells when anybody closed it, gRPC included.
type link struct {
	*tls.Conn
	closed chan struct{}
	once   sync.Once
}

func newLink(conn *tls.Conn) *link { return &link{Conn: conn, closed: make(chan struct{})} }

func (l *link) Close() error {
	l.once.Do(func() { close(l.closed) })
	// Not tls.Conn.Close: its goodbye may wait seconds for a dead peer's receive window.
	return l.NetConn().Close()
}

// handshaken are gRPC credentials for links: TLS has been done by the time gRPC sees them.
type handshaken struct{}

func (handshaken) ClientHandshake(_ context.Context, _ string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return authInfo(conn)
}

func (handshaken) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return authInfo(conn)
}

func authInfo(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	l, ok := conn.(*link)
	if !ok {
		return nil, nil, errors.New("hostapi: not a link")
	}
	return l, credentials.TLSInfo{
		State:          l.ConnectionState(),
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
	}, nil
}

func (handshaken) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}
func (handshaken) Clone() credentials.TransportCredentials { return handshaken{} }
func (handshaken) OverrideServerName(string) error         { return nil }

// linkListener hands links to a gRPC server. Its channel has no capacity: a link is owned by whoever made it until gRPC takes it.
type linkListener struct {
	links chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newLinkListener() *linkListener {
	return &linkListener{links: make(chan net.Conn), done: make(chan struct{})}
}

// offer gives the link to gRPC, or closes it when the listener is closed.
func (l *linkListener) offer(conn net.Conn) {
	select {
	case l.links <- conn:
	case <-l.done:
		_ = conn.Close()
	}
}

func (l *linkListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.links:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *linkListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *linkListener) Addr() net.Addr { return linkAddr{} }

type linkAddr struct{}

func (linkAddr) Network() string { return "godwit" }
func (linkAddr) String() string  { return "link" }
