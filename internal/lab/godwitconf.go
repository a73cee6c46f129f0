package lab

import (
	"crypto/rand"
	"fmt"
	"net/netip"
	"os"

	"go.yaml.in/yaml/v3"
)

const (
	agentPort     = 8779
	configFile    = "/etc/godwit/godwit.yaml"
	joinTokenFile = "/etc/godwit/join-token"
	dataDirInside = "/var/lib/godwit"
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
}

type godwitConfig struct {
	Server *serverConfig `yaml:"server,omitempty"`
	Agent  *agentConfig  `yaml:"agent,omitempty"`
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

// configFor is the configuration of the node's godwit daemon.
func (l *Lab) configFor(node string) godwitConfig {
	if node == Controller {
		return godwitConfig{Server: &serverConfig{
			APIListen:     fmt.Sprintf("127.0.0.1:%d", l.APIPort),
			AgentListen:   l.agentEndpoint(),
			DataDir:       dataDirInside,
			JoinTokenFile: joinTokenFile,
			PublicURL:     l.APIURL(),
		}}
	}
	return godwitConfig{Agent: &agentConfig{
		Server:           l.agentEndpoint(),
		JoinTokenFile:    joinTokenFile,
		Name:             node,
		MigrationAddress: l.DataAddr(node).String(),
		TunnelAddress:    l.DataAddr(node).String(),
	}}
}

// writeGodwit writes the node's godwit.yaml and join token.
func (l *Lab) writeGodwit(node, token string) error {
	raw, err := yaml.Marshal(l.configFor(node))
	if err != nil {
		return fmt.Errorf("node %s: configuration: %w", node, err)
	}
	if err := os.WriteFile(l.Path(node, configFile), raw, 0o600); err != nil {
		return err
	}
	return os.WriteFile(l.Path(node, joinTokenFile), []byte(token+"\n"), 0o600)
}

// newJoinToken is the secret by which agents of this lab introduce themselves to its server.
func newJoinToken() string { return rand.Text() }
