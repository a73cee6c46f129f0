package blockserve

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/nbd"
)

// pattern writes a file with data and holes, of the disk's size.
func pattern(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pattern")
	f, err := os.Create(path)
	must(t, err)
	defer f.Close()
	must(t, f.Truncate(diskBytes))
	random := rand.New(rand.NewPCG(9, 9))
	for off := int64(0); off < diskBytes; off += 2 << 20 {
		p := make([]byte, 4096+random.IntN(1<<20)&^4095)
		for i := range p {
			p[i] = byte(random.Uint32())
		}
		_, err := f.WriteAt(p, off)
		must(t, err)
	}
	return path
}

// same checks that two files hold the same.
func same(t testing.TB, a, b string) {
	t.Helper()
	x, err := os.ReadFile(a)
	must(t, err)
	y, err := os.ReadFile(b)
	must(t, err)
	if !bytes.Equal(x, y) {
		t.Errorf("%s and %s differ", a, b)
	}
}

// way is how stock clients reach a server.
type way struct {
	name    string
	network string
	secure  bool
}

var ways = []way{{"unix", "unix", false}, {"tcp", "tcp", false}, {"tls", "tcp", true}}

// reached is a server that is listened to in one way.
type reached struct {
	uri  string   // for libnbd's programs
	qemu []string // for QEMU's: --object options
	opts string   // and the image options of the export
}

func (w *world) reach(v way) reached {
	w.Helper()
	var config *tls.Config
	dir := ""
	if v.secure {
		a := newAuthority(w)
		config, dir = a.server(), a.directory("compute-1")
	}
	l := w.listen(v.network, config)
	if v.network == "unix" {
		return reached{uri: uri(l, "a"), opts: "driver=nbd,export=a,path=" + l.Addr().String()}
	}
	host, port, err := net.SplitHostPort(l.Addr().String())
	must(w, err)
	out := reached{uri: uri(l, "a"), opts: fmt.Sprintf("driver=nbd,export=a,host=%s,port=%s", host, port)}
	if v.secure {
		out.uri = "nbds://" + l.Addr().String() + "/a?tls-certificates=" + dir
		out.qemu = []string{"--object", "tls-creds-x509,id=tls0,endpoint=client,dir=" + dir}
		out.opts += ",tls-creds=tls0,tls-hostname=storage-1"
	}
	return out
}

// eachWay runs a test on every engine, in every way, on buffered and direct files.
func eachWay(t *testing.T, f func(t *testing.T, w *world, r reached)) {
	for _, v := range ways {
		t.Run(v.name, func(t *testing.T) {
			eachEngine(t, setting{direct: v.network == "tcp"}, func(t *testing.T, w *world) { f(t, w, w.reach(v)) })
		})
	}
}

func TestNbdinfoUnderstandsUs(t *testing.T) {
	eachWay(t, func(t *testing.T, w *world, r reached) {
		out := run(t, "nbdinfo", r.uri)
		for _, want := range []string{fmt.Sprintf("export-size: %d", diskBytes), "can_multi_conn: true", "can_fua: true", "can_trim: true", "can_zero: true", "base:allocation"} {
			if !strings.Contains(out, want) {
				t.Errorf("nbdinfo does not say %q:\n%s", want, out)
			}
		}
		if out := run(t, "nbdinfo", "--map", r.uri); !strings.Contains(out, "hole,zero") {
			t.Errorf("an empty disk is not a hole:\n%s", out)
		}
	})
}

func TestNbdcopyThereAndBack(t *testing.T) {
	from := pattern(t)
	eachWay(t, func(t *testing.T, w *world, r reached) {
		run(t, "nbdcopy", "--flush", from, r.uri)
		same(t, from, w.path)
		back := filepath.Join(t.TempDir(), "back")
		run(t, "nbdcopy", r.uri, back)
		same(t, from, back)
	})
}

func TestQemuToolsReadWriteAndCompare(t *testing.T) {
	from := pattern(t)
	eachWay(t, func(t *testing.T, w *world, r reached) {
		out := run(t, "qemu-io", append(r.qemu, "--image-opts", r.opts, "-c", "write -P 7 1M 300k", "-c", "write -f -P 8 5M 4k", "-c", "write -z 1M 64k", "-c", "discard 5M 4k",
			"-c", "aio_write -P 9 8M 2M", "-c", "aio_flush", "-c", "flush", "-c", "read -P 9 8M 2M", "-c", "read -P 0 1M 64k", "-c", "read -P 7 1088k 64k")...)
		if strings.Contains(strings.ToLower(out), "error") || strings.Contains(out, "verification failed") {
			t.Errorf("qemu-io: %s", out)
		}
		run(t, "qemu-img", append(append([]string{"convert"}, r.qemu...), "-n", "-W", "-m", "16", "-f", "raw", from, "--target-image-opts", r.opts)...)
		run(t, "qemu-img", append(append([]string{"compare"}, r.qemu...), "--image-opts", "driver=raw,file.driver=file,file.filename="+from, r.opts)...)
	})
}

func TestFioVerifiesRandomWrites(t *testing.T) {
	eachEngine(t, setting{direct: true}, func(t *testing.T, w *world) {
		run(t, "fio", "--name=verify", "--ioengine=nbd", "--uri="+w.reach(ways[0]).uri, "--rw=randwrite", "--bs=4k", "--iodepth=32", "--size=16m", "--verify=crc32c", "--do_verify=1", "--verify_state_save=0", "--output-format=terse")
	})
}

// talker is a program that is told what to do line by line.
type talker struct {
	testing.TB
	in  io.WriteCloser
	out *bufio.Reader
}

// qemuIO starts a qemu-io that goes on after a reconnect.
func qemuIO(t testing.TB, opts string) *talker {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program(t, "qemu-io"), "--image-opts", opts)
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	cmd.Stderr = cmd.Stdout
	must(t, cmd.Start())
	t.Cleanup(func() {
		in.Close()
		_ = cmd.Wait() // the test has read what it had to say
	})
	q := &talker{TB: t, in: in, out: bufio.NewReader(out)}
	q.hear()
	return q
}

// tell gives a command and returns what was said until the next prompt. Only then is the next line read.
func (q *talker) tell(format string, args ...any) string {
	q.Helper()
	_, err := fmt.Fprintf(q.in, format+"\n", args...)
	must(q, err)
	return q.hear()
}

func (q *talker) hear() string {
	q.Helper()
	const prompt = "qemu-io> "
	var heard strings.Builder
	for !strings.HasSuffix(heard.String(), prompt) {
		b, err := q.out.ReadByte()
		must(q, err)
		heard.WriteByte(b)
	}
	if said := strings.ToLower(heard.String()); strings.Contains(said, "fail") || strings.Contains(said, "error") {
		q.Errorf("qemu-io says %s", said)
	}
	return heard.String()
}

// A guest's requests wait while the service restarts, whether they were under way or came while nobody was there.
func TestARestartOfTheServiceStallsGuestsAndBreaksNothing(t *testing.T) {
	eachEngine(t, setting{}, func(t *testing.T, w *world) {
		l := w.listen("unix", nil)
		socket := l.Addr().String()
		q := qemuIO(t, "driver=nbd,export=a,reconnect-delay=60,path="+socket)
		q.tell("write -P 1 0 1M")
		for round := range 3 {
			q.tell("aio_write -P %d %dM 8M", 2+round, 1+8*round)
			if round == 1 {
				must(t, w.server.Shutdown(t.Context()))
			} else {
				must(t, w.server.Close())
			}
			q.tell("aio_write -P %d 40M 1M", 2+round)
			q.tell("aio_read -P 1 0 1M")
			_ = os.Remove(socket) // the listener did it
			l, err := net.Listen("unix", socket)
			must(t, err)
			w.serve(Options{})
			must(t, w.server.Serve(l, nil))
			said := q.tell("aio_flush")
			said += q.tell("flush")
			said += q.tell("read -P %d %dM 8M", 2+round, 1+8*round)
			said += q.tell("read -P %d 40M 1M", 2+round)
			for _, want := range []string{"wrote 1048576/1048576 bytes at offset 41943040", "read 1048576/1048576 bytes at offset 0", "read 8388608/8388608"} {
				if !strings.Contains(said, want) {
					t.Errorf("round %d: qemu-io does not say %q but %q", round, want, said)
				}
			}
		}
	})
}

// serveEnv makes this test's program a server: see TestMain.
const serveEnv = "GODWIT_TEST_SERVE"

func TestMain(m *testing.M) {
	if spec := os.Getenv(serveEnv); spec != "" {
		os.Exit(serveForTest(spec))
	}
	if spec := os.Getenv(idleEnv); spec != "" {
		os.Exit(idleForTest(spec))
	}
	if os.Getenv(sandboxEnv) != "" {
		os.Exit(inSandbox())
	}
	os.Exit(m.Run())
}

// child starts this program with an environment, and waits until it says it is ready.
func child(t testing.TB, env string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), env)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may be gone already
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "ready\n" {
		t.Fatalf("the child says %q: %v", line, err)
	}
	return cmd
}

// serveForTest serves "engine direct path socket" until it is killed.
func serveForTest(spec string) int {
	part := strings.Fields(spec)
	l, err := net.Listen("unix", part[3])
	if err == nil {
		err = ServeFile(neverEnds{}, part[2], l, FileOptions{Direct: part[1] == "true", Server: Options{Engine: Engine(part[0])}, Started: func(*Server) { fmt.Println("ready") }})
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// neverEnds is a context that does not.
type neverEnds struct{}

func (neverEnds) Deadline() (time.Time, bool) { return time.Time{}, false }
func (neverEnds) Done() <-chan struct{}       { return nil }
func (neverEnds) Err() error                  { return nil }
func (neverEnds) Value(any) any               { return nil }

// What was flushed, or written with FUA, before the server was killed is in the file afterwards.
func TestFlushedDataSurvivesTheServer(t *testing.T) {
	for _, direct := range []bool{false, true} {
		for _, e := range engines {
			t.Run(fmt.Sprintf("%s direct=%v", e, direct), func(t *testing.T) {
				dir := t.TempDir()
				path, socket := filepath.Join(dir, "disk"), filepath.Join(dir, "s")
				must(t, os.WriteFile(path, nil, 0o600))
				must(t, os.Truncate(path, diskBytes))
				server := child(t, fmt.Sprintf("%s=%s %v %s %s", serveEnv, e, direct, path, socket))
				c, err := nbd.Dial(t.Context(), "unix", socket, nbd.ClientOptions{})
				must(t, err)
				defer c.Close()
				flushed, fua := bytes.Repeat([]byte{5}, 1<<20), bytes.Repeat([]byte{6}, 4096)
				_, err = c.WriteAt(flushed, 0)
				must(t, err)
				must(t, c.Flush())
				_, err = c.Write(fua, 8<<20, nbd.CmdFlagFUA)
				must(t, err)
				must(t, c.WriteZeroes(0, 4096, nbd.CmdFlagFUA|nbd.CmdFlagNoHole))
				clear(flushed[:4096])
				go c.WriteAt(make([]byte, 1<<20), 16<<20) // nobody was told that this is done
				must(t, server.Process.Kill())
				_ = server.Wait() // killed
				got, err := os.ReadFile(path)
				must(t, err)
				if !bytes.Equal(got[:1<<20], flushed) || !bytes.Equal(got[8<<20:8<<20+4096], fua) {
					t.Error("acknowledged data is not there")
				}
			})
		}
	}
}
