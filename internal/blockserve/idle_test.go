package blockserve

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/godwit-cloud/godwit/nbd"
)

const (
	// idleEnv makes this test's program a crowd of idle clients: see TestMain.
	idleEnv = "GODWIT_TEST_IDLE"
	// idleConns is the figure.
	idleConns = 10_000
	// idleDials is how many of them connect at a time.
	idleDials = 16
)

// crowd is a process that holds idle connections, so that the server's descriptors and memory are the server's alone.
type crowd struct {
	testing.TB
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// gather starts a process with n clients of a listener and waits until all have negotiated. certs, if not empty, is where their certificate is.
func gather(t testing.TB, l net.Listener, n int, certs string) *crowd {
	t.Helper()
	c := &crowd{TB: t, cmd: exec.Command(os.Args[0])}
	c.cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %d %s", idleEnv, l.Addr().Network(), l.Addr(), n, certs))
	c.cmd.Stderr = os.Stderr
	out, err := c.cmd.StdoutPipe()
	must(t, err)
	c.in, err = c.cmd.StdinPipe()
	must(t, err)
	must(t, c.cmd.Start())
	t.Cleanup(func() {
		_ = c.cmd.Process.Kill() // it may be gone already
		_ = c.cmd.Wait()
	})
	c.out = bufio.NewReader(out)
	c.hear("ready")
	return c
}

// hear waits for a word of the crowd's.
func (c *crowd) hear(word string) {
	c.Helper()
	if line, err := c.out.ReadString('\n'); err != nil || line != word+"\n" {
		c.Fatalf("the clients say %q instead of %q: %v", line, word, err)
	}
}

// idleForTest is the crowd's process: it connects, says so, and uses every connection once when it is told to.
func idleForTest(spec string) int {
	var network, address, certs string
	var n int
	if _, err := fmt.Sscan(spec, &network, &address, &n, &certs); err != nil && !errors.Is(err, io.EOF) && n == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	options := nbd.ClientOptions{Export: "a"}
	if certs != "" {
		var err error
		if options.TLS, err = clientTLS(certs); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	clients := make([]*nbd.Client, n)
	each := func(f func(i int) error) bool {
		var group errgroup.Group
		group.SetLimit(idleDials)
		for i := range clients {
			group.Go(func() error { return f(i) })
		}
		err := group.Wait()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		return err == nil
	}
	if !each(func(i int) (err error) {
		clients[i], err = nbd.Dial(context.Background(), network, address, options)
		return err
	}) {
		return 1
	}
	fmt.Println("ready")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return 1
	}
	if !each(func(i int) error { return clients[i].Flush() }) {
		return 1
	}
	fmt.Println("works")
	return 0
}

// clientTLS reads what authority.directory wrote.
func clientTLS(dir string) (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, "client-cert.pem"), filepath.Join(dir, "client-key.pem"))
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(filepath.Join(dir, "ca-cert.pem"))
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, errors.New("no certificate of an authority")
	}
	// Resumed sessions and the quicker of the key exchanges: the test is about connections that are there, not about how they came. A
	// connection that was not resumed costs the server some 4 KiB more, 14 KiB with threads.
	return &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: pool, ServerName: "storage-1", ClientSessionCache: tls.NewLRUClientSessionCache(1),
		CurvePreferences: []tls.CurveID{tls.X25519}}, nil
}

// allowConns makes sure that this process may have n connections, and its children too.
func allowConns(t testing.TB, n int) {
	t.Helper()
	const others = 500 // files, rings, pipes, and what the tests before have left to the collector
	need := uint64(n + others)
	var limit unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	if limit.Cur >= need {
		return
	}
	limit.Cur, limit.Max = need, max(limit.Max, need)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatalf("%d descriptors are needed, RLIMIT_NOFILE is less and cannot be raised: %v", need, err)
	}
}

func TestTenThousandIdleConnectionsCostLittleAndDisturbNobody(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some seconds and most of the descriptors")
	}
	allowConns(t, idleConns)
	a := newAuthority(t)
	certs := a.directory(string(hostOfTest))
	// What the server's memory may grow by for each: structures, and for a goroutine of the threads engine its stack; with TLS a connection's
	// keys, its state, and the buffer of the record that it waits for.
	bounds := map[string]map[Engine]int{"clear": {Ring: 6 << 10, Threads: 24 << 10}, "TLS": {Ring: 24 << 10, Threads: 64 << 10}}
	for _, way := range []string{"clear", "TLS"} {
		t.Run(way, func(t *testing.T) {
			eachEngine(t, setting{options: Options{ConnsMax: idleConns + 10}}, func(t *testing.T, w *world) {
				l := w.listen("unix", nil)
				busy := w.dial(l, nbd.ClientOptions{Export: "a"})
				where := ""
				if way == "TLS" {
					l, where = w.listen("tcp", a.server()), certs
				}
				before, began := resident(t), time.Now()
				idle := gather(t, l, idleConns, where)
				if n := w.server.conns.Load(); n != idleConns+1 {
					t.Fatalf("%d connections are open", n)
				}
				each := (resident(t) - before) / idleConns
				t.Logf("%d idle connections within %v, %d bytes of server memory each", idleConns, time.Since(began).Round(time.Millisecond), each)
				if most := bounds[way][w.engine]; each > most {
					t.Errorf("an idle connection costs %d bytes, more than %d", each, most)
				}
				began = time.Now()
				for range 100 {
					if _, err := busy.WriteAt(make([]byte, 4096), 0); err != nil {
						t.Fatal(err)
					}
				}
				if took := time.Since(began); took > 5*time.Second {
					t.Errorf("100 writes among them took %v", took)
				}
				_, err := io.WriteString(idle.in, "go\n")
				must(t, err)
				idle.hear("works")
			})
		})
	}
}
