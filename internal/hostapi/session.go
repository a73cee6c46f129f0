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
	current map[cloud.HostName]*sessionTurn
	readers sync.WaitGroup
}

type sessionTurn struct {
	replaced chan struct{} // closed by the next session of the host
	done     chan struct{} // closed when this one is over
}

// enter waits for the host's turn. leave must be called in any case.
func (t *sessionTable) enter(name cloud.HostName) (turn *sessionTurn, leave func()) {
	turn = &sessionTurn{replaced: make(chan struct{}), done: make(chan struct{})}
	t.mu.Lock()
	older := t.current[name]
	t.current[name] = turn
	t.mu.Unlock()
	if older != nil {
		close(older.replaced) // only its successor does this, and it has one successor
		<-older.done
	}
	return turn, func() {
		t.mu.Lock()
		if t.current[name] == turn {
			delete(t.current, name)
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
	facts, err := s.firstFacts(stream.Context(), name, events)
	if err != nil {
		return err
	}
	turn, leave := s.sessions.enter(name)
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
	if err := s.opts.Sessions.HostUp(ctx, name, facts); err != nil {
		s.log.Warn("session refused", "host", name, "error", err)
		return err
	}
	s.log.Info("host up", "host", name, "agent", facts.GetAgentVersion())
	err = s.relay(ctx, name, turn, stream, events)
	if errors.Is(err, errSilent) {
		s.pool.drop(name)
	}
	cancel()
	s.log.Info("host down", "host", name, "error", err)
	s.opts.Sessions.HostDown(name)
	return err
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

func (s *Server) firstFacts(ctx context.Context, name cloud.HostName, events <-chan received) (*hostpb.HostFacts, error) {
	timer := time.NewTimer(handshakeMax)
	defer timer.Stop()
	select {
	case r := <-events:
		if r.err != nil {
			return nil, r.err
		}
		facts := r.event.GetFacts()
		if facts == nil {
			return nil, cloud.Errorf(cloud.KindInvalid, "session: the first message must be the host's facts")
		}
		return facts, checkFacts(name, facts)
	case <-timer.C:
		return nil, errSilent
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func checkFacts(name cloud.HostName, facts *hostpb.HostFacts) error {
	if cloud.HostName(facts.GetName()) != name {
		return cloud.Errorf(cloud.KindForbidden, "session: host %s reports as %q", name, truncate(facts.GetName()))
	}
	return nil
}

// relay hands the host's messages to the handler until the stream ends, falls silent or is replaced. Silence is measured only
// while relay waits, so a slow handler does not make its host look dead.
func (s *Server) relay(ctx context.Context, name cloud.HostName, turn *sessionTurn, stream grpc.BidiStreamingServer[hostpb.HostEvent, hostpb.HostNotice], events <-chan received) error {
	welcome := &hostpb.Welcome{ServerVersion: s.opts.Version, SessionTtl: durationpb.New(s.opts.SessionTTL)}
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
			if err := s.handle(ctx, name, stream, r.event); err != nil {
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

func (s *Server) handle(ctx context.Context, name cloud.HostName, stream grpc.BidiStreamingServer[hostpb.HostEvent, hostpb.HostNotice], event *hostpb.HostEvent) error {
	if facts := event.GetFacts(); facts != nil {
		if err := checkFacts(name, facts); err != nil {
			return err
		}
	}
	if beat := event.GetHeartbeat(); beat != nil {
		if err := stream.Send(&hostpb.HostNotice{Notice: &hostpb.HostNotice_Heartbeat{Heartbeat: beat}}); err != nil {
			return err
		}
	}
	return s.opts.Sessions.Event(ctx, name, event)
}
