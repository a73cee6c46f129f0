package lab

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/godwit-cloud/godwit/internal/config"
)

func TestDaemonsAcceptTheConfigurationALabWrites(t *testing.T) {
	l := &Lab{State: State{Name: "x", Net: 7, Hosts: 2, Storage: 1, APIPort: 8774}}
	l.settings = settings{recovery: map[string]any{"heal_backoff": "1s"}, agent: map[string]any{"guest_silence_max": "7s"}}
	load := func(node string) *config.Loaded {
		raw, err := yaml.Marshal(l.configFor(node))
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "godwit.yaml")
		if err := os.WriteFile(file, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := config.Load(config.Sources{File: file})
		if err != nil {
			t.Fatalf("%s: %v", node, err)
		}
		return c
	}
	server := load(Controller)
	if err := server.Validate(); err != nil || server.Server.AgentListen != "198.18.7.1:8779" || server.Recovery.HealBackoff != time.Second {
		t.Errorf("server: %v, agents' address %q, recovery %+v", err, server.Server.AgentListen, server.Recovery)
	}
	volumes := load(StorageName(1))
	if err := volumes.ValidateVolumes(); err != nil || volumes.Volumes.NBDListen != "198.19.7.221:10809" || len(volumes.Volumes.Backends) != 2 {
		t.Errorf("volumes: %v, %+v", err, volumes.Volumes)
	}
	agent := load(HostName(2))
	if err := agent.ValidateAgent(); err != nil || agent.Agent.MigrationAddress != "198.19.7.12" || !slices.Equal(agent.Agent.Server, []string{"198.18.7.1:8779"}) ||
		agent.Agent.GuestSilenceMax != 7*time.Second {
		t.Errorf("agent: %v, %+v", err, agent.Agent)
	}
}
