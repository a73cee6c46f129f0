package hostapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
)

const (
	heartbeatEvery = time.Second

	// Reconnecting: quick at first, for a server that restarts; slow enough later that a thousand agents do not storm it, and quick enough that a
	// leader that takes over has its hosts again within retryMax.
	retryMin = 100 * time.Millisecond
	retryMax = 2 * time.Second
	// steadyAfter is how long a connection must have lasted for the next back-off to begin anew.
	steadyAfter = 5 * time.Second
	// reachMax bounds the attempt to reach one of several servers: another one may lead.
	reachMax = 3 * time.Second

	// fetchWaitMax is how long FetchImage waits for the server to be connected.
	fetchWaitMax = 10 * time.Second
	// renewRetryAfter paces attempts to renew a certificate, which has a third of its life to succeed.
	renewRetryAfter = time.Minute
)

// AgentOptions are what Dial needs. Servers, Name and CertDir are required.
type AgentOptions struct {
	Servers   []string       // HOST:PORT of each of godwit's servers; the host's session is with the one that leads
	Name      cloud.HostName // this host
	Token     string         // join token; needed until CertDir holds a certificate
	CertDir   string         // made when absent, mode 0700
	Addresses []net.IP       // this host's addresses, for its certificate: libvirt and QEMU peers verify them
	Logger    *slog.Logger   // nil: slog.Default
	// Renewed is called, when not nil, after a certificate was replaced while Run runs: its copies must be refreshed.
	Renewed func(CertFiles)
	// Dial replaces net.Dialer (tests).
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Agent is a host's end of the wire.
type Agent struct {
	opts     AgentOptions
	log      *slog.Logger
	files    CertFiles
	identity atomic.Pointer[identity]
	outbox   *Outbox
	home     *home
	contact  Contact
}

// Dial makes sure that the host has a certificate, enrolling with the join token if need be, and returns an agent whose
// connections Run will keep. It waits for unreachable servers until ctx ends; a refusal is final and returned at once.
func Dial(ctx context.Context, opts AgentOptions) (*Agent, error) {
	if err := CheckHostName(opts.Name); err != nil {
		return nil, err
	}
	if len(opts.Servers) == 0 || opts.CertDir == "" {
		return nil, errors.New("hostapi.Dial: Servers and CertDir are required")
	}
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	if opts.Dial == nil {
		opts.Dial = new(net.Dialer).DialContext
	}
	a := &Agent{opts: opts, log: opts.Logger, files: filesIn(opts.CertDir), outbox: newOutbox(), home: newHome(opts.Servers[0])}
	if err := a.ensureIdentity(ctx); err != nil {
		return nil, err
	}
	return a, nil
}

// Outbox returns where the host puts what it has to say.
func (a *Agent) Outbox() *Outbox { return a.outbox }

// Contact returns when the host last heard from a server.
func (a *Agent) Contact() *Contact { return &a.contact }

// Files returns where the host's certificate, key and CA are.
func (a *Agent) Files() CertFiles { return a.files }

// Run keeps both connections up, serving host on the reversed one, until ctx ends; then it closes the agent, waits for every
// goroutine and call it started and returns nil. Calls in progress see their context end. Run or RunVolumes may be called once.
func (a *Agent) Run(ctx context.Context, host hostpb.HostServer) error {
	return a.run(ctx, roleHost, func(s *grpc.Server) { hostpb.RegisterHostServer(s, host) })
}

// RunVolumes is Run for a volume service.
func (a *Agent) RunVolumes(ctx context.Context, volumes hostpb.VolumeHostServer) error {
	return a.run(ctx, roleVolumes, func(s *grpc.Server) { hostpb.RegisterVolumeHostServer(s, volumes) })
}

func (a *Agent) run(ctx context.Context, as role, register func(*grpc.Server)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	opts := append(serverKeepalive(),
		grpc.Creds(handshaken{}),
		grpc.WaitForHandlers(true),
		grpc.ChainUnaryInterceptor(unaryServerErrors),
		grpc.ChainStreamInterceptor(streamServerErrors),
	)
	server := grpc.NewServer(opts...)
	register(server)
	links := newLinkListener()

	var owned sync.WaitGroup
	owned.Go(func() { _ = server.Serve(links) })
	owned.Go(func() { a.keepReversed(ctx, as, links) })
	owned.Go(func() { a.keepSession(ctx) })
	owned.Go(func() { a.renew(ctx) })
	<-ctx.Done()
	_ = links.Close()
	server.Stop()
	owned.Wait()
	return nil
}

// keepSession holds one session after another, with each server in turn until one welcomes it, which is the one that leads. It pauses after each
// round of refusals.
func (a *Agent) keepSession(ctx context.Context) {
	wait := newBackoff()
	var refusals []error // of this round: all but the leader refuse, so one alone is nothing to report
	for next := 0; ctx.Err() == nil; next++ {
		server := a.opts.Servers[next%len(a.opts.Servers)]
		began := time.Now()
		welcomed, err := a.session(ctx, server)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > steadyAfter {
			wait = newBackoff()
		}
		if welcomed {
			a.log.Warn("session lost", "server", server, "error", err)
			refusals = nil
			continue
		}
		refusals = append(refusals, err)
		if len(refusals) >= len(a.opts.Servers) {
			a.log.Warn("no session with any server", "error", errors.Join(refusals...))
			refusals = nil
			pause(ctx, wait.next())
		}
	}
}

// keepReversed holds one reversed connection after another with the server that has the session.
func (a *Agent) keepReversed(ctx context.Context, as role, links *linkListener) {
	wait := newBackoff()
	for ctx.Err() == nil {
		began := time.Now()
		server, welcomed := a.home.now()
		err := a.reversed(ctx, as, server, links)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > steadyAfter {
			wait = newBackoff()
		}
		level := slog.LevelWarn
		if !a.home.up() {
			level = slog.LevelDebug // the session's own trouble, which is reported
		}
		a.log.Log(ctx, level, "no reversed connection", "server", server, "error", err)
		timer := time.NewTimer(wait.next())
		select {
		case <-timer.C:
		case <-welcomed: // there is one that will take it
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// reversed dials once and waits for the end of the connection, on which the server is the client, or until another server has the session.
func (a *Agent) reversed(ctx context.Context, as role, server string, links *linkListener) error {
	l, err := a.connect(ctx, server, a.tlsConfig(as.protocol()))
	if err != nil {
		return err
	}
	links.offer(l)
	for {
		home, welcomed := a.home.now()
		if home != server {
			return errors.Join(fmt.Errorf("server %s has the session now", home), l.Close())
		}
		select {
		case <-l.closed:
			return errors.New("connection closed")
		case <-welcomed:
		case <-ctx.Done():
			return l.Close()
		}
	}
}

// session holds one stream on a connection of its own until either breaks, and reports whether the server had welcomed it.
func (a *Agent) session(ctx context.Context, server string) (welcomed bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := a.outbox.ready(ctx); err != nil {
		return false, err
	}
	l, err := a.connect(ctx, server, a.tlsConfig(alpnControl))
	if err != nil {
		return false, err
	}
	defer l.Close()
	cc, err := reverse(ctx, l)
	if err != nil {
		return false, err
	}
	defer cc.Close()
	stream, err := hostpb.NewControlClient(cc).Session(ctx)
	if err != nil {
		return false, FromStatus(ctx, err)
	}
	a.outbox.restart()
	var sender sync.WaitGroup
	sender.Go(func() {
		defer cancel() // a failed sender ends the receiver
		a.send(ctx, stream)
	})
	err = a.hear(ctx, cancel, stream, func(w *hostpb.Welcome) {
		welcomed = true
		a.outbox.wantTelemetry(w.GetTelemetryEvery().AsDuration())
		a.contact.fence(w.GetSelfFenceAfter().AsDuration())
		a.home.enter(server, cc)
		a.log.Info("session up", "server", server, "version", w.GetServerVersion())
	})
	a.home.leave(cc)
	cancel()
	sender.Wait()
	return welcomed, err
}

type sessionStream = grpc.BidiStreamingClient[hostpb.HostEvent, hostpb.HostNotice]

// send says everything, then a heartbeat, then what changes, with a heartbeat every second, until the stream breaks.
func (a *Agent) send(ctx context.Context, stream sessionStream) {
	beat := time.NewTicker(heartbeatEvery)
	defer beat.Stop()
	var seq int64
	due := true // the first heartbeat follows the first full report
	for {
		for _, event := range a.outbox.take() {
			if stream.Send(event) != nil {
				return // hear has the reason
			}
		}
		if due {
			seq++
			heartbeat := &hostpb.Heartbeat{Seq: seq, Sent: timestamppb.Now()}
			if stream.Send(&hostpb.HostEvent{Event: &hostpb.HostEvent_Heartbeat{Heartbeat: heartbeat}}) != nil {
				return
			}
			due = false
		}
		select {
		case <-a.outbox.changed:
		case <-beat.C:
			due = true
		case <-ctx.Done():
			return
		}
	}
}

// hear reads the server's notices and ends when the stream does or the server is silent for the session's time to live.
func (a *Agent) hear(ctx context.Context, cancel context.CancelFunc, stream sessionStream, welcomed func(*hostpb.Welcome)) error {
	ttl := SessionTTLDefault
	var silent atomic.Bool
	silence := time.AfterFunc(ttl, func() { silent.Store(true); cancel() })
	defer silence.Stop()
	for {
		notice, err := stream.Recv()
		if silent.Load() {
			return errSilent
		}
		if errors.Is(err, io.EOF) {
			return errors.New("the server ended the session")
		}
		if err != nil {
			return FromStatus(ctx, err)
		}
		if w := notice.GetWelcome(); w != nil {
			if d := w.GetSessionTtl().AsDuration(); d > 0 {
				ttl = d
			}
			welcomed(w)
		}
		a.contact.heard(time.Now())
		silence.Reset(ttl)
	}
}

// renew replaces the certificate when a third of its life is left.
func (a *Agent) renew(ctx context.Context) {
	for pause(ctx, time.Until(a.identity.Load().renewAt())) {
		for {
			server, _ := a.home.now()
			err := a.enroll(ctx, server, a.identity.Load())
			if err == nil {
				break
			}
			a.log.Error("cannot renew the host certificate", "until", a.identity.Load().cert.Leaf.NotAfter, "error", err)
			if !pause(ctx, renewRetryAfter) {
				return
			}
		}
		if a.opts.Renewed != nil {
			a.opts.Renewed(a.files)
		}
	}
}

// FetchImage opens an image's data from the offset (bytes). It waits a few seconds for a server that is not connected. The reader
// fails with KindUnavailable when the connection breaks; call again with a greater offset. Close it.
func (a *Agent) FetchImage(ctx context.Context, id cloud.ImageID, offset int64) (io.ReadCloser, error) {
	r, err := a.fetchImage(ctx, &hostpb.FetchImageRequest{ImageId: string(id), Offset: offset})
	if err != nil {
		return nil, err
	}
	return r, nil
}

// FetchNear is FetchImage for a host that can read from others: the answer may be where, and then there is no reader; with neither, nobody can send the image
// now and the caller asks again, without a pause. Hosts that were tried are not named again.
func (a *Agent) FetchNear(ctx context.Context, id cloud.ImageID, offset int64, tried []string) (io.ReadCloser, []*hostpb.DiskSource, error) {
	r, err := a.fetchImage(ctx, &hostpb.FetchImageRequest{ImageId: string(id), Offset: offset, Near: true, Tried: tried})
	if err != nil {
		return nil, nil, err
	}
	if len(r.first.GetPeers()) > 0 || r.first.GetBusy() {
		return nil, r.first.GetPeers(), r.Close()
	}
	return r, nil, nil
}

func (a *Agent) fetchImage(ctx context.Context, req *hostpb.FetchImageRequest) (*imageReader, error) {
	id := req.GetImageId()
	ctx, cancel := context.WithCancel(ctx)
	late := time.AfterFunc(fetchWaitMax, cancel)
	r := &imageReader{ctx: ctx, cancel: cancel}
	cc, err := a.home.connected(ctx)
	if err == nil {
		r.first, err = r.open(cc, req)
	}
	if !late.Stop() {
		cancel()
		return nil, cloud.E(cloud.KindUnavailable, "fetch image", id, fmt.Errorf("no answer from the server within %s", fetchWaitMax))
	}
	if err != nil && !errors.Is(err, io.EOF) {
		cancel()
		return nil, FromStatus(ctx, err)
	}
	r.rest, r.end = r.first.GetData(), err
	return r, nil
}

type imageReader struct {
	ctx    context.Context
	cancel context.CancelFunc
	stream grpc.ServerStreamingClient[hostpb.ImageChunk]
	first  *hostpb.ImageChunk
	rest   []byte
	end    error
}

// open returns the first chunk, which tells at once of a missing image.
func (r *imageReader) open(cc *grpc.ClientConn, req *hostpb.FetchImageRequest) (*hostpb.ImageChunk, error) {
	stream, err := hostpb.NewControlClient(cc).FetchImage(r.ctx, req)
	if err != nil {
		return nil, err
	}
	r.stream = stream
	return stream.Recv()
}

func (r *imageReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		if r.end != nil {
			return 0, r.end
		}
		chunk, err := r.stream.Recv()
		if err != nil && !errors.Is(err, io.EOF) {
			err = FromStatus(r.ctx, err)
		}
		r.rest, r.end = chunk.GetData(), err
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

func (r *imageReader) Close() error {
	r.cancel()
	return nil
}

// retryDelay grows from retryMin to retryMax, with jitter so that agents of one outage do not come back in step.
type retryDelay struct{ base time.Duration }

func newBackoff() *retryDelay { return &retryDelay{base: retryMin} }

func (b *retryDelay) next() time.Duration {
	d := b.base/2 + rand.N(b.base/2+1)
	b.base = min(2*b.base, retryMax)
	return d
}
