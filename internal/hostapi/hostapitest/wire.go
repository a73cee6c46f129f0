package hostapitest

import (
	"context"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/test/bufconn"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
)

// Wire is a real server with TLS on a listener in memory. It ends with the test.
type Wire struct {
	Server    *hostapi.Server
	Authority *hostapi.Authority
	Token     hostapi.JoinToken
	listener  *bufconn.Listener
}

// WireOptions say what the server is made of. Zero fields get defaults.
type WireOptions struct {
	Authority  *hostapi.Authority           // nil: a new one
	Token      *hostapi.JoinToken           // nil: a new one
	Sessions   hostapi.SessionHandler       // nil: hears and ignores
	Volumes    hostapi.VolumeSessionHandler // nil: as Sessions if that is nil too, else volume services are refused
	Images     hostapi.Images               // nil: there are none
	SessionTTL time.Duration
	// ImagePeers and ImageBandwidth are as in hostapi.ServerOptions.
	ImagePeers     func(id cloud.ImageID, to cloud.HostName) []*hostpb.DiskSource
	ImageBandwidth int64
}

// bufferBytes is large enough for an image chunk to be in flight.
const bufferBytes = 1 << 20

// StartWire starts a server and has it end, with everything it owns, when the test does.
func StartWire(t testing.TB, opts WireOptions) *Wire {
	t.Helper()
	w := &Wire{Authority: opts.Authority, listener: bufconn.Listen(bufferBytes)}
	if w.Authority == nil {
		ca, err := hostapi.NewAuthority(time.Now())
		if err != nil {
			t.Fatal(err)
		}
		w.Authority = ca
	}
	w.Token = hostapi.NewJoinToken(w.Authority.Fingerprint())
	if opts.Token != nil {
		w.Token = *opts.Token
	}
	if opts.Sessions == nil {
		opts.Sessions = Deaf{}
		if opts.Volumes == nil {
			opts.Volumes = Deaf{}
		}
	}
	if opts.Images == nil {
		opts.Images = NoImages{}
	}
	server, err := hostapi.NewServer(hostapi.ServerOptions{
		Authority: w.Authority, Admit: hostapi.AdmitToken(w.Token), Images: opts.Images, Sessions: opts.Sessions, Volumes: opts.Volumes,
		Version: "test", SessionTTL: opts.SessionTTL, ImagePeers: opts.ImagePeers, ImageBandwidth: opts.ImageBandwidth, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	w.Server = server
	var owned sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	owned.Go(func() {
		if err := server.Serve(ctx, w.listener); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(func() { cancel(); owned.Wait() })
	return w
}

// Dial connects to the server in memory; it has the shape of AgentOptions.Dial.
func (w *Wire) Dial(ctx context.Context, _, _ string) (net.Conn, error) {
	return w.listener.DialContext(ctx)
}

// AgentOptions returns options for an agent of this server with the join token and an empty directory for its certificate.
func (w *Wire) AgentOptions(t testing.TB, name cloud.HostName) hostapi.AgentOptions {
	return hostapi.AgentOptions{
		Servers: []string{"memory"}, Name: name, Token: w.Token.String(), CertDir: t.TempDir(),
		Logger: slog.New(slog.DiscardHandler), Dial: w.Dial,
	}
}

// StartAgent runs an agent that serves host; it ends with the test, or earlier when stop is called.
func (w *Wire) StartAgent(t testing.TB, opts hostapi.AgentOptions, host hostpb.HostServer) (agent *hostapi.Agent, stop func()) {
	t.Helper()
	return w.start(t, opts, func(ctx context.Context, a *hostapi.Agent) error { return a.Run(ctx, host) })
}

func (w *Wire) start(t testing.TB, opts hostapi.AgentOptions, run func(context.Context, *hostapi.Agent) error) (agent *hostapi.Agent, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	agent, err := hostapi.Dial(ctx, opts)
	if err != nil {
		cancel()
		t.Fatalf("dial: %v", err)
	}
	var owned sync.WaitGroup
	owned.Go(func() { _ = run(ctx, agent) })
	stop = func() { cancel(); owned.Wait() }
	t.Cleanup(stop)
	return agent, stop
}

// StartFake runs an agent for a fake host, with its facts put and its observations reported.
func (w *Wire) StartFake(t testing.TB, host *FakeHost) (agent *hostapi.Agent, stop func()) {
	t.Helper()
	agent, stop = w.StartAgent(t, w.AgentOptions(t, host.Name()), host)
	agent.Outbox().PutFacts(host.CurrentFacts())
	return agent, stop
}

// StartFakeVolumes runs the agent of a fake volume service, with its facts put.
func (w *Wire) StartFakeVolumes(t testing.TB, volumes *FakeVolumeHost) (agent *hostapi.Agent, stop func()) {
	t.Helper()
	agent, stop = w.start(t, w.AgentOptions(t, volumes.Name()), func(ctx context.Context, a *hostapi.Agent) error { return a.RunVolumes(ctx, volumes) })
	agent.Outbox().PutVolumeFacts(volumes.CurrentFacts())
	return agent, stop
}

// Deaf is a SessionHandler and VolumeSessionHandler that ignores everything.
type Deaf struct{}

// HostUp implements hostapi.SessionHandler.
func (Deaf) HostUp(context.Context, cloud.HostName, *hostpb.HostFacts) error { return nil }

// Event implements hostapi.SessionHandler.
func (Deaf) Event(context.Context, cloud.HostName, *hostpb.HostEvent) error { return nil }

// HostDown implements hostapi.SessionHandler.
func (Deaf) HostDown(cloud.HostName) {}

// VolumesUp implements hostapi.VolumeSessionHandler.
func (Deaf) VolumesUp(context.Context, cloud.HostName, *hostpb.VolumeFacts) error { return nil }

// VolumesEvent implements hostapi.VolumeSessionHandler.
func (Deaf) VolumesEvent(context.Context, cloud.HostName, *hostpb.HostEvent) error { return nil }

// VolumesDown implements hostapi.VolumeSessionHandler.
func (Deaf) VolumesDown(cloud.HostName) {}

// NoImages is an image source without images.
type NoImages struct{}

// Open implements hostapi.Images.
func (NoImages) Open(_ context.Context, id cloud.ImageID, _ int64) (io.ReadCloser, error) {
	return nil, cloud.Errorf(cloud.KindNotFound, "image %s does not exist", id)
}
