package hostagent_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/disk"
	"github.com/godwit-cloud/godwit/internal/hostagent"
	"github.com/godwit-cloud/godwit/internal/hostapi"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/kvm"
	"github.com/godwit-cloud/godwit/internal/vnet"
)

// The tests run real agents: this test program again, inside a lab's node, serving hostpb.Host on a unix socket and writing what it reports
// to its output. So an agent can be killed like one in production.

const (
	agentEnv    = "GODWIT_TEST_AGENT" // its value is the agent's orders, JSON
	agentSocket = "/var/lib/godwit/agent.sock"
	agentData   = "/var/lib/godwit"
)

// orders are what a test tells the agent it starts.
type orders struct {
	Name    string
	Address string
	Image   string // file to fetch any image from
}

func TestMain(m *testing.M) {
	text := os.Getenv(agentEnv)
	if text == "" {
		os.Exit(m.Run())
	}
	var o orders
	err := json.Unmarshal([]byte(text), &o)
	if err == nil {
		err = serveAgent(o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// serveAgent is the agent's main.
func serveAgent(o orders) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	conn, err := kvm.Connect(ctx, "/run/libvirt/libvirt-sock", log)
	if err != nil {
		return err
	}
	defer conn.Close()
	store, err := disk.Open(ctx, disk.Options{Dir: agentData, Logger: log, Fetch: func(_ context.Context, _ cloud.ImageID, offset int64) (io.ReadCloser, error) {
		f, err := os.Open(o.Image)
		if err == nil {
			_, err = f.Seek(offset, io.SeekStart)
		}
		return f, err
	}})
	if err != nil {
		return err
	}
	defer store.Close()
	nets, err := vnet.New(ctx, vnet.Options{TunnelAddress: netip.MustParseAddr(o.Address), Logger: log})
	if err != nil {
		return err
	}
	defer nets.Close()
	agent, err := hostagent.New(ctx, hostagent.Options{
		Name: cloud.HostName(o.Name), DataDir: agentData, KVM: conn, Disk: store, Networks: nets, Outbox: &printer{}, Emulator: "tcg",
		MigrationAddress: o.Address, TunnelAddress: o.Address, Version: "test", Logger: log,
	})
	if err != nil {
		return err
	}
	return listenAndServe(ctx, agent)
}

func listenAndServe(ctx context.Context, agent *hostagent.Agent) error {
	os.Remove(agentSocket)
	l, err := net.Listen("unix", agentSocket)
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
		reply, err := h(ctx, req)
		return reply, hostapi.ToStatus(err)
	}))
	hostpb.RegisterHostServer(server, agent)
	var work sync.WaitGroup
	defer work.Wait()
	work.Go(func() { server.Serve(l) })
	defer server.Stop()
	return agent.Run(ctx)
}

// printer is an outbox that writes each event as a line.
type printer struct{ mu sync.Mutex }

func (p *printer) print(e *hostpb.HostEvent) {
	p.mu.Lock()
	defer p.mu.Unlock()
	line, err := protojson.Marshal(e)
	if err != nil {
		panic(err)
	}
	fmt.Println(string(line))
}

func (p *printer) PutFacts(f *hostpb.HostFacts) {
	p.print(&hostpb.HostEvent{Event: &hostpb.HostEvent_Facts{Facts: f}})
}

func (p *printer) PutObservation(s *hostpb.ServerState) {
	p.print(&hostpb.HostEvent{Event: &hostpb.HostEvent_Observation{Observation: s}})
}

func (p *printer) PutProgress(u *hostpb.MigrationUpdate) {
	p.print(&hostpb.HostEvent{Event: &hostpb.HostEvent_Progress{Progress: u}})
}

// agentProc is a running agent, seen from the test.
type agentProc struct {
	hostpb.HostClient
	t    *testing.T
	node string
	cmd  *exec.Cmd
	conn *grpc.ClientConn
	work sync.WaitGroup

	mu      sync.Mutex
	events  []*hostpb.HostEvent
	changed chan struct{}
}

// startAgent runs an agent in a node until the test ends or kill.
func (b *bench) startAgent(node string) *agentProc {
	b.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		b.t.Fatal(err)
	}
	cmd, err := b.Command(context.Background(), node, []string{exe})
	if err != nil {
		b.t.Fatal(err)
	}
	o, err := json.Marshal(orders{Name: node, Address: b.DataAddr(node).String(), Image: b.image})
	if err != nil {
		b.t.Fatal(err)
	}
	cmd.Env = append(os.Environ(), agentEnv+"="+string(o))
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.t.Fatal(err)
	}
	cmd.Stderr = b.agentLog
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	a := &agentProc{t: b.t, node: node, cmd: cmd, changed: make(chan struct{})}
	a.work.Go(func() { a.collect(out) })
	a.conn, err = grpc.NewClient("unix://"+b.Path(node, agentSocket), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)),
		grpc.WithUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			return hostapi.FromStatus(ctx, invoke(ctx, method, req, reply, cc, opts...))
		}))
	if err != nil {
		b.t.Fatal(err)
	}
	a.HostClient = hostpb.NewHostClient(a.conn)
	b.t.Cleanup(a.kill)
	// The socket may still be an earlier life's: facts prove that this one serves.
	a.await(b.t, "first facts", func(e *hostpb.HostEvent) bool { return e.GetFacts() != nil })
	return a
}

// kill ends the agent by SIGKILL.
func (a *agentProc) kill() {
	if a.cmd.ProcessState != nil {
		return
	}
	if err := a.cmd.Cancel(); err != nil && !errors.Is(err, os.ErrProcessDone) && !errors.Is(err, syscall.ESRCH) {
		a.t.Error(err)
	}
	a.work.Wait()
	a.cmd.Wait()
	a.conn.Close()
}

func (a *agentProc) collect(out io.Reader) {
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		e := new(hostpb.HostEvent)
		if err := protojson.Unmarshal(lines.Bytes(), e); err != nil {
			a.t.Errorf("agent %s printed %q: %v", a.node, lines.Text(), err)
			continue
		}
		a.mu.Lock()
		a.events = append(a.events, e)
		close(a.changed)
		a.changed = make(chan struct{})
		a.mu.Unlock()
	}
}

// await waits until some event of the agent's life so far satisfies met, and returns the first that does.
func (a *agentProc) await(t *testing.T, what string, met func(*hostpb.HostEvent) bool) *hostpb.HostEvent {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for next := 0; ; {
		a.mu.Lock()
		events, changed := a.events, a.changed
		a.mu.Unlock()
		for ; next < len(events); next++ {
			if met(events[next]) {
				return events[next]
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("agent %s never reported: %s", a.node, what)
		}
	}
}
