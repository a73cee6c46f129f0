package hostapi_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostapitest"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
)

// pair is two servers of one cloud of which one leads: the other's port is closed.
type pair struct {
	t      *testing.T
	ca     *hostapi.Authority
	token  hostapi.JoinToken
	images hostapi.Images

	mu      sync.Mutex
	leading string // "a", "b" or none
	wires   map[string]*hostapitest.Wire
	dialled map[string]int
}

func newPair(t *testing.T, images hostapi.Images) *pair {
	ca, err := hostapi.NewAuthority(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return &pair{t: t, ca: ca, token: hostapi.NewJoinToken(ca.Fingerprint()), images: images, wires: map[string]*hostapitest.Wire{}, dialled: map[string]int{}}
}

// term has one server lead while during runs.
func (p *pair) term(name string, during func(w *hostapitest.Wire, e *ear)) {
	p.t.Helper()
	p.t.Run("led by "+name, func(t *testing.T) {
		e := newEar()
		w := hostapitest.StartWire(t, hostapitest.WireOptions{Authority: p.ca, Token: &p.token, Sessions: e, Images: p.images})
		p.mu.Lock()
		p.leading, p.wires[name] = name, w
		p.mu.Unlock()
		t.Cleanup(func() { // before the wire ends
			p.mu.Lock()
			defer p.mu.Unlock()
			p.leading = ""
		})
		during(w, e)
	})
}

var errClosedPort = errors.New("connection refused")

func (p *pair) dial(ctx context.Context, network, address string) (net.Conn, error) {
	p.mu.Lock()
	name, w := p.leading, p.wires[address]
	p.dialled[address]++
	p.mu.Unlock()
	if address != name {
		return nil, errClosedPort
	}
	return w.Dial(ctx, network, address)
}

func (p *pair) options(name cloud.HostName) hostapi.AgentOptions {
	return hostapi.AgentOptions{Servers: []string{"a", "b"}, Name: name, Token: p.token.String(), CertDir: p.t.TempDir(), Dial: p.dial}
}

func TestAnAgentFindsTheLeaderAndFollowsItWithBothConnections(t *testing.T) {
	p := newPair(t, shelf{[]byte("image")})
	host := hostapitest.NewFleet("compute-1").Host("compute-1")
	var agent *hostapi.Agent
	ctx, cancel := context.WithCancel(context.Background())
	var owned sync.WaitGroup
	t.Cleanup(func() { cancel(); owned.Wait() })
	check := func(w *hostapitest.Wire, e *ear) {
		if agent == nil { // the first server in the list does not lead: the agent enrols with the second
			var err error
			if agent, err = hostapi.Dial(limit(t), p.options("compute-1")); err != nil {
				t.Fatal(err)
			}
			agent.Outbox().PutFacts(host.CurrentFacts())
			agent.Outbox().PutObservation(&hostpb.ServerState{ServerId: "s1", Domain: hostpb.DomainState_DOMAIN_STATE_RUNNING})
			owned.Go(func() { _ = agent.Run(ctx, host) })
		}
		began := time.Now()
		e.wait(t, "compute-1 sees s1 DOMAIN_STATE_RUNNING", 1)
		client, err := w.Server.Pool().WaitHost(limit(t), "compute-1")
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("found after %v", time.Since(began))
		if _, err := client.Facts(limit(t), &hostpb.FactsRequest{}); err != nil {
			t.Error(err)
		}
		data, err := agent.FetchImage(limit(t), "img", 1)
		if err != nil {
			t.Fatal(err)
		}
		if text, err := io.ReadAll(data); string(text) != "mage" || err != nil {
			t.Errorf("read %q, %v", text, err)
		}
	}
	p.term("b", check)
	p.term("a", check)
	p.term("b", check)
}

func TestAnAgentWithoutALeaderDoesNotStormItsServers(t *testing.T) {
	p := newPair(t, nil)
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if _, err := hostapi.Dial(ctx, p.options("compute-1")); !cloud.Is(err, cloud.KindUnavailable) || !strings.Contains(err.Error(), errClosedPort.Error()) {
		t.Errorf("got %v", err)
	}
	// Pauses of at least 50, 100, 200 and 400 ms leave room for five rounds in a second.
	if p.dialled["a"] > 5 || p.dialled["b"] > 5 || p.dialled["b"] == 0 {
		t.Errorf("dialled %v", p.dialled)
	}
}
