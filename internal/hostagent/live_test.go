package hostagent_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/kvm/kvmtest"
	"github.com/godwit-cloud/godwit/internal/lab"
	"github.com/godwit-cloud/godwit/internal/lab/labtest"
)

// One lab serves all: what a test leaves behind is the next one's to stumble over, as on a real host.
func TestAgentConformsOnRealHosts(t *testing.T) {
	needsLab(t)
	b := newBench(t)
	inEach(t, func(t *testing.T) world { return &realWorld{bench: b, t: t} })
}

// bench is two real hosts with an agent on each.
type bench struct {
	*lab.Lab
	t        *testing.T
	image    string // file
	agents   map[string]*agentProc
	agentLog *logBuffer
}

// logBuffer keeps the agents' logs for a test that fails.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

// take returns the log since the last time.
func (b *logBuffer) take() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	text := b.text.String()
	b.text.Reset()
	return text
}

func newBench(t *testing.T) *bench {
	t.Helper()
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, imageData, 0o644); err != nil {
		t.Fatal(err)
	}
	return newBenchOf(t, image)
}

// newBenchOf makes a bench whose guests boot from an image file.
func newBenchOf(t *testing.T, image string) *bench {
	t.Helper()
	b := &bench{Lab: labtest.Bare(t, 2), t: t, image: image, agents: map[string]*agentProc{}, agentLog: &logBuffer{}}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(b.agentLog.take())
		}
	})
	for _, h := range []string{host1, host2} {
		b.agents[h] = b.startAgent(h)
	}
	return b
}

// realWorld is a bench during one test.
type realWorld struct {
	*bench
	t *testing.T
}

func (w *realWorld) agent(host string) hostpb.HostClient { return w.agents[host] }
func (w *realWorld) address(host string) string          { return w.DataAddr(host).String() }

func (w *realWorld) reported(host, what string, met func(*hostpb.HostEvent) bool) {
	w.t.Helper()
	w.agents[host].await(w.t, what, met)
}

func (w *realWorld) restartAgent(host string) {
	w.t.Helper()
	w.agents[host].kill()
	w.agents[host] = w.startAgent(host)
}

func (w *realWorld) restartLibvirtd(host string) {
	w.t.Helper()
	if err := w.KillUnit(w.t.Context(), host, lab.UnitLibvirtd); err != nil {
		w.t.Fatal(err)
	}
	if err := w.WaitLibvirt(w.t.Context(), host); err != nil {
		w.t.Fatal(err)
	}
}

func (w *realWorld) killQEMU(host string, id cloud.ServerID) {
	w.t.Helper()
	// libvirt's pid file has the pid as the node's processes see it.
	pid, err := os.ReadFile(w.Path(host, "/run/libvirt/qemu/instance-"+string(id)+".pid"))
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.Output(w.t.Context(), host, "kill", "-9", strings.TrimSpace(string(pid))); err != nil {
		w.t.Fatal(err)
	}
}

// slow gives the disk 48 MiB to copy, beyond what the guest touches: a quarter of a minute, which is plenty for what a test does meanwhile, on a busy machine too.
func (w *realWorld) slow(host string, id cloud.ServerID) {
	w.t.Helper()
	disk := filepath.Join(agentData, "instances", string(id), "disk")
	if _, err := w.Output(w.t.Context(), host, "qemu-io", "-f", "qcow2", "-c", "write -q -P 0xa5 16M 48M", disk); err != nil {
		w.t.Fatal(err)
	}
}

// letGo lifts the pace at which the disk leaves the first host, once its copy has begun: QEMU's own, which libvirt does not change while a guest moves.
func (w *realWorld) letGo() {
	w.t.Helper()
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for limit := time.After(patience); !w.lifted(); {
		select {
		case <-poll.C:
		case <-limit:
			w.t.Fatal("no disk's copy begins")
		}
	}
}

// lifted lifts the pace of the disks that are being copied, and reports whether there are any or no guest is there any more.
func (w *realWorld) lifted() bool {
	w.t.Helper()
	out, err := w.Output(w.t.Context(), host1, "virsh", "-q", "list", "--uuid")
	if err != nil {
		w.t.Fatal(err)
	}
	ids := strings.Fields(out)
	found := len(ids) == 0
	for _, id := range ids {
		var jobs []struct{ Device string }
		if !w.ask(host1, id, `"query-block-jobs"`, &jobs) {
			continue // it has left just now
		}
		for _, job := range jobs {
			found = w.ask(host1, id, `"block-job-set-speed","arguments":{"device":"`+job.Device+`","speed":0}`, &struct{}{}) || found
		}
	}
	return found
}

func (w *realWorld) ticks(host string, id cloud.ServerID, n int) {
	w.t.Helper()
	count := func() int {
		raw, err := os.ReadFile(w.Path(host, filepath.Join(agentData, "instances", string(id), "console.log")))
		if err != nil {
			w.t.Fatal(err)
		}
		return ticksIn(raw)
	}
	from := count()
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for limit := time.After(patience); count() < from+n; {
		select {
		case <-poll.C:
		case <-limit:
			w.t.Fatalf("%s: guest stopped ticking", host)
		}
	}
}

func (w *realWorld) nothingLeft(host string, id cloud.ServerID) {
	w.t.Helper()
	if _, err := os.Stat(w.Path(host, filepath.Join(agentData, "instances", string(id)))); !os.IsNotExist(err) {
		w.t.Errorf("%s: directory is left (%v)", host, err)
	}
	for what, argv := range map[string][]string{
		"interface": {"ip", "-o", "link"},
		"domain":    {"virsh", "-q", "list", "--all", "--name"},
		"process":   {"ps", "-eo", "args"},
	} {
		out, err := w.Output(w.t.Context(), host, argv...)
		if err != nil {
			w.t.Fatal(err)
		}
		for line := range strings.Lines(out) {
			if strings.Contains(line, ": gw") || strings.Contains(line, string(id)) {
				w.t.Errorf("%s: %s is left: %.120s", host, what, strings.TrimSpace(line))
			}
		}
	}
}

func (w *realWorld) sound(host string, id cloud.ServerID) {
	w.t.Helper()
	disk := filepath.Join(agentData, "instances", string(id), "disk")
	if _, err := w.Output(w.t.Context(), host, "qemu-img", "convert", "-O", "raw", disk, agentData+"/log.raw"); err != nil {
		w.t.Fatal(err)
	}
	file := w.Path(host, agentData+"/log.raw")
	defer os.Remove(file)
	raw, err := os.ReadFile(file)
	if err != nil {
		w.t.Fatal(err)
	}
	if last, holes := kvmtest.TickerLog(raw); last < 2 || holes > 0 {
		w.t.Errorf("disk log ends at %d with %d holes", last, holes)
	}
	if w.t.Failed() {
		w.t.Log(w.agentLog.take())
	}
}

// needsLab keeps a test out of `go test -short`, which promises to need neither root nor a lab.
func needsLab(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs real hosts: run without -short")
	}
}
