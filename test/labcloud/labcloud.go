// Package labcloud is a godwit cloud on a lab, ready for the demo, the benchmarks and the end-to-end tests: hosts, server, an image of
// the test guest, a network, and the stock clients with their environment. It holds what those three would otherwise each write.
//
// Everything goes through the public API; the lab itself is reached only for what an API cannot do: pulling plugs, killing daemons,
// and putting a peer on a guest's network. A Cloud is used by one goroutine at a time, except its clients, which are safe for many.
package labcloud

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack"

	"github.com/godwit-cloud/godwit/internal/lab"
)

// Options says what Up makes.
type Options struct {
	Name      string         // of the lab
	Hosts     int            // compute hosts; 3 if zero
	Storage   int            // storage nodes; none if zero
	Gluster   bool           // GlusterFS nodes, whose volume all hosts keep server disks on
	Shared    bool           // all hosts have one directory of server disks
	BMC       bool           // compute hosts have BMCs, which the server knows
	WakeOnLAN bool           // compute hosts wake by magic packet
	Optimize  map[string]any // the server's configuration section of that name, as Placement and Recovery
	Placement map[string]any
	Recovery  map[string]any
	Agent     map[string]any // of the agents' configuration
	CPUs      int            // that each compute host says it has; all of the machine's if zero
	Binary    string         // the godwit program
	Tethered  bool           // the lab ends with this process
	Progress  func(string)   // one line a step; nil for none
}

// Cloud is a running lab with clients.
type Cloud struct {
	Lab     *lab.Lab
	Env     []string // OS_* of the administrator, for stock clients
	Compute *gophercloud.ServiceClient
	Image   *gophercloud.ServiceClient
	Network *gophercloud.ServiceClient
	Volume  *gophercloud.ServiceClient
	token   func() string
	apiURL  string
}

// computeMicroversion is what the clients ask for unless a call says otherwise.
const computeMicroversion = "2.90"

// OpenrcInside is where the controller's bootstrap writes its credentials.
const OpenrcInside = "/var/lib/godwit/openrc"

// Up brings a lab up and logs in.
func Up(ctx context.Context, o Options) (*Cloud, error) {
	l, err := lab.Up(ctx, lab.Options{Name: o.Name, Hosts: o.Hosts, Storage: o.Storage, Gluster: o.Gluster, Shared: o.Shared, BMC: o.BMC, WakeOnLAN: o.WakeOnLAN, Optimize: o.Optimize,
		Placement: o.Placement, Recovery: o.Recovery, Agent: o.Agent, CPUs: o.CPUs, Binary: o.Binary, Tethered: o.Tethered, Progress: o.Progress})
	if err != nil {
		return nil, err
	}
	c, err := Attach(ctx, l)
	if err == nil {
		err = c.WaitHosts(ctx, len(l.ComputeNodes()))
	}
	if err == nil && o.BMC {
		err = c.IntroduceBMCs(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, l.Down(context.WithoutCancel(ctx)))
	}
	return c, nil
}

// Attach logs in to a lab that is up.
func Attach(ctx context.Context, l *lab.Lab) (*Cloud, error) {
	c, err := Login(ctx, l.Path(lab.Controller, OpenrcInside), l.APIURL())
	if err == nil {
		c.Lab = l
	}
	return c, err
}

// Login makes the clients of a server that is not a lab's; its Cloud has no Lab.
func Login(ctx context.Context, openrc, apiURL string) (*Cloud, error) {
	env, err := readOpenrc(openrc)
	if err != nil {
		return nil, err
	}
	c := &Cloud{Env: env, apiURL: apiURL}
	get := func(name string) string {
		for _, kv := range env {
			if v, ok := strings.CutPrefix(kv, name+"="); ok {
				return v
			}
		}
		return ""
	}
	provider, err := openstack.AuthenticatedClient(ctx, gophercloud.AuthOptions{
		IdentityEndpoint: get("OS_AUTH_URL"), Username: get("OS_USERNAME"), Password: get("OS_PASSWORD"),
		DomainName: get("OS_USER_DOMAIN_NAME"), TenantName: get("OS_PROJECT_NAME"), AllowReauth: true,
	})
	if err != nil {
		return nil, fmt.Errorf("log in: %w", err)
	}
	region := gophercloud.EndpointOpts{Region: get("OS_REGION_NAME")}
	if c.Compute, err = openstack.NewComputeV2(provider, region); err != nil {
		return nil, err
	}
	c.Compute.Microversion = computeMicroversion
	if c.Image, err = openstack.NewImageV2(provider, region); err != nil {
		return nil, err
	}
	if c.Network, err = openstack.NewNetworkV2(provider, region); err != nil {
		return nil, err
	}
	if c.Volume, err = openstack.NewBlockStorageV3(provider, region); err != nil {
		return nil, err
	}
	c.token = provider.Token
	return c, nil
}

// readOpenrc returns the variables a shell would have after sourcing the file.
func readOpenrc(path string) ([]string, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("credentials: %w", err)
	}
	var env []string
	lines := bufio.NewScanner(bytes.NewReader(raw))
	for lines.Scan() {
		kv, ok := strings.CutPrefix(strings.TrimSpace(lines.Text()), "export ")
		if !ok {
			continue
		}
		name, value, _ := strings.Cut(kv, "=")
		env = append(env, name+"="+strings.Trim(value, `'"`))
	}
	if len(env) == 0 {
		return nil, fmt.Errorf("credentials: %s sets nothing", path)
	}
	return env, nil
}

// Client runs a stock client (openstack, nova ...) as the administrator and returns what it printed. A failure quotes its stderr.
func (c *Cloud) Client(ctx context.Context, argv ...string) (string, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "LANG=C.UTF-8", "PYTHONWARNINGS=ignore"}, c.Env...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, strings.TrimSpace(errOut.String()))
	}
	return out.String(), nil
}

// pollPeriod is how often a condition is asked for that the public API has no event for.
const pollPeriod = 50 * time.Millisecond

// Until asks done until it says so, fails, or ctx ends.
func Until(ctx context.Context, what string, done func() (bool, error)) error {
	tick := time.NewTicker(pollPeriod)
	defer tick.Stop()
	for {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, context.Cause(ctx))
		case <-tick.C:
		}
	}
}
