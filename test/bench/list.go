package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostapitest"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/test/bench/proc"
	"github.com/godwit-cloud/godwit/test/guest"
	"github.com/godwit-cloud/godwit/test/labcloud"
)

const (
	listServers   = 1000 // Nova's own osapi_max_limit: one page
	listHosts     = 20
	listPerCall   = 100
	listDuration  = 10 * time.Second
	listReadyMax  = 2 * time.Minute
	fakeServerRAM = 16
)

// plant is a godwit server with a fleet of simulated hosts: the real binary, API, store and flows; only the hosts are pretended.
type plant struct {
	*labcloud.Cloud
	server *exec.Cmd
	dir    string
	hosts  sync.WaitGroup
	stop   context.CancelFunc
}

func freePort() (string, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

func startPlant(ctx context.Context, binary string) (*plant, error) {
	dir, err := os.MkdirTemp("", "godwit-bench-")
	if err != nil {
		return nil, err
	}
	api, err := freePort()
	if err != nil {
		return nil, err
	}
	agents, err := freePort()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	p := &plant{dir: dir, stop: cancel}
	p.server = exec.CommandContext(ctx, binary, "server", "--api-listen", api, "--agent-listen", agents, "--data-dir", dir, "--join-token-file", filepath.Join(dir, "join-token"))
	p.server.Stderr = os.Stderr
	p.server.Env = append(os.Environ(), "GODWIT_SERVER_LOG_LEVEL=warn")
	if err := p.server.Start(); err != nil {
		return nil, err
	}
	if err := p.furnish(ctx, api, agents); err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

func (p *plant) furnish(ctx context.Context, api, agents string) error {
	ready, cancel := context.WithTimeout(ctx, listReadyMax)
	defer cancel()
	err := labcloud.Until(ready, "server answers", func() (bool, error) {
		resp, err := http.Get("http://" + api + "/healthz")
		if err != nil {
			return false, nil
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK, nil
	})
	if err != nil {
		return err
	}
	if p.Cloud, err = labcloud.Login(ctx, filepath.Join(p.dir, "openrc"), "http://"+api); err != nil {
		return err
	}
	token, err := os.ReadFile(filepath.Join(p.dir, "join-token"))
	if err != nil {
		return err
	}
	var names []cloud.HostName
	for i := range listHosts {
		names = append(names, cloud.HostName(fmt.Sprintf("fake-%02d", i)))
	}
	fleet := hostapitest.NewFleet(names...)
	outboxes := map[cloud.HostName]*hostapi.Outbox{} // complete before the first server boots, and so before the first observation
	fleet.OnObservation(func(name cloud.HostName, state *hostpb.ServerState) { outboxes[name].PutObservation(state) })
	for i, name := range names {
		agent, err := hostapi.Dial(ctx, hostapi.AgentOptions{Servers: []string{agents}, Name: name, Token: strings.TrimSpace(string(token)),
			CertDir: filepath.Join(p.dir, "hosts", string(name)), Addresses: []net.IP{net.IPv4(192, 0, 2, byte(10+i))}})
		if err != nil {
			return err
		}
		outboxes[name] = agent.Outbox()
		agent.Outbox().PutFacts(fleet.Host(name).CurrentFacts())
		p.hosts.Go(func() { agent.Run(ctx, fleet.Host(name)) })
	}
	return p.WaitHosts(ready, listHosts)
}

// populate boots the servers, many to a call.
func (p *plant) populate(ctx context.Context) error {
	path, err := guest.Image(ctx)
	if err != nil {
		return err
	}
	image, err := p.UploadImage(ctx, "guest", path)
	if err != nil {
		return err
	}
	flavor, err := p.Flavor(ctx, "tiny", 1, fakeServerRAM, 1)
	if err != nil {
		return err
	}
	network, err := p.NetworkWithSubnet(ctx, "wide", "10.64.0.0/16")
	if err != nil {
		return err
	}
	if err := p.LiftQuota(ctx); err != nil {
		return err
	}
	for i := range listServers / listPerCall {
		if err := p.BootMany(ctx, labcloud.Guest{Name: fmt.Sprintf("fleet-%d", i), Image: image, Flavor: flavor, Network: network}, listPerCall); err != nil {
			return err
		}
	}
	return p.WaitCount(ctx, "ACTIVE", listServers)
}

func (p *plant) close() error {
	p.stop()
	err := p.server.Wait()
	p.hosts.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = nil // ended by us
	}
	return errors.Join(err, os.RemoveAll(p.dir))
}

// measureList loads GET /servers/detail with all servers on one page.
func measureList(ctx context.Context, b *bench) (string, error) {
	p, err := startPlant(ctx, b.binary)
	if err != nil {
		return "", err
	}
	text, err := p.measure(ctx)
	return text, errors.Join(err, p.close())
}

func (p *plant) measure(ctx context.Context) (string, error) {
	if err := p.populate(ctx); err != nil {
		return "", err
	}
	t := table{head: []string{"connections", "requests/s", "p50, ms", "p99, ms", "bytes a reply"}}
	for _, connections := range []int{1, 4, 16} {
		r, err := p.load(ctx, connections)
		if err != nil {
			return "", err
		}
		t.add(fmt.Sprint(connections), fmt.Sprintf("%.0f", float64(len(r.latency))/listDuration.Seconds()), fmt.Sprintf("%.1f", r.latency.median()),
			fmt.Sprintf("%.1f", r.latency.quantile(0.99)), fmt.Sprint(r.bytes))
	}
	rss, err := proc.RSS(p.server.Process.Pid)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf(`A server with %d simulated hosts and %d ACTIVE servers with a port each; `+"`GET /servers/detail?limit=1000`"+` for %v, client on the
same two cores, gzip off.

%s
Server's resident memory after the load: %.0f MB.
`, listHosts, listServers, listDuration, t.String(), rss), nil
}

type loadResult struct {
	latency sample // milliseconds
	bytes   int64
}

func (p *plant) load(ctx context.Context, connections int) (loadResult, error) {
	ctx, cancel := context.WithTimeout(ctx, listDuration)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: connections, DisableCompression: true, TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{}}}
	defer client.CloseIdleConnections()
	var mu sync.Mutex
	var out loadResult
	var failed error
	var workers sync.WaitGroup
	for range connections {
		workers.Go(func() {
			for ctx.Err() == nil {
				began := time.Now()
				n, err := p.fetch(ctx, client)
				mu.Lock()
				switch {
				case err == nil:
					out.latency, out.bytes = append(out.latency, millis(time.Since(began))), n
				case ctx.Err() == nil:
					failed = err
				}
				mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	workers.Wait()
	return out, failed
}

func (p *plant) fetch(ctx context.Context, client *http.Client) (int64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.Compute.Endpoint+"servers/detail?limit=1000", nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("X-Auth-Token", p.Compute.Token())
	req.Header.Set("OpenStack-API-Version", "compute 2.90")
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET servers/detail: %s", resp.Status)
	}
	return n, err
}
