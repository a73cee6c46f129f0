package lab_test

import (
	"context"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/lab"
	"github.com/godwit-cloud/godwit/internal/lab/labtest"
	"github.com/godwit-cloud/godwit/internal/lab/nodeinit"
)

// ask makes one request of the lab's API; any answer will do.
func ask(t *testing.T, l *lab.Lab) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, l.APIURL()+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
}

func TestServerKeepsItsSocketWhenItIsKilledAndWhenItsNodeLosesPower(t *testing.T) {
	l := labtest.Up(t, lab.Options{Hosts: 1})
	ask(t, l)
	if err := l.KillUnit(t.Context(), lab.Controller, lab.UnitServer); err != nil {
		t.Fatal(err)
	}
	ask(t, l) // there is no server now: the request waits in the socket that outlived it
	if u := awaitUnit(t, l, lab.Controller, lab.UnitServer, nodeinit.UnitRunning); u.Starts < 2 {
		t.Errorf("the server was not restarted: %+v", u)
	}
	if err := l.PowerOff(t.Context(), lab.Controller); err != nil {
		t.Fatal(err)
	}
	if err := l.PowerOn(t.Context(), lab.Controller); err != nil {
		t.Fatal(err)
	}
	ask(t, l)
	if _, err := os.Stat(l.Path(lab.Controller, "/var/lib/godwit/openrc")); err != nil {
		t.Errorf("the administrator's credentials: %v", err)
	}
}

func TestAgentsOfAFullLabInstallCertificatesAndComeBackAfterAPowerCycle(t *testing.T) {
	l := labtest.Up(t, lab.Options{Hosts: 1})
	node := lab.HostName(1)
	for _, unit := range []string{lab.UnitLibvirtd, lab.UnitAgent} {
		if u, err := l.Unit(t.Context(), node, unit); err != nil || u.State != nodeinit.UnitRunning {
			t.Errorf("%s: %+v, %v", unit, u, err)
		}
	}
	// libvirtd listens with TLS on the data network: the certificate its agent installed is good for its address.
	mustOutput(t, l, node, "virsh", "--connect", "qemu+tls://"+l.DataAddr(node).String()+"/system", "uri")
	if err := l.PowerOff(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	if err := l.PowerOn(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	if err := l.WaitLibvirt(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	awaitUnit(t, l, node, lab.UnitAgent, nodeinit.UnitRunning)
}
