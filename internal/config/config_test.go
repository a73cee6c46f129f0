package config

import (
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"pgregory.net/rapid"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "godwit.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDefaultsAreValid(t *testing.T) {
	c := Default()
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
	if err := c.ValidateAgent(); err == nil || !strings.Contains(err.Error(), "agent.server must be set") {
		t.Errorf("an agent without a server: got %v", err)
	}
	if err := c.ValidateVolumes(); err == nil || !strings.Contains(err.Error(), "volumes.server must be set") {
		t.Errorf("a volume service without a server: got %v", err)
	}
}

func TestFlagsBeatEnvironmentBeatsFileBeatsDefaults(t *testing.T) {
	path := write(t, "server:\n  region: from-file\n  api_listen: 127.0.0.1:1\n  data_dir: /from/file\n")
	flags := pflag.NewFlagSet("server", pflag.ContinueOnError)
	AddFlags(flags, "server", "migration")
	if err := flags.Parse([]string{"--region=from-flag", "--migration-downtime-max=1s"}); err != nil {
		t.Fatal(err)
	}
	l, err := Load(Sources{File: path, Flags: flags, Main: "server",
		Environ: []string{"GODWIT_SERVER_REGION=from-env", "GODWIT_SERVER_API_LISTEN=127.0.0.1:2"}})
	if err != nil {
		t.Fatal(err)
	}
	if l.Server.Region != "from-flag" || l.Server.APIListen != "127.0.0.1:2" || l.Server.DataDir != "/from/file" {
		t.Errorf("got %+v", l.Server)
	}
	if l.Migration.DowntimeMax != time.Second || l.Placement.RAMRatio != Default().Placement.RAMRatio {
		t.Errorf("got %+v, %+v", l.Migration, l.Placement)
	}
	want := map[string]string{"server.region": "--region", "server.api_listen": "GODWIT_SERVER_API_LISTEN", "server.data_dir": path + ":4"}
	for setting, origin := range want {
		if l.Origins[setting] != origin {
			t.Errorf("%s came from %q, want %q", setting, l.Origins[setting], origin)
		}
	}
}

func TestMistakesNameLineAndLikelySpelling(t *testing.T) {
	tests := []struct{ name, file, env, want string }{
		{"key", "server:\n  api_lisen: x\n", "", `:2: unknown key "api_lisen" in section "server" (did you mean "api_listen"?)`},
		{"section", "sever:\n  region: x\n", "", `:1: unknown section "sever" (did you mean "server"?)`},
		{"far from any", "server:\n  colour: x\n", "", `known are: api_listen`},
		{"number", "migration:\n  outbound_max: many\n", "", `:2: migration.outbound_max: "many" is not a whole number`},
		{"duration", "migration:\n  downtime_max: 300\n", "", `:2: migration.downtime_max: "300" is not a duration such as 300ms`},
		{"twice", "server:\n  region: a\n  region: b\n", "", `:3: server.region was already set on line 2`},
		{"list for scalar", "server:\n  region: [a]\n", "", `:2: server.region: want a string`},
		{"not a mapping", "- a\n", "", `:1: want sections such as "server:"`},
		{"second document", "server: {log_level: info}\n---\nserver: {log_level: debug}\n", "", `:2: a second YAML document begins here`},
		{"back end's key", "volumes:\n  backends:\n  - {name: a, pfad: /b}\n", "", `line 3: unknown key "pfad" of a back end`},
		{"back end's text", "", "GODWIT_VOLUMES_BACKENDS=main", `"main" is not a back end such as main:file:/var`},
		{"variable", "", "GODWIT_SERVER_REGON=x", `GODWIT_SERVER_REGON is no setting (did you mean "GODWIT_SERVER_REGION"?)`},
		{"variable's value", "", "GODWIT_SERVER_STOP_GRACE=x", `GODWIT_SERVER_STOP_GRACE: "x" is not a duration`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Load(Sources{File: write(t, tt.file), Environ: []string{tt.env}})
			if !cloud.Is(err, cloud.KindInvalid) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

func TestAllMistakesAreReportedAtOnce(t *testing.T) {
	_, err := Load(Sources{File: write(t, "server:\n  a1: x\n  b1: y\n")})
	if err == nil || !strings.Contains(err.Error(), `"a1"`) || !strings.Contains(err.Error(), `"b1"`) {
		t.Errorf("got %v", err)
	}
}

func TestUnrelatedVariablesAreNobodysMistake(t *testing.T) {
	if _, err := Load(Sources{File: write(t, ""), Environ: []string{"GODWIT_DRILL=1", "HOME=/"}}); err != nil {
		t.Error(err)
	}
}

func TestANamedFileMustExist(t *testing.T) {
	if _, err := Load(Sources{File: "/nonexistent/godwit.yaml"}); err == nil {
		t.Error("no error")
	}
}

func TestValidateSaysWhatToDo(t *testing.T) {
	tests := []struct {
		spoil func(*Config)
		want  string
	}{
		{func(c *Config) { c.Server.DataDir = "data" }, `server.data_dir must be an absolute path, is "data"`},
		{func(c *Config) { c.Server.APIListen = "8774" }, `server.api_listen must be an address such as 127.0.0.1:8774`},
		{func(c *Config) { c.Server.PublicURL = "cloud" }, `server.public_url must be a URL`},
		{func(c *Config) { c.Server.EtcdCert = "/x" }, `server.etcd_cert and server.etcd_key must be set together`},
		{func(c *Config) { c.Server.EtcdEndpoints = []string{"host:2379"} }, `server.etcd_endpoints must be URLs`},
		{func(c *Config) { c.Agent.Server = []string{"one:8779", "two"} }, `agent.server must be an address such as 127.0.0.1:8774, is "two"`},
		{func(c *Config) { c.Agent.Emulator = "xen" }, `agent.emulator must be one of auto, kvm, tcg`},
		{func(c *Config) { c.Agent.MigrationAddress = "host1" }, `agent.migration_address must be an IP address`},
		{func(c *Config) { c.Migration.TimeoutAction = "pray" }, `migration.timeout_action must be one of abort, force_complete`},
		{func(c *Config) { c.Server.EtcdCA = "d/ca.pem" }, `server.etcd_ca must be an absolute path, is "d/ca.pem"`},
		{func(c *Config) { c.Migration.PostCopy, c.Migration.ParallelConnections = true, 4 },
			`migration.post_copy cannot be combined with migration.parallel_connections 4`},
		{func(c *Config) { c.Placement.RAMRatio = 0 }, `placement.ram_ratio must be a number greater than 0, is 0`},
		{func(c *Config) { c.Placement.CPURatio = math.Inf(1) }, `placement.cpu_ratio must be a number greater than 0, is +Inf`},
		{func(c *Config) { c.Volumes.Backends = nil }, `volumes.backends must name at least one`},
		{func(c *Config) { c.Volumes.Backends = append(c.Volumes.Backends, c.Volumes.Backends[0]) }, `"main" is there twice`},
		{func(c *Config) { c.Volumes.Backends[0].Path = "srv" }, `volumes.backends main: path must be an absolute path, is "srv"`},
		{func(c *Config) { c.Volumes.Backends[0].Kind = "ceph" }, `volumes.backends main: kind must be one of file, gluster`},
		{func(c *Config) { c.Volumes.NBDListen = "storage-1:10809" }, `volumes.nbd_listen must be an IP address or IP:PORT`},
		{func(c *Config) { c.Volumes.NBDTLS = "maybe" }, `volumes.nbd_tls must be one of require, off`},
		{func(c *Config) { c.Volumes.Engine = "aio" }, `volumes.engine must be one of auto, io_uring, threads`},
		{func(c *Config) { c.Lab.Hosts = 0 }, `lab.hosts must be 1 to 50, is 0`},
	}
	for _, tt := range tests {
		c := Default()
		tt.spoil(&c)
		if err := c.Validate(); !cloud.Is(err, cloud.KindInvalid) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("got  %v\nwant %s", err, tt.want)
		}
	}
}

func TestCertificatesMustBeReadable(t *testing.T) {
	c := Default()
	c.Server.APICert = write(t, "a certificate")
	if err := c.ValidateFiles(); err != nil {
		t.Errorf("a file that is there: %v", err)
	}
	c.Server.EtcdKey = "/nonexistent/key.pem"
	if err := c.ValidateFiles(); !cloud.Is(err, cloud.KindInvalid) || !strings.Contains(err.Error(), "server.etcd_key cannot be read") {
		t.Errorf("a file that is not: %v", err)
	}
}

func TestShownSettingsLoadAgainAndHideSecrets(t *testing.T) {
	l, err := Load(Sources{File: write(t, "server:\n  etcd_endpoints: [\"http://a:1\", \"http://b:2\"]\n  etcd_password: hush\n")})
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := l.WriteYAML(&b); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(b.String(), "hush") || l.Values()["server.etcd_password"]["value"] == "hush" {
		t.Errorf("the secret shows:\n%s", b.String())
	}
	again, err := Load(Sources{File: write(t, b.String())})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(again.Server.EtcdEndpoints, l.Server.EtcdEndpoints) || again.Migration != l.Migration {
		t.Errorf("got %+v", again.Config)
	}
}

func TestBackendsAreTheSameInFileAndEnvironment(t *testing.T) {
	want := Backends{{"fast", "file", "/srv/a", "on"}, {"far", "gluster", "/mnt/g", "auto"}}
	file := "volumes:\n  backends:\n  - name: fast\n    path: /srv/a\n    direct_io: on\n  - {name: far, kind: gluster, path: /mnt/g}\n"
	for name, src := range map[string]Sources{
		"file":        {File: write(t, file)},
		"environment": {File: write(t, ""), Environ: []string{"GODWIT_VOLUMES_BACKENDS=fast:file:/srv/a:on, far:gluster:/mnt/g"}},
	} {
		l, err := Load(src)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !slices.Equal(l.Volumes.Backends, want) {
			t.Errorf("%s: got %v", name, l.Volumes.Backends)
		}
		var b strings.Builder
		if err := l.WriteYAML(&b); err != nil {
			t.Fatal(err)
		}
		again, err := Load(Sources{File: write(t, b.String())})
		if err != nil || !slices.Equal(again.Volumes.Backends, want) {
			t.Errorf("%s: what is shown loads as %v, %v", name, again, err)
		}
	}
}

func TestNBDListenHasAPort(t *testing.T) {
	for text, want := range map[string]string{"": "invalid AddrPort", "10.0.0.5": "10.0.0.5:10809", "10.0.0.5:1": "10.0.0.5:1", "::1": "[::1]:10809"} {
		v := Volumes{NBDListen: text}
		got, err := v.NBD()
		if err != nil || got.String() != want || got.Port() == 0 {
			t.Errorf("%q: got %s, port %d, %v", text, got, got.Port(), err)
		}
	}
}

func TestEverySettingHasAKeyAndAMeaning(t *testing.T) {
	c := Default()
	seen := map[string]bool{}
	for _, s := range c.Settings() {
		if s.Key == "" || s.Usage == "" || seen[s.Env()] {
			t.Errorf("setting %q: usage %q, or used twice", s.Path(), s.Usage)
		}
		seen[s.Env()] = true
		if err := s.Set(s.Text()); err != nil {
			t.Errorf("%s: its own text is refused: %v", s.Path(), err)
		}
	}
}

func TestSizesSurviveTheirText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := Size(rapid.Int64Range(0, 1<<60).Draw(t, "bytes"))
		if got, err := ParseSize(s.String()); err != nil || got != s {
			t.Fatalf("%d became %q became %d: %v", s, s.String(), got, err)
		}
	})
}

func TestDocumentationIsCurrent(t *testing.T) {
	raw, err := os.ReadFile("../../docs/configuration.md")
	if err != nil || string(raw) != Markdown() {
		t.Errorf("docs/configuration.md is not what the code says (%v): run go generate ./internal/config", err)
	}
}
