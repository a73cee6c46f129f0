package standby

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/imagedata"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostapitest"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/test/freeport"
	"github.com/godwit-cloud/godwit/test/labcloud"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// process is one `godwit server`.
type process struct {
	t                 *testing.T
	name, dir, config string
	api, agents       string // addresses
	cmd               *exec.Cmd
	log               *lines
}

// lines is a log that may be read while it is written.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// plant is two servers on one etcd, one address in front of them, and simulated hosts.
type plant struct {
	t      *testing.T
	etcd   cluster
	images string
	front  net.Listener
	a, b   *process
	fleet  *hostapitest.Fleet
	agents map[cloud.HostName]*hostapi.Agent
}

func newPlant(t *testing.T) *plant {
	t.Helper()
	p := &plant{t: t, etcd: startCluster(t), images: t.TempDir(), agents: map[cloud.HostName]*hostapi.Agent{}}
	var err error
	p.front, err = net.Listen("tcp4", "127.0.0.1:0")
	must(t, err)
	p.a, p.b = p.server("a"), p.server("b")
	var forwarding sync.WaitGroup
	forwarding.Go(func() { p.forward(&forwarding) })
	t.Cleanup(func() { p.front.Close(); forwarding.Wait() })
	return p
}

// server writes the configuration of one server. Each has its own disk, but for the images.
func (p *plant) server(name string) *process {
	p.t.Helper()
	dir := p.t.TempDir()
	s := &process{t: p.t, name: name, dir: dir, config: filepath.Join(dir, "godwit.yaml"), api: freeport.Address(p.t), agents: freeport.Address(p.t)}
	text := fmt.Sprintf(`
server:
  name: %s
  api_listen: %s
  agent_listen: %s
  public_url: http://%s
  data_dir: %s
  image_dir: %s
  join_token_file: %s
  etcd_endpoints: [%s]
  etcd_ca: %s
  etcd_cert: %s
  etcd_key: %s
migration:
  outbound_max: 8
  inbound_max: 8
`, name, s.api, s.agents, p.front.Addr(), dir, p.images, filepath.Join(dir, "join-token"), p.etcd.endpoint, p.etcd.ca, p.etcd.cert, p.etcd.key)
	must(p.t, os.WriteFile(s.config, []byte(text), 0o600))
	return s
}

// start runs the server until it is killed or stopped, at the latest with the test, and returns when its API answers.
func (s *process) start(ctx context.Context, binary string) {
	s.t.Helper()
	s.log = &lines{}
	s.cmd = exec.Command(binary, "--config", s.config, "server")
	s.cmd.Stderr = s.log
	must(s.t, s.cmd.Start())
	ended := s.cmd
	s.t.Cleanup(func() {
		ended.Process.Kill()
		ended.Wait()
		if s.t.Failed() {
			s.t.Logf("server %s said:\n%s", s.name, s.log)
		}
	})
	must(s.t, labcloud.Until(ctx, "server "+s.name+" answers", func() (bool, error) {
		resp, err := http.Get("http://" + s.api + "/healthz")
		if err != nil {
			return false, nil
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK, nil
	}))
}

// end sends a signal and waits for the process.
func (s *process) end(signal syscall.Signal) {
	s.t.Helper()
	must(s.t, s.cmd.Process.Signal(signal))
	s.cmd.Wait() // a killed one fails
}

// leads reports whether the server takes agents: what an operator's balancer checks.
func (s *process) leads() bool { return accepts(s.agents) }

func accepts(address string) bool {
	conn, err := net.DialTimeout("tcp4", address, patience)
	if err == nil {
		conn.Close()
	}
	return err == nil
}

// forward is what the balancer of docs/operating/standby.md does: connections go to the server that leads, or to any while none does.
func (p *plant) forward(owned *sync.WaitGroup) {
	for {
		client, err := p.front.Accept()
		if err != nil {
			return
		}
		owned.Go(func() {
			defer client.Close()
			server, err := p.pick()
			if err != nil {
				return
			}
			defer server.Close()
			done := make(chan struct{}, 2)
			for _, way := range [][2]net.Conn{{client, server}, {server, client}} {
				owned.Go(func() {
					io.Copy(way[0], way[1])
					done <- struct{}{}
				})
			}
			<-done
		})
	}
}

func (p *plant) pick() (net.Conn, error) {
	for _, s := range []*process{p.a, p.b} {
		if s.leads() {
			return net.Dial("tcp4", s.api)
		}
	}
	conn, err := net.Dial("tcp4", p.a.api)
	if err != nil {
		conn, err = net.Dial("tcp4", p.b.api)
	}
	return conn, err
}

// connect runs an agent for each fake host. The list of servers begins with the one that stands by, whose copy of the join token they use.
func (p *plant) connect(ctx context.Context, names ...cloud.HostName) {
	p.t.Helper()
	token, err := os.ReadFile(filepath.Join(p.b.dir, "join-token"))
	must(p.t, err)
	p.fleet = hostapitest.NewFleet(names...)
	p.fleet.OnObservation(func(h cloud.HostName, s *hostpb.ServerState) { p.agents[h].Outbox().PutObservation(s) })
	running, stop := context.WithCancel(context.Background())
	var owned sync.WaitGroup
	p.t.Cleanup(func() { stop(); owned.Wait() })
	for _, name := range names {
		agent, err := hostapi.Dial(ctx, hostapi.AgentOptions{
			Servers: []string{p.b.agents, p.a.agents}, Name: name, Token: strings.TrimSpace(string(token)), CertDir: p.t.TempDir(),
		})
		must(p.t, err)
		agent.Outbox().PutFacts(p.fleet.Host(name).CurrentFacts())
		p.agents[name] = agent
		owned.Go(func() { agent.Run(running, p.fleet.Host(name)) })
	}
}

// tenant is what is made through the API before anything is broken.
type tenant struct {
	*labcloud.Cloud
	guest labcloud.Guest
}

func (p *plant) furnish(ctx context.Context, hosts int) *tenant {
	p.t.Helper()
	c, err := labcloud.Login(ctx, filepath.Join(p.a.dir, "openrc"), "http://"+p.front.Addr().String())
	must(p.t, err)
	must(p.t, c.WaitHosts(ctx, hosts))
	img, err := images.Create(ctx, c.Image, images.CreateOpts{Name: "image", DiskFormat: "raw", ContainerFormat: "bare"}).Extract()
	must(p.t, err)
	must(p.t, imagedata.Upload(ctx, c.Image, img.ID, bytes.NewReader(imageData)).ExtractErr())
	t := &tenant{Cloud: c, guest: labcloud.Guest{Name: "guest", Image: img.ID}}
	t.guest.Flavor, err = c.Flavor(ctx, "small", 1, 64, 1)
	must(p.t, err)
	t.guest.Network, err = c.NetworkWithSubnet(ctx, "net", "10.9.0.0/24")
	must(p.t, err)
	return t
}

// imageData is the image every server boots from.
var imageData = bytes.Repeat([]byte("godwit  "), 1<<17)

// ask sends one request to one server's compute API, past the balancer.
func (t *tenant) ask(ctx context.Context, s *process, method, path, body string) (status int, answer string) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+s.api+"/compute/v2.1/"+path, strings.NewReader(body))
	must(s.t, err)
	req.Header.Set("X-Auth-Token", t.Compute.Token())
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	must(s.t, err)
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	must(s.t, err)
	return resp.StatusCode, string(raw)
}
