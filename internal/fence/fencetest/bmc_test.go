package fencetest

import (
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestAStockClientReadsItsPower: what this package and our client agree on might be wrong; ipmitool knows neither.
func TestAStockClientReadsItsPower(t *testing.T) {
	b := Start(t, "godwit", "secret")
	host, port, err := net.SplitHostPort(b.Address())
	if err != nil {
		t.Fatal(err)
	}
	ask := func(args ...string) (string, error) {
		args = append([]string{"-I", "lanplus", "-C", "3", "-H", host, "-p", port, "-U", "godwit", "-P", "secret"}, args...)
		out, err := exec.CommandContext(t.Context(), "ipmitool", args...).CombinedOutput()
		return string(out), err
	}
	if out, err := ask("dcmi", "power", "reading"); err == nil || b.Readings() != 0 {
		t.Errorf("a BMC without DCMI answers: %v, %s", err, out)
	}
	b.Read(&Reading{Now: 217, Least: 90, Most: 480, Mean: 201, At: time.Unix(1_700_000_000, 0), Period: time.Second})
	out, err := ask("dcmi", "power", "reading")
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	said := strings.Join(strings.Fields(out), " ")
	for _, want := range []string{"Instantaneous power reading: 217 Watts", "Minimum during sampling period: 90 Watts", "Maximum during sampling period: 480 Watts",
		"Average power reading over sample period: 201 Watts", "00000001 Seconds", "Power reading state is: activated"} {
		if !strings.Contains(said, want) {
			t.Errorf("no %q in %q", want, said)
		}
	}
	if out, err := ask("chassis", "power", "off"); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if out, err := ask("chassis", "power", "status"); err != nil || !strings.Contains(out, "is off") {
		t.Errorf("%v: %s", err, out)
	}
	if n := b.Open(); n > 0 {
		t.Errorf("%d sessions are open", n)
	}
}
