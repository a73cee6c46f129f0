package network_test

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/openstack/identity"
	"github.com/godwit-cloud/godwit/internal/openstack/network"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// person is somebody at a terminal with the stock client and the administrator's openrc, against real identity and network services.
type person struct {
	*testing.T
	openrc string
}

func newPerson(t *testing.T) *person {
	t.Helper()
	if _, err := exec.LookPath("openstack"); err != nil {
		t.Fatalf("the stock client is part of this test (package python3-openstackclient): %v", err)
	}
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	s, err := store.Open(t.Context(), store.Options{DataDir: t.TempDir(), Tables: tables.All(), Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	keystone := identity.New(s, identity.Options{Logger: quiet})
	api := openstack.New(openstack.Options{Auth: keystone, Logger: quiet})
	api.Mount(keystone, network.New(network.Options{Store: s}))
	server := httptest.NewServer(api)
	t.Cleanup(func() {
		server.Close()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	made, err := identity.Bootstrap(t.Context(), s, identity.BootstrapOptions{PublicURL: server.URL, Dir: filepath.Join(t.TempDir(), "credentials")})
	if err != nil {
		t.Fatal(err)
	}
	return &person{t, made.Openrc}
}

func (p *person) try(command string) (string, error) {
	p.Helper()
	cmd := exec.CommandContext(p.Context(), "/bin/sh", "-c", `. "$0" && exec openstack `+command, p.openrc)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + p.TempDir(), "LC_ALL=C.UTF-8"}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return string(out) + stderr.String(), err
	}
	return string(out), nil
}

func (p *person) run(command string) string {
	p.Helper()
	out, err := p.try(command)
	if err != nil {
		p.Fatalf("openstack %s: %v\n%s", command, err, out)
	}
	return out
}

func (p *person) show(command string) m {
	p.Helper()
	var v m
	if err := json.Unmarshal([]byte(p.run(command+" -f json")), &v); err != nil {
		p.Fatalf("openstack %s: %v", command, err)
	}
	return v
}

func (p *person) list(command string) []m {
	p.Helper()
	var v []m
	if err := json.Unmarshal([]byte(p.run(command+" -f json")), &v); err != nil {
		p.Fatalf("openstack %s: %v", command, err)
	}
	return v
}

func TestStockClientManagesNetworks(t *testing.T) {
	p := newPerson(t)
	if n := p.show("network create --description 'the blue one' blue"); n["status"] != "ACTIVE" || n["provider:network_type"] != "vxlan" || n["mtu"] != 1450.0 {
		t.Errorf("network create: %v", n)
	}
	sub := p.show("subnet create --network blue --subnet-range 10.1.0.0/24 --dns-nameserver 9.9.9.9 blue4")
	if sub["gateway_ip"] != "10.1.0.1" || sub["enable_dhcp"] != true {
		t.Errorf("subnet create: %v", sub)
	}
	p.run("security group create web")
	p.run("security group rule create --protocol tcp --dst-port 80:81 --remote-ip 10.0.0.0/8 web")
	p.run("security group rule create --protocol icmp --icmp-type 8 --remote-group web web")
	if rules := p.list("security group rule list web"); len(rules) != 4 {
		t.Errorf("security group rule list: %v", rules)
	}
	port := p.show("port create --network blue --fixed-ip subnet=blue4,ip-address=10.1.0.50 --security-group web --tag here eth0")
	if port["status"] != "DOWN" || port["mac_address"] == "" || port["port_security_enabled"] != true {
		t.Errorf("port create: %v", port)
	}
	p.run("port set --name eth1 --allowed-address ip-address=10.1.0.99 eth0")
	p.run("network set --share --tag colour blue")
	p.run("subnet set --no-dns-nameservers --gateway none blue4")
	if got := p.list("port list --network blue --fixed-ip ip-address=10.1.0.50"); len(got) != 1 || got[0]["Name"] != "eth1" {
		t.Errorf("port list: %v", got)
	}
	if got := p.list("network list --long --tags colour"); len(got) != 1 || got[0]["Name"] != "blue" || got[0]["Shared"] != true {
		t.Errorf("network list: %v", got)
	}
	if got := p.show("subnet show blue4"); got["gateway_ip"] != nil {
		t.Errorf("subnet show: %v", got)
	}
	if out, err := p.try("network delete blue"); err == nil || !strings.Contains(out, "still in use") {
		t.Errorf("delete of a network in use: %v %s", err, out)
	}
	if out, err := p.try("router create r"); err == nil || !strings.Contains(out, "does not offer routers") {
		t.Errorf("router create: %v %s", err, out)
	}
	p.run("port delete eth1")
	p.run("network delete blue")
	p.run("security group delete web")
	for _, empty := range []string{"network list", "subnet list", "port list", "router list", "floating ip list", "network agent list"} {
		if got := p.list(empty); len(got) != 0 {
			t.Errorf("%s: %v", empty, got)
		}
	}
	if got := p.list("security group list"); len(got) != 1 || got[0]["Name"] != "default" {
		t.Errorf("security group list: %v", got)
	}
}
