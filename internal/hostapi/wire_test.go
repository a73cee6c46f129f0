package hostapi_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostapitest"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
)

// patience bounds every wait of these tests; nothing waits that long unless it is broken.
const patience = 30 * time.Second

func limit(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// ear is a SessionHandler that keeps what it hears as lines.
type ear struct {
	mu     sync.Mutex
	lines  []string
	heard  chan struct{} // closed and replaced at each line
	refuse error         // returned by the next HostUp
}

func newEar() *ear { return &ear{heard: make(chan struct{})} }

func (e *ear) say(format string, args ...any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.lines = append(e.lines, fmt.Sprintf(format, args...))
	close(e.heard)
	e.heard = make(chan struct{})
}

func (e *ear) HostUp(_ context.Context, name cloud.HostName, _ *hostpb.HostFacts) error {
	e.mu.Lock()
	err := e.refuse
	e.refuse = nil
	e.mu.Unlock()
	if err != nil {
		return err
	}
	e.say("up %s", name)
	return nil
}

func (e *ear) Event(_ context.Context, name cloud.HostName, event *hostpb.HostEvent) error {
	switch x := event.GetEvent().(type) {
	case *hostpb.HostEvent_Observation:
		e.say("%s sees %s %s", name, x.Observation.GetServerId(), x.Observation.GetDomain())
	case *hostpb.HostEvent_Heartbeat:
		e.say("%s beats %d", name, x.Heartbeat.GetSeq())
	case *hostpb.HostEvent_Progress:
		e.say("%s moves %s", name, x.Progress.GetMigrationId())
	}
	return nil
}

func (e *ear) HostDown(name cloud.HostName) { e.say("down %s", name) }

// wait blocks until the line has been heard n times.
func (e *ear) wait(t *testing.T, line string, n int) {
	t.Helper()
	ctx := limit(t)
	for {
		e.mu.Lock()
		heard, count := e.heard, 0
		for _, l := range e.lines {
			if l == line {
				count++
			}
		}
		e.mu.Unlock()
		if count >= n {
			return
		}
		select {
		case <-heard:
		case <-ctx.Done():
			t.Fatalf("%q was not heard %d times; heard %q", line, n, e.all())
		}
	}
}

func (e *ear) all() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.lines)
}

func TestAHostEnrolsReportsAndIsCalled(t *testing.T) {
	e := newEar()
	w := hostapitest.StartWire(t, hostapitest.WireOptions{Sessions: e})
	fleet := hostapitest.NewFleet("compute-1")
	agent, _ := w.StartFake(t, fleet.Host("compute-1"))
	agent.Outbox().PutObservation(&hostpb.ServerState{ServerId: "s1", Domain: hostpb.DomainState_DOMAIN_STATE_RUNNING})
	e.wait(t, "up compute-1", 1)
	e.wait(t, "compute-1 sees s1 DOMAIN_STATE_RUNNING", 1)
	e.wait(t, "compute-1 beats 2", 1)

	client, err := w.Server.Pool().WaitHost(limit(t), "compute-1")
	if err != nil {
		t.Fatal(err)
	}
	facts, err := client.Facts(limit(t), &hostpb.FactsRequest{})
	if err != nil || facts.GetName() != "compute-1" {
		t.Errorf("facts: %v %v", facts, err)
	}
	_, err = client.Stop(limit(t), &hostpb.StopRequest{Call: &hostpb.Call{ServerId: "none", Generation: 1, RunId: "r"}})
	if !cloud.Is(err, cloud.KindNotFound) {
		t.Errorf("the host's error lost its kind: %v", err)
	}
	for _, path := range []string{agent.Files().Key, agent.Files().Cert} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", path, info, err)
		}
	}
}

func TestAnUnconnectedHostIsUnavailable(t *testing.T) {
	w := hostapitest.StartWire(t, hostapitest.WireOptions{})
	if _, err := w.Server.Pool().Host("nobody"); !cloud.Is(err, cloud.KindUnavailable) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := w.Server.Pool().WaitHost(ctx, "nobody"); !cloud.Is(err, cloud.KindUnavailable) {
		t.Errorf("got %v", err)
	}
}

func TestAWrongTokenIsRefusedForGood(t *testing.T) {
	w := hostapitest.StartWire(t, hostapitest.WireOptions{})
	opts := w.AgentOptions(t, "compute-1")
	opts.Token = hostapi.NewJoinToken(w.Authority.Fingerprint()).String()
	if _, err := hostapi.Dial(limit(t), opts); !cloud.Is(err, cloud.KindForbidden) {
		t.Errorf("got %v", err)
	}
}

func TestTheSecretIsNotSaidToAnImpostor(t *testing.T) {
	w := hostapitest.StartWire(t, hostapitest.WireOptions{})
	other, err := hostapi.NewAuthority(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan struct{}, 1)
	opts := w.AgentOptions(t, "compute-1")
	opts.Token = hostapi.NewJoinToken(other.Fingerprint()).String()
	opts.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		asked <- struct{}{}
		return w.Dial(ctx, network, addr)
	}
	if _, err := hostapi.Dial(limit(t), opts); !cloud.Is(err, cloud.KindForbidden) {
		t.Errorf("got %v", err)
	}
	if len(asked) != 1 {
		t.Error("the agent tried again")
	}
}

func TestNoTokenAndNoCertificateIsAnError(t *testing.T) {
	w := hostapitest.StartWire(t, hostapitest.WireOptions{})
	opts := w.AgentOptions(t, "compute-1")
	opts.Token = ""
	if _, err := hostapi.Dial(limit(t), opts); !cloud.Is(err, cloud.KindInvalid) {
		t.Errorf("got %v", err)
	}
}

func TestACertificateOutlivesItsToken(t *testing.T) {
	e := newEar()
	w := hostapitest.StartWire(t, hostapitest.WireOptions{Sessions: e})
	host := hostapitest.NewFleet("compute-1").Host("compute-1")
	opts := w.AgentOptions(t, "compute-1")
	_, stop := w.StartAgent(t, opts, host)
	stop()
	opts.Token = ""
	agent, _ := w.StartAgent(t, opts, host)
	agent.Outbox().PutFacts(host.CurrentFacts())
	e.wait(t, "up compute-1", 1)
}

func TestChangedAddressesRenewTheCertificateWithoutToken(t *testing.T) {
	w := hostapitest.StartWire(t, hostapitest.WireOptions{})
	opts := w.AgentOptions(t, "compute-1")
	if _, err := hostapi.Dial(limit(t), opts); err != nil {
		t.Fatal(err)
	}
	opts.Token, opts.Addresses = "", []net.IP{net.ParseIP("192.0.2.9")}
	second, err := hostapi.Dial(limit(t), opts)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(second.Files().Cert, second.Files().Key)
	if err != nil {
		t.Fatal(err)
	}
	if err := pair.Leaf.VerifyHostname("192.0.2.9"); err != nil {
		t.Error(err)
	}
}

func TestACrashBetweenKeyAndCertificateLeavesAUsablePair(t *testing.T) {
	w := hostapitest.StartWire(t, hostapitest.WireOptions{})
	opts := w.AgentOptions(t, "compute-1")
	agent, err := hostapi.Dial(limit(t), opts)
	if err != nil {
		t.Fatal(err)
	}
	files := agent.Files()
	// As if the process had died after the certificate and before the key's rename: the old key is still in place.
	if err := os.Rename(files.Key, files.Key+".next"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(files.Key, []byte("an older key"), 0o600); err != nil {
		t.Fatal(err)
	}
	opts.Token = ""
	if _, err := hostapi.Dial(limit(t), opts); err != nil {
		t.Fatal(err)
	}
	if _, err := tls.LoadX509KeyPair(files.Cert, files.Key); err != nil {
		t.Error(err)
	}
}

// dialAs speaks the wire with a given identity and protocol, without the agent's care.
func dialAs(t *testing.T, w *hostapitest.Wire, protocol string, certs ...tls.Certificate) error {
	t.Helper()
	conn, err := w.Dial(limit(t), "", "")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{protocol}, Certificates: certs})
	if err := c.HandshakeContext(limit(t)); err != nil {
		return err
	}
	_ = c.SetReadDeadline(time.Now().Add(patience))
	_, err = c.Read(make([]byte, 1)) // the server speaks first on a reversed connection, or closes it
	return err
}

func TestAForeignCertificateIsRefused(t *testing.T) {
	w, foreign := hostapitest.StartWire(t, hostapitest.WireOptions{}), hostapitest.StartWire(t, hostapitest.WireOptions{})
	agent, err := hostapi.Dial(limit(t), foreign.AgentOptions(t, "compute-1"))
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(agent.Files().Cert, agent.Files().Key)
	if err != nil {
		t.Fatal(err)
	}
	for _, protocol := range []string{"h2", "godwit-host/1"} {
		if err := dialAs(t, w, protocol, pair); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: got %v", protocol, err)
		}
	}
	if hosts := w.Server.Pool().Hosts(); len(hosts) != 0 {
		t.Errorf("connected: %v", hosts)
	}
}

func TestAReversedConnectionNeedsACertificate(t *testing.T) {
	w := hostapitest.StartWire(t, hostapitest.WireOptions{})
	if err := dialAs(t, w, "godwit-host/1"); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestAnUnknownProtocolIsRefused(t *testing.T) {
	w := hostapitest.StartWire(t, hostapitest.WireOptions{})
	if err := dialAs(t, w, "http/1.1"); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestAHostCannotReportAsAnother(t *testing.T) {
	e := newEar()
	w := hostapitest.StartWire(t, hostapitest.WireOptions{Sessions: e})
	host := hostapitest.NewFleet("compute-1").Host("compute-1")
	agent, _ := w.StartAgent(t, w.AgentOptions(t, "compute-1"), host)
	agent.Outbox().PutFacts(&hostpb.HostFacts{Name: "compute-2"})
	if _, err := w.Server.Pool().WaitHost(limit(t), "compute-1"); err != nil {
		t.Fatal(err)
	}
	agent.Outbox().PutFacts(&hostpb.HostFacts{Name: "compute-1"})
	e.wait(t, "up compute-1", 1)
	if slices.Contains(e.all(), "up compute-2") {
		t.Error("the lie was believed")
	}
}

func TestASessionThatTheHandlerRefusesIsTriedAgain(t *testing.T) {
	e := newEar()
	e.refuse = cloud.Errorf(cloud.KindUnavailable, "store is away")
	w := hostapitest.StartWire(t, hostapitest.WireOptions{Sessions: e})
	w.StartFake(t, hostapitest.NewFleet("compute-1").Host("compute-1"))
	e.wait(t, "up compute-1", 1)
	if slices.Contains(e.all(), "down compute-1") {
		t.Error("HostDown without HostUp")
	}
}

func TestANewerSessionReplacesTheOlderInTurn(t *testing.T) {
	e := newEar()
	w := hostapitest.StartWire(t, hostapitest.WireOptions{Sessions: e})
	host := hostapitest.NewFleet("compute-1").Host("compute-1")
	_, stopOld := w.StartFake(t, host)
	e.wait(t, "compute-1 beats 1", 1)
	old, err := w.Server.Pool().WaitHost(limit(t), "compute-1")
	if err != nil {
		t.Fatal(err)
	}
	changed := w.Server.Pool().Changed()
	_, stopNew := w.StartFake(t, host)
	e.wait(t, "up compute-1", 2)
	<-changed
	stopOld()
	stopNew()
	e.wait(t, "down compute-1", 2)
	up := false
	for _, line := range e.all() {
		switch line {
		case "up compute-1":
			if up {
				t.Fatalf("up twice: %q", e.all())
			}
			up = true
		case "down compute-1":
			up = false
		}
	}
	if _, err := old.Facts(limit(t), &hostpb.FactsRequest{}); !cloud.Is(err, cloud.KindUnavailable) {
		t.Errorf("a call on a replaced connection: %v", err)
	}
}

func TestEverythingIsSaidAgainAfterAReconnect(t *testing.T) {
	e := newEar()
	ca, err := hostapi.NewAuthority(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	token := hostapi.NewJoinToken(ca.Fingerprint())
	servers := make(chan *hostapitest.Wire, 1)
	start := func(t *testing.T) { // a server process that ends with its subtest
		servers <- hostapitest.StartWire(t, hostapitest.WireOptions{Authority: ca, Token: &token, Sessions: e})
	}
	var mu sync.Mutex
	var current *hostapitest.Wire
	host := hostapitest.NewFleet("compute-1").Host("compute-1")
	var agent *hostapi.Agent
	t.Run("before", func(t2 *testing.T) {
		start(t2)
		current = <-servers
		opts := current.AgentOptions(t, "compute-1")
		opts.Dial = func(ctx context.Context, n, a string) (net.Conn, error) {
			mu.Lock()
			w := current
			mu.Unlock()
			return w.Dial(ctx, n, a)
		}
		agent, _ = current.StartAgent(t, opts, host)
		agent.Outbox().PutFacts(host.CurrentFacts())
		agent.Outbox().PutObservation(&hostpb.ServerState{ServerId: "s1", Seq: 1, Domain: hostpb.DomainState_DOMAIN_STATE_RUNNING})
		e.wait(t2, "compute-1 sees s1 DOMAIN_STATE_RUNNING", 1)
	})
	e.wait(t, "down compute-1", 1)
	agent.Outbox().PutObservation(&hostpb.ServerState{ServerId: "s2", Seq: 2, Domain: hostpb.DomainState_DOMAIN_STATE_PAUSED})
	t.Run("after", func(t2 *testing.T) {
		start(t2)
		mu.Lock()
		current = <-servers
		mu.Unlock()
		e.wait(t2, "compute-1 sees s1 DOMAIN_STATE_RUNNING", 2)
		e.wait(t2, "compute-1 sees s2 DOMAIN_STATE_PAUSED", 1)
		if _, err := current.Server.Pool().WaitHost(limit(t2), "compute-1"); err != nil {
			t2.Error(err)
		}
	})
}

// frozen is a connection that can stop carrying bytes without being closed, as when a host loses power.
type frozen struct {
	net.Conn
	stop <-chan struct{}
}

func (f frozen) Write(p []byte) (int, error) {
	select {
	case <-f.stop:
		return len(p), nil
	default:
		return f.Conn.Write(p)
	}
}

func TestASilentHostIsDownAndCallsToItReturn(t *testing.T) {
	e := newEar()
	w := hostapitest.StartWire(t, hostapitest.WireOptions{Sessions: e, SessionTTL: 3 * time.Second})
	fleet := hostapitest.NewFleet("compute-1")
	host := fleet.Host("compute-1")
	stop := make(chan struct{})
	opts := w.AgentOptions(t, "compute-1")
	opts.Dial = func(ctx context.Context, n, a string) (net.Conn, error) {
		select {
		case <-stop:
			return nil, errors.New("no power")
		default:
		}
		c, err := w.Dial(ctx, n, a)
		return frozen{c, stop}, err
	}
	agent, _ := w.StartAgent(t, opts, host)
	agent.Outbox().PutFacts(host.CurrentFacts())
	e.wait(t, "compute-1 beats 1", 1)
	client, err := w.Server.Pool().WaitHost(limit(t), "compute-1")
	if err != nil {
		t.Fatal(err)
	}
	entered, leave := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { close(leave) })
	fleet.Inject(hostapitest.Fault{Call: "Inspect", Do: func() { close(entered); <-leave }})
	result := make(chan error, 1)
	go func() {
		_, err := client.Inspect(context.Background(), &hostpb.InspectRequest{ServerId: "s"})
		result <- err
	}()
	<-entered
	close(stop)
	e.wait(t, "down compute-1", 1)
	select {
	case err := <-result:
		if !cloud.Is(err, cloud.KindUnavailable) {
			t.Errorf("got %v", err)
		}
	case <-limit(t).Done():
		t.Error("the call hangs")
	}
}

// shelf is an image source with one image.
type shelf struct{ data []byte }

func (s shelf) Open(_ context.Context, id cloud.ImageID, offset int64) (io.ReadCloser, error) {
	if id != "img" {
		return nil, cloud.Errorf(cloud.KindNotFound, "image %s does not exist", id)
	}
	return io.NopCloser(bytes.NewReader(s.data[offset:])), nil
}

func TestImagesStreamFromAnyOffset(t *testing.T) {
	data := make([]byte, 3<<20+17)
	for i := range data {
		data[i] = byte(i * 31 >> 3)
	}
	w := hostapitest.StartWire(t, hostapitest.WireOptions{Images: shelf{data}})
	agent, _ := w.StartFake(t, hostapitest.NewFleet("compute-1").Host("compute-1"))
	for _, offset := range []int64{0, 1, 1 << 20, int64(len(data)) - 1, int64(len(data))} {
		r, err := agent.FetchImage(limit(t), "img", offset)
		if err != nil {
			t.Fatalf("offset %d: %v", offset, err)
		}
		got, err := io.ReadAll(r)
		r.Close()
		if err != nil || !bytes.Equal(got, data[offset:]) {
			t.Errorf("offset %d: %d bytes, %v", offset, len(got), err)
		}
	}
	if _, err := agent.FetchImage(limit(t), "other", 0); !cloud.Is(err, cloud.KindNotFound) {
		t.Errorf("a missing image: %v", err)
	}
}

func TestImagesAreSentToAllHostsTogetherNoFasterThanTheBound(t *testing.T) {
	const size, perSecond, burst, hosts = 1 << 20, 4 << 20, 1 << 20, 3
	w := hostapitest.StartWire(t, hostapitest.WireOptions{Images: shelf{make([]byte, size)}, ImageBandwidth: perSecond})
	agent, _ := w.StartFake(t, hostapitest.NewFleet("compute-1").Host("compute-1"))
	began := time.Now()
	var all sync.WaitGroup
	for range hosts {
		all.Go(func() {
			r, err := agent.FetchImage(limit(t), "img", 0)
			if err != nil {
				t.Error(err)
				return
			}
			defer r.Close()
			if n, err := io.Copy(io.Discard, r); n != size || err != nil {
				t.Errorf("%d bytes, %v", n, err)
			}
		})
	}
	all.Wait()
	if least := time.Second * (hosts*size - burst) / perSecond; time.Since(began) < least*9/10 {
		t.Errorf("%d images of %d bytes came in %s, the bound says %s", hosts, size, time.Since(began), least)
	}
}

func TestAHundredHostsInOneProcess(t *testing.T) {
	const n = 100
	e := newEar()
	w := hostapitest.StartWire(t, hostapitest.WireOptions{Sessions: e, SessionTTL: patience})
	var names []cloud.HostName
	for i := range n {
		names = append(names, cloud.HostName(fmt.Sprintf("h%d", i)))
	}
	fleet := hostapitest.NewFleet(names...)
	for _, name := range names {
		w.StartFake(t, fleet.Host(name))
	}
	var calls sync.WaitGroup
	for _, name := range names {
		calls.Go(func() {
			client, err := w.Server.Pool().WaitHost(limit(t), name)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				return
			}
			facts, err := client.Facts(limit(t), &hostpb.FactsRequest{})
			if err != nil || facts.GetName() != string(name) {
				t.Errorf("%s answers as %q: %v", name, facts.GetName(), err)
			}
		})
	}
	calls.Wait()
	for _, name := range names {
		e.wait(t, "up "+string(name), 1)
	}
	if got := len(w.Server.Pool().Hosts()); got != n {
		t.Errorf("%d hosts", got)
	}
}
