package lab_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/lab"
	"github.com/godwit-cloud/godwit/internal/lab/labtest"
	"github.com/godwit-cloud/godwit/internal/lab/nodeinit"
)

// remains lists what is left on the machine of the lab called name: processes, mounts, files. Other labs may come and go meanwhile, so
// only what bears the name counts.
func remains(t *testing.T, name string) []string {
	t.Helper()
	var found []string
	for _, dir := range []string{"/run/godwit-lab/" + name, "/var/lib/godwit-lab/" + name} {
		if _, err := os.Stat(dir); err == nil {
			found = append(found, "file "+dir)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, "godwit-lab/"+name) {
			found = append(found, "mount "+line)
		}
	}
	cmdlines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range cmdlines {
		if raw, err := os.ReadFile(file); err == nil && bytes.Contains(raw, []byte("godwit-lab/"+name+"/")) {
			found = append(found, "process "+string(bytes.ReplaceAll(raw, []byte{0}, []byte{' '})))
		}
	}
	return found
}

// namespaces maps every network and pid namespace that has a process to one such process's command line.
func namespaces(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, kind := range []string{"net", "pid", "mnt", "uts", "ipc"} {
		links, _ := filepath.Glob("/proc/[0-9]*/ns/" + kind)
		for _, link := range links {
			if ns, err := os.Readlink(link); err == nil {
				raw, _ := os.ReadFile(filepath.Join(filepath.Dir(link), "..", "cmdline"))
				found[ns] = string(raw)
			}
		}
	}
	return found
}

func interfaces(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir("/sys/class/net")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func testName(t *testing.T) string {
	const nameMax = 20
	name := fmt.Sprintf("%d-%s", os.Getpid(), strings.ToLower(strings.TrimPrefix(t.Name(), "Test")))
	return name[:min(len(name), nameMax)]
}

func TestDownLeavesNothing(t *testing.T) {
	linksBefore := interfaces(t)
	name := testName(t)
	l := labtest.Up(t, lab.Options{Name: name, Hosts: 2, BareHosts: true})
	var own []string
	for _, node := range append(l.ComputeNodes(), lab.Switch) {
		if node == lab.Switch {
			continue
		}
		pid, err := l.NodePID(node)
		if err != nil {
			t.Fatal(err)
		}
		for _, kind := range []string{"net", "pid", "mnt", "uts", "ipc"} {
			ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
			if err != nil {
				t.Fatal(err)
			}
			own = append(own, ns)
		}
	}
	if links := interfaces(t); !slices.Equal(links, linksBefore) {
		t.Errorf("the lab made links in the root namespace: %v, before %v", links, linksBefore)
	}
	mustOutput(t, l, lab.HostName(1), "ip", "link", "add", "br-left", "type", "bridge")
	if len(remains(t, name)) == 0 {
		t.Fatal("a running lab is not seen: this test cannot tell that one is gone")
	}
	for range 2 { // the second has nothing to do
		if err := l.Down(t.Context()); err != nil {
			t.Fatal(err)
		}
		if left := remains(t, name); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	}
	alive := namespaces(t)
	for _, ns := range own {
		if cmd, ok := alive[ns]; ok {
			t.Errorf("namespace %s is still used by %q", ns, cmd)
		}
	}
}

func TestUpThatFailsLeavesNothingAndSaysWhy(t *testing.T) {
	name := testName(t)
	broken := filepath.Join(t.TempDir(), "broken")
	if err := os.WriteFile(broken, []byte("#!/bin/sh\necho no such luck >&2\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	_, err := lab.Up(t.Context(), lab.Options{Name: name, Hosts: 1, BareHosts: true, Binary: broken})
	if err == nil || !strings.Contains(err.Error(), "no such luck") {
		t.Errorf("error %v does not quote the log", err)
	}
	if left := remains(t, name); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestUpRefusesANameInUse(t *testing.T) {
	l := labtest.Bare(t, 1)
	if _, err := lab.Up(t.Context(), lab.Options{Name: l.Name, Hosts: 1, BareHosts: true}); !errors.Is(err, lab.ErrExists) {
		t.Fatalf("second lab of that name: %v", err)
	}
	mustOutput(t, l, lab.HostName(1), "true") // and the first is untouched
}

func TestTwoLabsHaveNetworksOfTheirOwn(t *testing.T) {
	a, b := labtest.Bare(t, 1), labtest.Bare(t, 1)
	if a.MgmtAddr("compute-1") == b.MgmtAddr("compute-1") {
		t.Errorf("both labs use %v", a.MgmtAddr("compute-1"))
	}
}

func TestPowerOffEndsAllAndPowerOnFindsIdentityAndDisks(t *testing.T) {
	l := labtest.Bare(t, 2)
	node, other := lab.HostName(1), lab.HostName(2)
	uuid := "virsh capabilities | grep -m 1 '<uuid>'"
	before := mustOutput(t, l, node, "sh", "-c", uuid)
	mustOutput(t, l, node, "sh", "-c", "echo kept > /var/lib/libvirt/images/f; echo lost > /run/f")
	mustOutput(t, l, other, "ping", "-c", "1", "-W", "5", l.DataAddr(node).String())
	sleeper, err := l.Command(t.Context(), node, []string{"sleep", "1000"})
	if err != nil {
		t.Fatal(err)
	}
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	// The bridge's own address, which is the BMCs', must outlive the node's even when the node has the lowest.
	const bridge = "ip -o link show mgmt | grep -o 'link/ether [0-9a-f:]*'"
	mustOutput(t, l, lab.Switch, "ip", "link", "set", "m-"+node, "address", "02:00:00:00:00:01")
	known := mustOutput(t, l, lab.Switch, "sh", "-c", bridge)
	for range 2 { // off twice is off
		if err := l.PowerOff(t.Context(), node); err != nil {
			t.Fatal(err)
		}
	}
	if now := mustOutput(t, l, lab.Switch, "sh", "-c", bridge); now != known {
		t.Errorf("the switch is %s on its bridge and was %s before a node lost its power", now, known)
	}
	if err := sleeper.Wait(); err == nil {
		t.Error("a process in the node survived the loss of power")
	}
	if _, err := l.Output(t.Context(), node, "true"); !errors.Is(err, lab.ErrPoweredOff) {
		t.Errorf("exec in a node that is off: %v", err)
	}
	st, err := l.Status(t.Context())
	if err != nil || st.Nodes[0].On || !st.Nodes[1].On {
		t.Errorf("status %+v, %v", st, err)
	}
	if _, err := l.Output(t.Context(), other, "ping", "-c", "1", "-W", "1", l.DataAddr(node).String()); err == nil {
		t.Error("a node that is off answers")
	}
	for range 2 {
		if err := l.PowerOn(t.Context(), node); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.WaitLibvirt(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	if after := mustOutput(t, l, node, "sh", "-c", uuid); after != before {
		t.Errorf("host identity %s, before %s", after, before)
	}
	if got := mustOutput(t, l, node, "sh", "-c", "cat /var/lib/libvirt/images/f; ls /run/f 2>/dev/null || true"); got != "kept" {
		t.Errorf("files after power on: %q", got)
	}
	mustOutput(t, l, other, "ping", "-c", "1", "-W", "5", l.DataAddr(node).String())
}

func TestKilledUnitIsStartedAgainAndCrashedUnitStaysDown(t *testing.T) {
	l := labtest.Bare(t, 1)
	node := lab.HostName(1)
	first, err := l.UnitPID(t.Context(), node, lab.UnitLibvirtd)
	if err != nil || first == 0 {
		t.Fatalf("pid %d, %v", first, err)
	}
	if err := l.KillUnit(t.Context(), node, lab.UnitLibvirtd); err != nil {
		t.Fatal(err)
	}
	u := awaitUnit(t, l, node, lab.UnitLibvirtd, nodeinit.UnitRunning)
	if u.PID == first || u.Starts != 2 || !strings.Contains(u.LastExit, "killed") {
		t.Errorf("after a kill: %+v, first pid %d", u, first)
	}
	if err := l.WaitLibvirt(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	for _, end := range []func(context.Context, string, string) error{l.CrashUnit, l.StopUnit} {
		if err := end(t.Context(), node, lab.UnitLibvirtd); err != nil {
			t.Fatal(err)
		}
		if u, err := l.Unit(t.Context(), node, lab.UnitLibvirtd); err != nil || u.State != nodeinit.UnitStopped {
			t.Errorf("unit that should stay down: %+v, %v", u, err)
		}
		if err := l.StartUnit(t.Context(), node, lab.UnitLibvirtd); err != nil {
			t.Fatal(err)
		}
		awaitUnit(t, l, node, lab.UnitLibvirtd, nodeinit.UnitRunning)
	}
	if err := l.KillUnit(t.Context(), node, "nonsense"); err == nil {
		t.Error("a unit that is not there was killed")
	}
}

func TestLibvirtdStartsWhenItsCertificateAppears(t *testing.T) {
	l := labtest.Bare(t, 1)
	node := lab.HostName(1)
	const cert = "/etc/pki/libvirt/servercert.pem"
	if err := os.Rename(l.Path(node, cert), l.Path(node, cert+".away")); err != nil {
		t.Fatal(err)
	}
	if err := l.KillUnit(t.Context(), node, lab.UnitLibvirtd); err != nil {
		t.Fatal(err)
	}
	awaitUnit(t, l, node, lab.UnitLibvirtd, nodeinit.UnitWaiting)
	if err := os.Rename(l.Path(node, cert+".away"), l.Path(node, cert)); err != nil {
		t.Fatal(err)
	}
	awaitUnit(t, l, node, lab.UnitLibvirtd, nodeinit.UnitRunning)
}

func awaitUnit(t *testing.T, l *lab.Lab, node, unit string, want nodeinit.UnitState) nodeinit.UnitStatus {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		u, err := l.Unit(ctx, node, unit)
		if err != nil {
			t.Fatal(err)
		}
		if u.State == want {
			return u
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("unit %s is %s, not %s: %+v", unit, u.State, want, u)
		}
	}
}

func TestExecPassesStdioExitStatusAndCancellation(t *testing.T) {
	l := labtest.Bare(t, 1)
	node := lab.HostName(1)
	var out bytes.Buffer
	err := l.Exec(t.Context(), node, []string{"sh", "-c", "cat; hostname; exit 7"}, lab.Stdio{In: strings.NewReader("in\n"), Out: &out})
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 7 || out.String() != "in\n"+node+"\n" {
		t.Errorf("output %q, error %v", out.String(), err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := l.Exec(ctx, node, []string{"sleep", "31415"}, lab.Stdio{}); err == nil {
		t.Error("a cancelled command succeeded")
	}
	if ps := mustOutput(t, l, node, "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"); strings.Contains(ps, "31415") {
		t.Errorf("the cancelled command goes on: %s", ps)
	}
	if _, err := l.Output(t.Context(), "compute-9", "true"); !errors.Is(err, lab.ErrNoNode) {
		t.Errorf("exec in a node that is not there: %v", err)
	}
}

func TestPeerSeesTheBridgeItIsPluggedIntoAndMeasuresSilence(t *testing.T) {
	l := labtest.Bare(t, 1)
	node := lab.HostName(1)
	mustOutput(t, l, node, "ip", "link", "add", "br-p", "type", "bridge")
	mustOutput(t, l, node, "ip", "link", "set", "br-p", "up")
	mustOutput(t, l, node, "ip", "addr", "add", "192.0.2.9/24", "dev", "br-p")
	peer, err := l.StartPeer(t.Context(), lab.PeerSpec{Name: "p", Node: node, Bridge: "br-p", Addr: netip.MustParsePrefix("192.0.2.1/24")})
	if err != nil {
		t.Fatal(err)
	}
	trace, err := peer.StartTrace(t.Context(), netip.MustParseAddr("192.0.2.9"), time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	if err := trace.AwaitReply(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Silence of a known length: the node drops echo requests for 300 ms, or as long as a busy machine makes of that.
	took := mustOutput(t, l, node, "sh", "-c",
		"s=/proc/sys/net/ipv4/icmp_echo_ignore_all; sleep 0.3; a=$(date +%s%N); echo 1 > $s; sleep 0.3; echo 0 > $s; b=$(date +%s%N); sleep 0.3; echo $((b-a))")
	silent, err := time.ParseDuration(strings.TrimSpace(took) + "ns")
	if err != nil {
		t.Fatal(err)
	}
	rep, err := trace.Stop()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", rep)
	const late = time.Second // that a busy machine may send or receive
	if rep.Blackout < 290*time.Millisecond || rep.Blackout > silent+late || rep.Received == 0 || rep.Lost == 0 {
		t.Errorf("%v of silence were measured as %v (%d of %d lost)", silent, rep.Blackout, rep.Lost, rep.Sent)
	}
	if err := peer.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := l.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
}

const nameVar, binaryVar, killAtVar = "LAB_TEST_NAME", "LAB_TEST_BINARY", "LAB_TEST_KILL_AT"

// TestMain lets this program play a process that makes a lab and is killed in the middle of it: when progress says the word in killAtVar,
// or when the lab is up.
func TestMain(m *testing.M) {
	name := os.Getenv(nameVar)
	if name == "" {
		os.Exit(m.Run())
	}
	die := func() {
		if self, err := os.FindProcess(os.Getpid()); err == nil {
			self.Kill()
		}
		select {}
	}
	at := os.Getenv(killAtVar)
	_, err := lab.Up(context.Background(), lab.Options{
		Name: name, Hosts: 2, BareHosts: true, Tethered: at == "", Binary: os.Getenv(binaryVar),
		Progress: func(line string) {
			if at != "" && strings.Contains(line, at) {
				die()
			}
		},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	die()
}

// makeAndDie runs such a process to its end.
func makeAndDie(t *testing.T, name, killAt string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), nameVar+"="+name, killAtVar+"="+killAt, binaryVar+"="+labtest.Build(t, "./internal/lab/labinit"))
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Fatalf("the maker was not killed: %v\n%s", err, out)
	}
}

func TestDownRemovesWhatAKilledUpLeaves(t *testing.T) {
	for _, at := range []string{"switch", "powered on", "ready"} {
		t.Run(at, func(t *testing.T) {
			name := fmt.Sprintf("%d-killed", os.Getpid())
			makeAndDie(t, name, at)
			if len(remains(t, name)) == 0 {
				t.Fatal("nothing was left to remove")
			}
			if err := lab.Down(t.Context(), name); err != nil {
				t.Fatal(err)
			}
			if left := remains(t, name); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestSweepRemovesTheLabOfADeadMaker(t *testing.T) {
	name := fmt.Sprintf("%d-sweep", os.Getpid())
	makeAndDie(t, name, "")
	l, err := lab.Load(name)
	if errors.Is(err, lab.ErrNoLab) {
		t.Log("another test on this machine has swept already")
		l = &lab.Lab{State: lab.State{Name: name, Hosts: 2, Bare: true}}
	} else if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for _, err := l.NodePID("compute-1"); err == nil; _, err = l.NodePID("compute-1") {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("the node outlives its maker")
		}
	}
	if err := lab.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := remains(t, name); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
