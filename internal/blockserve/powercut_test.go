package blockserve

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/godwit-cloud/godwit/internal/volume"
	"github.com/godwit-cloud/godwit/nbd"
)

// mount mounts what args say and unmounts it with the test.
func mount(t testing.TB, dir string, args ...string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("mounts file systems: run as root")
	}
	must(t, os.MkdirAll(dir, 0o700))
	run(t, "mount", append(args, dir)...)
	t.Cleanup(func() { unmount(t, dir) })
}

// unmount unmounts. The kernel gives up a loop device's file, and the last files of a ring, a moment after their users have ended. A mount namespace that was
// made meanwhile, such as a lab's node, has a copy of what was mounted in the file system, and keeps the latter busy for as long as it lives: it then goes with that.
func unmount(t testing.TB, dir string) {
	t.Helper()
	const (
		tries = 60
		pause = 50 * time.Millisecond
	)
	for range tries {
		err := unix.Unmount(dir, 0)
		if err == nil {
			return
		}
		if !errors.Is(err, unix.EBUSY) {
			t.Errorf("umount %s: %v", dir, err)
			break
		}
		<-time.After(pause)
	}
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
		t.Errorf("umount -l %s: %v", dir, err)
	}
}

// machine is a computer whose power can be cut: a file system with volumes in a loop file, which itself lies on a file system that can clone it
// at one moment. What the loop device has not been told is lost with a cut, as is the cache of a machine.
type machine struct {
	testing.TB
	kind  string // of file system
	outer string // where the disk lies
	disk  string // the loop file
	dir   string // where it is mounted
	cuts  int
}

// newMachine makes one. The file system writes nothing of its own accord for long enough, as far as that can be had.
func newMachine(t testing.TB, kind string) *machine {
	t.Helper()
	m := &machine{TB: t, kind: kind, outer: filepath.Join(t.TempDir(), "outer"), dir: filepath.Join(t.TempDir(), "dir")}
	under := filepath.Join(t.TempDir(), "under")
	sparse(t, under, 2<<30)
	run(t, "mkfs.xfs", "-q", "-m", "reflink=1", under)
	mount(t, m.outer, "-o", "loop", under)
	m.disk = filepath.Join(m.outer, "disk")
	sparse(t, m.disk, 320<<20) // the least that mkfs.xfs takes
	options := "loop"
	if kind == "xfs" {
		run(t, "mkfs.xfs", "-q", m.disk)
	} else {
		run(t, "mkfs.ext4", "-q", m.disk)
		options += ",commit=300"
	}
	mount(t, m.dir, "-o", options, m.disk)
	return m
}

// sparse makes an empty file of a size.
func sparse(t testing.TB, path string, size int64) {
	t.Helper()
	must(t, os.WriteFile(path, nil, 0o600))
	must(t, os.Truncate(path, size))
}

// cut has the power fail now, as seen by another machine that gets the disk: it returns what is in the volume when that has recovered. The first
// machine goes on.
func (m *machine) cut(k *kept) ([]byte, error) {
	m.Helper()
	m.cuts++
	disk, dir := fmt.Sprintf("%s.%d", m.disk, m.cuts), fmt.Sprintf("%s.%d", m.dir, m.cuts)
	run(m, "cp", "--reflink=always", m.disk, disk)
	options := "loop"
	if m.kind == "xfs" {
		options += ",nouuid"
	}
	must(m, os.Mkdir(dir, 0o700))
	run(m, "mount", "-o", options, disk, dir)
	defer func() {
		unmount(m, dir)
		must(m, errors.Join(os.Remove(dir), os.Remove(disk)))
	}()
	store, err := volume.Open(m.Context(), volume.Options{Dir: filepath.Join(dir, "store"), Name: "recovered", Kind: "file", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	defer func() { must(m, store.Close(context.WithoutCancel(m.Context()))) }()
	r, err := store.Read(m.Context(), k.id, "")
	if err != nil {
		return nil, err
	}
	defer r.Close()
	content, chunk := make([]byte, r.Size()), make([]byte, 1<<20)
	for {
		off, n, err := r.Next(chunk)
		if errors.Is(err, io.EOF) {
			return content, nil
		}
		if err != nil {
			return nil, err
		}
		copy(content[off:], chunk[:n])
	}
}

// ack is a request after whose answer the power fails.
type ack struct {
	name string
	ask  func(c *nbd.Client, want []byte) error // keeps want up to date
}

// The places of the requests: each has its own 64 KiB, which hold ones that are durable before, or nothing at all.
const (
	ackBytes  = 64 << 10
	fuaAt     = 1 << 20
	trimAt    = 2 << 20
	zeroAt    = 3 << 20
	keepAt    = 4 << 20
	flushedAt = 5 << 20
)

var acks = []ack{
	{"flush", func(c *nbd.Client, want []byte) error {
		for i := range int64(4) { // some in one piece, some not
			p := want[flushedAt+i<<18:][:ackBytes]
			copy(p, bytes.Repeat([]byte{byte(0x50 + i)}, ackBytes))
			if _, err := c.WriteAt(p, flushedAt+i<<18); err != nil {
				return err
			}
		}
		return c.Flush()
	}},
	{"FUA write", func(c *nbd.Client, want []byte) error {
		p := want[fuaAt:][:ackBytes]
		copy(p, bytes.Repeat([]byte("fua!"), ackBytes/4))
		_, err := c.Write(p, fuaAt, nbd.CmdFlagFUA)
		return err
	}},
	{"FUA trim", func(c *nbd.Client, want []byte) error {
		clear(want[trimAt:][:ackBytes])
		return c.Trim(trimAt, ackBytes, nbd.CmdFlagFUA)
	}},
	{"FUA write-zeroes", func(c *nbd.Client, want []byte) error {
		clear(want[zeroAt:][:ackBytes])
		return c.WriteZeroes(zeroAt, ackBytes, nbd.CmdFlagFUA)
	}},
	{"FUA write-zeroes that keep their space", func(c *nbd.Client, want []byte) error {
		clear(want[keepAt:][:ackBytes])
		return c.WriteZeroes(keepAt, ackBytes, nbd.CmdFlagFUA|nbd.CmdFlagNoHole)
	}},
}

// onMachine serves a volume of a machine, with ones where a request is to make zeros. All that is durable when f is called.
func onMachine(t testing.TB, m *machine, e Engine, direct bool, o Options) (k *kept, c *nbd.Client, want []byte) {
	t.Helper()
	sub := filepath.Join(m.dir, "store")
	must(t, os.RemoveAll(sub))
	o.Engine = e
	k = keep(t, sub, direct, o)
	c = k.dial(k.listen("unix", nil), nbd.ClientOptions{Export: k.open("aaaaaaaa-0000-0000-0000-000000000001", false)})
	want = make([]byte, c.Size())
	for _, at := range []int64{trimAt, zeroAt, keepAt} {
		p := want[at:][:2*ackBytes]
		copy(p, bytes.Repeat([]byte{1}, len(p)))
		_, err := c.WriteAt(p, at)
		must(t, err)
	}
	d, err := os.Open(m.dir)
	must(t, err)
	defer d.Close()
	must(t, unix.Syncfs(int(d.Fd())))
	return k, c, want
}

// eachMachine calls f for every file system, engine and way of doing I/O.
func eachMachine(t *testing.T, f func(t *testing.T, m *machine, e Engine, direct bool)) {
	if testing.Short() {
		t.Skip("mounts file systems; not part of -short")
	}
	for _, kind := range []string{"xfs", "ext4"} {
		t.Run(kind, func(t *testing.T) {
			m := newMachine(t, kind)
			for _, e := range engines {
				for _, direct := range []bool{false, true} {
					t.Run(fmt.Sprintf("%s direct=%v", e, direct), func(t *testing.T) {
						m.TB = t
						f(t, m, e, direct)
					})
				}
			}
		})
	}
}

// Whatever was acknowledged as durable is there after a power cut at the moment of the answer, and what was so before it still is.
func TestWhatIsAcknowledgedAsDurableSurvivesAPowerCut(t *testing.T) {
	eachMachine(t, func(t *testing.T, m *machine, e Engine, direct bool) {
		k, c, want := onMachine(t, m, e, direct, Options{})
		check := func(what string) {
			got, err := m.cut(k)
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if !bytes.Equal(got, want) {
				t.Fatalf("%s: what was acknowledged is not in the volume after a power cut, from byte %d on", what, differs(got, want))
			}
		}
		for _, a := range acks {
			if err := a.ask(c, want); err != nil {
				t.Fatalf("%s: %v", a.name, err)
			}
			check(a.name)
		}
		random := &model{TB: t, client: c, want: want, random: rand.New(rand.NewPCG(7, 7)), align: 4096}
		for i := range 100 {
			if err := random.step(); err != nil {
				t.Fatalf("step %d: %v", i, err)
			}
		}
		must(t, c.Flush())
		check("a flush after many requests")
	})
}

// The test above finds a server that syncs nothing: each request's data is lost then. The file system may write some by itself when it takes
// very long, so the machine gets a few attempts.
func TestAServerThatSyncsNothingIsFoundOutByAPowerCut(t *testing.T) {
	const attempts = 3
	eachMachine(t, func(t *testing.T, m *machine, e Engine, direct bool) {
		places := map[string]int64{"flush": flushedAt, "FUA write": fuaAt, "FUA trim": trimAt, "FUA write-zeroes": zeroAt, "FUA write-zeroes that keep their space": keepAt}
		var kept []string
		for range attempts {
			k, c, want := onMachine(t, m, e, direct, Options{syncsNothing: true})
			for _, a := range acks {
				must(t, a.ask(c, want))
			}
			got, err := m.cut(k)
			must(t, err)
			kept = kept[:0]
			for name, at := range places {
				if bytes.Equal(got[at:][:ackBytes], want[at:][:ackBytes]) {
					kept = append(kept, name)
				}
			}
			if len(kept) == 0 {
				return
			}
		}
		t.Errorf("a server that does not sync does no harm to: %v", kept)
	})
}

// differs is the first byte in which two volumes differ.
func differs(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}
