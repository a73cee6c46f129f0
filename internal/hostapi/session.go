package hostapi

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
)

// sessionTable gives each host's sessions their turn: a newer one ends the older and waits until its handler has heard HostDown.
type sessionTable struct {
	mu      sync.Mutex
	current map[peerID]*sessionTurn
	readers sync.WaitGroup
}

type sessionTurn struct {
	replaced chan struct{} // closed by the next session of the host
	done     chan struct{} // closed when this one is over
}

// enter waits for the peer's turn. leave must be called in any case.
func (t *sessionTable) enter(id peerID) (turn *sessionTurn, leave func()) {
	turn = &sessionTurn{replaced: make(chan struct{}), done: make(chan struct{})}
	t.mu.Lock()
	older := t.current[id]
	t.current[id] = turn
	t.mu.Unlock()
	if older != nil {
		close(older.replaced) // only its successor does this, and it has one successor
		<-older.done
	}
	return turn, func() {
		t.mu.Lock()
		if t.current[id] == turn {
			delete(t.current, id)
		}
		t.mu.Unlock()
		close(turn.done)
	}
}

func (t *sessionTable) wait() { t.readers.Wait() }

var (
	errSilent   = cloud.Errorf(cloud.KindUnavailable, "session: no heartbeat within the time to live")
	errReplaced = cloud.Errorf(cloud.KindUnavailable, "session: replaced by a newer one of the same host")
)

// Session implements Control: it owns one agent's stream from facts to end.
func (s *Server) Session(stream grpc.BidiStreamingServer[hostpb.HostEvent, hostpb.HostNotice]) error {
	name, err := hostCaller(stream.Context())
	if err != nil {
		return err
	}
	events := s.receive(stream)
	p, err := s.introduce(stream.Context(), name, events)
	if err != nil {
		return err
	}
	turn, leave := s.sessions.enter(p.id)
	defer leave()
	select {
	case <-turn.replaced:
		return errReplaced
	case <-stream.Context().Done():
		return stream.Context().Err()
	default:
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	if err := p.up(ctx); err != nil {
		s.log.Warn("session refused", "peer", p.id, "error", err)
		return err
	}
	s.log.Info("session up", "peer", p.id, "version", p.version)
	err = s.relay(ctx, p, turn, stream, events)
	if errors.Is(err, errSilent) {
		s.pool.drop(p.id)
	}
	cancel()
	s.log.Info("session down", "peer", p.id, "error", err)
	p.down()
	return err
}

// sessionPeer is who is at the other end of a session, and who is told what it says.
type sessionPeer struct {
	id      peerID
	version string
	up      func(ctx context.Context) error
	event   func(ctx context.Context, event *hostpb.HostEvent) error
	down    func()
}

// introduce waits for the first message and learns from it who speaks.
func (s *Server) introduce(ctx context.Context, name cloud.HostName, events <-chan received) (sessionPeer, error) {
	first, err := s.firstEvent(ctx, events)
	if err != nil {
		return sessionPeer{}, err
	}
	switch e := first.GetEvent().(type) {
	case *hostpb.HostEvent_Facts:
		h := s.opts.Sessions
		return sessionPeer{
			id: peerID{roleHost, name}, version: e.Facts.GetAgentVersion(),
			up:    func(ctx context.Context) error { return h.HostUp(ctx, name, e.Facts) },
			event: func(ctx context.Context, event *hostpb.HostEvent) error { return h.Event(ctx, name, event) },
			down:  func() { h.HostDown(name) },
		}, checkFacts(name, first)
	case *hostpb.HostEvent_VolumeFacts:
		h := s.opts.Volumes
		if h == nil {
			return sessionPeer{}, cloud.Errorf(cloud.KindUnsupported, "session: this server takes no volume services")
		}
		return sessionPeer{
			id: peerID{roleVolumes, name}, version: e.VolumeFacts.GetVersion(),
			up:    func(ctx context.Context) error { return h.VolumesUp(ctx, name, e.VolumeFacts) },
			event: func(ctx context.Context, event *hostpb.HostEvent) error { return h.VolumesEvent(ctx, name, event) },
			down:  func() { h.VolumesDown(name) },
		}, checkFacts(name, first)
	}
	return sessionPeer{}, cloud.Errorf(cloud.KindInvalid, "session: the first message must be the facts of a host or volume service")
}

// received is one result of the stream's Recv.
type received struct {
	event *hostpb.HostEvent
	err   error
}

// receive starts the stream's reader. It ends with the stream; the channel is unbuffered so that gRPC's flow control reaches the agent.
func (s *Server) receive(stream grpc.BidiStreamingServer[hostpb.HostEvent, hostpb.HostNotice]) <-chan received {
	events := make(chan received)
	s.sessions.readers.Go(func() {
		for {
			event, err := stream.Recv()
			select {
			case events <- received{event, err}:
			case <-stream.Context().Done():
				return
			}
			if err != nil {
				return
			}
		}
	})
	return events
}

func (s *Server) firstEvent(ctx context.Context, events <-chan received) (*hostpb.HostEvent, error) {
	timer := time.NewTimer(handshakeMax)
	defer timer.Stop()
	select {
	case r := <-events:
		return r.event, r.err
	case <-timer.C:
		return nil, errSilent
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// checkFacts refuses facts that do not bear the name of the peer's certificate.
func checkFacts(name cloud.HostName, event *hostpb.HostEvent) error {
	said := string(name)
	if facts := event.GetFacts(); facts != nil {
		said = facts.GetName()
	}
	if facts := event.GetVolumeFacts(); facts != nil {
		said = facts.GetName()
	}
	if cloud.HostName(said) != name {
		return cloud.Errorf(cloud.KindForbidden, "session: %s reports as %q", name, truncate(said))
	}
	return nil
}

// relay hands the peer's messages to the handler until the stream ends, falls silent or is replaced. Silence is measured only
// while relay waits, so a slow handler does not make its peer look dead.
func (s *Server) relay(ctx context.Context, p sessionPeer, turn *sessionTurn, stream grpc.BidiStreamingServer[hostpb.HostEvent, hostpb.HostNotice], events <-chan received) error {
	welcome := &hostpb.Welcome{ServerVersion: s.opts.Version, SessionTtl: durationpb.New(s.opts.SessionTTL)}
	if s.opts.SelfFenceAfter > 0 {
		welcome.SelfFenceAfter = durationpb.New(s.opts.SelfFenceAfter)
	}
	if s.opts.TelemetryEvery > 0 {
		welcome.TelemetryEvery = durationpb.New(s.opts.TelemetryEvery)
	}
	if err := stream.Send(&hostpb.HostNotice{Notice: &hostpb.HostNotice_Welcome{Welcome: welcome}}); err != nil {
		return err
	}
	silence := time.NewTimer(s.opts.SessionTTL)
	defer silence.Stop()
	for {
		silence.Reset(s.opts.SessionTTL)
		select {
		case r := <-events:
			if errors.Is(r.err, io.EOF) {
				return nil
			}
			if r.err != nil {
				return r.err
			}
			if err := s.handle(ctx, p, stream, r.event); err != nil {
				return err
			}
		case <-silence.C:
			return errSilent
		case <-turn.replaced:
			return errReplaced
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *Server) handle(ctx context.Context, p sessionPeer, stream grpc.BidiStreamingServer[hostpb.HostEvent, hostpb.HostNotice], event *hostpb.HostEvent) error {
	if err := checkFacts(p.id.name, event); err != nil {
		return err
	}
	if beat := event.GetHeartbeat(); beat != nil {
		if err := stream.Send(&hostpb.HostNotice{Notice: &hostpb.HostNotice_Heartbeat{Heartbeat: beat}}); err != nil {
			return err
		}
	}
	return p.event(ctx, event)
}
