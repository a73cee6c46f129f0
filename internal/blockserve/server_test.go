package blockserve

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/godwit-cloud/godwit/internal/volume"
	"github.com/godwit-cloud/godwit/nbd"
	"github.com/godwit-cloud/godwit/uring"
)

func TestMetricsCountWhatWasDone(t *testing.T) {
	eachEngine(t, setting{}, func(t *testing.T, w *world) {
		c := w.client()
		for range 3 {
			_, err := c.WriteAt(make([]byte, 1000), 0)
			must(t, err)
		}
		_, err := c.ReadAt(make([]byte, 500), 0)
		must(t, err)
		must(t, c.Flush())
		must(t, c.Trim(0, 4096, 0))
		if _, err := c.WriteAt([]byte{1}, diskBytes); err == nil {
			t.Error("a write behind the end")
		}
		registry := prometheus.NewPedanticRegistry()
		must(t, registry.Register(w.server))
		families, err := registry.Gather()
		must(t, err)
		value := func(name, label string) float64 {
			for _, f := range families {
				for _, m := range f.Metric {
					if f.GetName() == "godwit_blockserve_"+name && (label == "" || m.Label[0].GetValue() == label) {
						return m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
					}
				}
			}
			t.Errorf("there is no %s of %q", name, label)
			return 0
		}
		for _, want := range []struct {
			name, label string
			value       float64
		}{
			{"engine", string(w.engine), 1}, {"connections", "", 1}, {"attached_connections", "", 1}, {"bytes_total", "read", 500}, {"bytes_total", "write", 3000},
			{"bytes_total", "trim", 4096}, {"errors_total", "write", 0}, {"request_seconds", "flush", 1}, {"request_seconds", "block status", 0},
		} {
			if got := value(want.name, want.label); got != want.value {
				t.Errorf("%s of %q is %v, not %v", want.name, want.label, got, want.value)
			}
		}
		writes := uint64(0)
		for _, f := range families {
			for _, m := range f.Metric {
				if f.GetName() == "godwit_blockserve_request_seconds" && m.Label[0].GetValue() == "write" {
					writes = m.Histogram.GetSampleCount()
					for _, b := range m.Histogram.Bucket {
						if b.GetUpperBound() > 10 && b.GetCumulativeCount() != writes {
							t.Errorf("%d writes of %d took less than %v s", b.GetCumulativeCount(), writes, b.GetUpperBound())
						}
					}
				}
			}
		}
		if writes != 3 {
			t.Errorf("%d writes were timed", writes)
		}
	})
}

func TestServeFileServesUntilItsContextEnds(t *testing.T) {
	for _, e := range engines {
		for _, direct := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s direct=%v", e, direct), func(t *testing.T) {
				dir := t.TempDir()
				path := filepath.Join(dir, "disk")
				must(t, os.WriteFile(path, make([]byte, 1<<20), 0o600))
				l, err := net.Listen("unix", filepath.Join(dir, "s"))
				must(t, err)
				ctx, stop := context.WithCancel(t.Context())
				ended := make(chan error, 1)
				go func() {
					ended <- ServeFile(ctx, path, l, FileOptions{Direct: direct, ReadOnly: direct, Server: Options{Engine: e, Log: slog.New(slog.DiscardHandler)}})
				}()
				c, err := nbd.Dial(t.Context(), "unix", l.Addr().String(), nbd.ClientOptions{Export: "whatever"})
				must(t, err)
				defer c.Close()
				_, err = c.ReadAt(make([]byte, 4096), 0)
				must(t, err)
				if _, err = c.WriteAt(make([]byte, 4096), 0); (err == nil) == direct {
					t.Errorf("writing: %v", err)
				}
				stop()
				must(t, <-ended)
			})
		}
	}
}

func TestServeFileRefusesWhatItCannotServe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	must(t, os.WriteFile(path, make([]byte, 1000), 0o600))
	for name, o := range map[string]FileOptions{filepath.Join(t.TempDir(), "none"): {}, path: {Direct: true}} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		if err := ServeFile(t.Context(), name, l, o); err == nil {
			t.Errorf("%s is served", name)
		}
		if c, err := net.Dial("tcp", l.Addr().String()); err == nil {
			c.Close()
			t.Error("the listener is left open")
		}
	}
}

func TestAnEngineThatIsNotKnownIsRefused(t *testing.T) {
	if s, err := New(&disk{}, Options{Engine: "steam"}); err == nil {
		t.Error(s.Close())
	}
}

// sandboxEnv makes this test's program forbid itself io_uring.
const sandboxEnv = "GODWIT_TEST_SANDBOX"

func TestWhereIoUringIsForbiddenTheThreadsRunAndSaySo(t *testing.T) {
	child(t, sandboxEnv+"=1")
}

// inSandbox is the child of the test above: "ready" is what it says when all is as it should be.
func inSandbox() int {
	runtime.LockOSThread()
	if err := forbidRings(); err != nil {
		fmt.Println(err)
		return 1
	}
	log := &strings.Builder{}
	o := Options{Log: slog.New(slog.NewTextHandler(log, nil))}
	s, err := New(&disk{}, o)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	engine, why := s.Engine()
	o.Engine = Ring
	_, refused := New(&disk{}, o)
	switch {
	case engine != Threads || !strings.Contains(why, "seccomp"):
		fmt.Println("the engine is", engine, "because", why)
	case !strings.Contains(log.String(), "plain threads") || !strings.Contains(log.String(), "WARN"):
		fmt.Println("the log says", log)
	case !errors.Is(refused, uring.ErrUnavailable):
		fmt.Println("asked for io_uring:", refused)
	default:
		fmt.Println("ready")
	}
	return 0
}

// forbidRings has the kernel refuse io_uring_setup to all threads of this process, with EPERM.
func forbidRings() error {
	const loadNumber, jumpIfEqual, answer = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_RET | unix.BPF_K
	const allow, refuse = 0x7fff0000, 0x00050000 | uint32(unix.EPERM)
	filter := []unix.SockFilter{{Code: loadNumber}, {Code: jumpIfEqual, Jf: 1, K: unix.SYS_IO_URING_SETUP}, {Code: answer, K: refuse}, {Code: answer, K: allow}}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	const setModeFilter, threadsToo = 1, 1
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, setModeFilter, threadsToo, uintptr(unsafe.Pointer(&program))); errno != 0 {
		return errno
	}
	return nil
}

// Connections that are there when the service shuts down get their answers first.
func TestShutdownAnswersWhatIsUnderWay(t *testing.T) {
	eachEngine(t, setting{}, func(t *testing.T, w *world) {
		allow := make(chan struct{})
		w.disk.promote = func() error { <-allow; return nil }
		w.disk.set("b", volume.RoleStandby)
		l := w.listen("unix", nil)
		conn := rawClient(t, l, "b")
		_, err := conn.Write(append(request(nbd.CmdWrite, 0, 1, 0, 4), 1, 2, 3, 4))
		must(t, err)
		for held(w.server) == 0 {
			waitABit(t)
		}
		down := make(chan error, 1)
		go func() { down <- w.server.Shutdown(t.Context()) }()
		if c, err := net.Dial("unix", l.Addr().String()); err == nil {
			_, err = bufio.NewReader(c).ReadByte() // accepted before the listener closed, or never
			if err == nil {
				t.Log("a connection came just before the end")
			}
			c.Close()
		}
		close(allow)
		answer := make([]byte, 16)
		if _, err := conn.Read(answer); err != nil || answer[7] != 0 {
			t.Errorf("the request under way: %v, %x", err, answer)
		}
		if _, err := conn.Read(answer); err == nil {
			t.Error("the connection goes on")
		}
		must(t, <-down)
	})
}

func held(s *Server) (n uint64) {
	for _, m := range s.meters() {
		n += m.held.Load()
	}
	return n
}
