package lab

import (
	"fmt"
	"net/netip"
	"os"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/godwit-cloud/godwit/internal/hostapi"
)

const (
	agentPort     = 8779
	nbdPort       = 10809
	metricsPort   = 8780
	configFile    = "/etc/godwit/godwit.yaml"
	joinTokenFile = "/etc/godwit/join-token"
	dataDirInside = "/var/lib/godwit"
	authorityFile = dataDirInside + "/authority.pem" // where a server's first start takes its authority from
)

// serverConfig and agentConfig mirror the keys of the daemons' configuration file that a lab sets; all others keep their defaults.
type serverConfig struct {
	APIListen     string `yaml:"api_listen"`
	AgentListen   string `yaml:"agent_listen"`
	DataDir       string `yaml:"data_dir"`
	JoinTokenFile string `yaml:"join_token_file"`
	PublicURL     string `yaml:"public_url"`
}

type agentConfig struct {
	Server           string `yaml:"server"`
	JoinTokenFile    string `yaml:"join_token_file"`
	Name             string `yaml:"name"`
	MigrationAddress string `yaml:"migration_address"`
	TunnelAddress    string `yaml:"tunnel_address"`
	DiskMount        string `yaml:"disk_mount,omitempty"`
	DiskShared       bool   `yaml:"disk_shared,omitempty"`
	CPUs             int    `yaml:"cpus,omitempty"`

	More map[string]any `yaml:",inline"` // what the lab's maker says
}

// settings are what a lab's maker says of the daemons' configuration.
type settings struct {
	optimize, placement, recovery map[string]any // the server's
	agent                         map[string]any
	cpus                          int // the agents'
}

type volumesConfig struct {
	Server        string          `yaml:"server"`
	JoinTokenFile string          `yaml:"join_token_file"`
	Name          string          `yaml:"name"`
	NBDListen     string          `yaml:"nbd_listen"`
	MetricsListen string          `yaml:"metrics_listen"`
	Backends      []backendConfig `yaml:"backends"`
}

type backendConfig struct {
	Name string `yaml:"name"`
	Kind string `yaml:"kind,omitempty"`
	Path string `yaml:"path"`
}

type godwitConfig struct {
	Server  *serverConfig  `yaml:"server,omitempty"`
	Agent   *agentConfig   `yaml:"agent,omitempty"`
	Volumes *volumesConfig `yaml:"volumes,omitempty"`
	// Optimize and Recovery are what the lab's maker says.
	Optimize map[string]any `yaml:"optimize,omitempty"`
	// Placement is what it says of placement.
	Placement map[string]any `yaml:"placement,omitempty"`
	Recovery  map[string]any `yaml:"recovery,omitempty"`
}

// APIURL is where clients on this machine reach the server, "" for a bare lab.
func (l *Lab) APIURL() string {
	if l.Bare {
		return ""
	}
	return fmt.Sprintf("http://127.0.0.1:%d", l.APIPort)
}

func (l *Lab) agentEndpoint() string {
	return netip.AddrPortFrom(l.MgmtAddr(Controller), agentPort).String()
}

// NBDAddr is where a storage node serves volumes: on the data network.
func (l *Lab) NBDAddr(node string) netip.AddrPort {
	return netip.AddrPortFrom(l.DataAddr(node), nbdPort)
}

// configFor is the configuration of the node's godwit daemon.
func (l *Lab) configFor(node string) godwitConfig {
	if node == Controller {
		return godwitConfig{Optimize: l.settings.optimize, Placement: l.settings.placement, Recovery: l.settings.recovery, Server: &serverConfig{
			APIListen:     fmt.Sprintf("127.0.0.1:%d", l.APIPort),
			AgentListen:   l.agentEndpoint(),
			DataDir:       dataDirInside,
			JoinTokenFile: joinTokenFile,
			PublicURL:     l.APIURL(),
		}}
	}
	if l.isStorage(node) {
		backends := []backendConfig{{Name: "main", Path: diskInside + "/main"}, {Name: "second", Path: diskInside + "/second"}}
		if l.Gluster > 0 {
			backends = append(backends, backendConfig{Name: FarBackend, Kind: "gluster", Path: FarInside + "/volumes"})
		}
		return godwitConfig{Volumes: &volumesConfig{
			Server:        l.agentEndpoint(),
			JoinTokenFile: joinTokenFile,
			Name:          node,
			NBDListen:     l.NBDAddr(node).String(),
			MetricsListen: netip.AddrPortFrom(l.MgmtAddr(node), metricsPort).String(),
			// Two, so that volumes can change place; both on the node's disk.
			Backends: backends,
		}}
	}
	agent := agentConfig{
		Server:           l.agentEndpoint(),
		JoinTokenFile:    joinTokenFile,
		Name:             node,
		MigrationAddress: l.DataAddr(node).String(),
		TunnelAddress:    l.DataAddr(node).String(),
		CPUs:             l.settings.cpus,
		More:             l.settings.agent,
	}
	agent.DiskShared = l.Shared
	if l.Gluster > 0 {
		agent.DiskMount = "fuse.glusterfs"
	}
	return godwitConfig{Agent: &agent}
}

// joining is what the nodes know of each other before they start, so that they can start at once: the server's authority and its join token.
type joining struct {
	authority []byte // PEM, certificate and key
	token     string
}

func newJoining() (joining, error) {
	a, err := hostapi.NewAuthority(time.Now())
	if err != nil {
		return joining{}, err
	}
	key, err := a.KeyPEM()
	return joining{authority: append(a.CertPEM(), key...), token: hostapi.NewJoinToken(a.Fingerprint()).String()}, err
}

// writeGodwit writes the node's godwit.yaml and join token, and the controller's authority.
func (l *Lab) writeGodwit(node string, j joining) error {
	raw, err := yaml.Marshal(l.configFor(node))
	if err != nil {
		return fmt.Errorf("node %s: configuration: %w", node, err)
	}
	if err := os.WriteFile(l.Path(node, configFile), raw, 0o600); err != nil {
		return err
	}
	if node == Controller {
		if err := os.WriteFile(l.Path(node, authorityFile), j.authority, 0o600); err != nil {
			return err
		}
	}
	return os.WriteFile(l.Path(node, joinTokenFile), []byte(j.token+"\n"), 0o600)
}
