package blockserve

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/godwit-cloud/godwit/internal/volume"
	"github.com/godwit-cloud/godwit/nbd"
)

// model is what a disk should read as, and a client that uses both.
type model struct {
	testing.TB
	client *nbd.Client
	want   []byte
	random *rand.Rand
	align  int64
}

// span is a random range of at most most bytes.
func (m *model) span(most int) (off int64, n int) {
	n = int((1 + m.random.Int64N(int64(most)/m.align)) * m.align)
	off = m.random.Int64N((int64(len(m.want))-int64(n))/m.align) * m.align
	return off, n
}

// step makes one random request.
func (m *model) step() error {
	flags := nbd.CommandFlags(0)
	if m.random.IntN(4) == 0 {
		flags |= nbd.CmdFlagFUA
	}
	switch m.random.IntN(8) {
	case 0, 1:
		off, n := m.span(300_000)
		got := make([]byte, n)
		if _, err := m.client.ReadAt(got, off); err != nil {
			return err
		}
		if !bytes.Equal(got, m.want[off:off+int64(n)]) {
			return fmt.Errorf("%d bytes at %d are not what was written", n, off)
		}
		return nil
	case 2, 3, 4:
		off, n := m.span(100_000)
		p := m.want[off : off+int64(n)]
		for i := range p {
			p[i] = byte(m.random.Uint32())
		}
		_, err := m.client.Write(p, off, flags)
		return err
	case 5:
		off, n := m.span(2_000_000)
		clear(m.want[off : off+int64(n)])
		return m.client.Trim(off, uint32(n), flags) // on our files, a trimmed range reads as zeros
	case 6:
		off, n := m.span(2_000_000)
		clear(m.want[off : off+int64(n)])
		if m.random.IntN(2) == 0 {
			flags |= nbd.CmdFlagNoHole
		}
		return m.client.WriteZeroes(off, uint32(n), flags)
	default:
		if m.random.IntN(2) == 0 {
			return m.client.Flush()
		}
		off, n := m.span(4_000_000)
		return m.status(off, n)
	}
}

// status checks that what is said to be zero is.
func (m *model) status(off int64, n int) error {
	extents, err := m.client.BlockStatus(off, uint32(n), 0)
	if err != nil {
		return err
	}
	at := off
	for _, e := range extents {
		end := min(at+int64(e.Length), int64(len(m.want)))
		if e.Flags&nbd.StatusZero != 0 && len(bytes.Trim(m.want[at:end], "\x00")) > 0 {
			return fmt.Errorf("%d bytes at %d are said to be zero", end-at, at)
		}
		at = end
	}
	return nil
}

func TestRandomRequestsBehaveLikeAModel(t *testing.T) {
	for _, direct := range []bool{false, true} {
		t.Run(fmt.Sprintf("direct=%v", direct), func(t *testing.T) {
			eachEngine(t, setting{direct: direct}, func(t *testing.T, w *world) {
				m := &model{TB: t, client: w.client(), want: make([]byte, diskBytes), random: rand.New(rand.NewPCG(1, 2)), align: int64(w.disk.file.align)}
				for i := range 400 {
					if err := m.step(); err != nil {
						t.Fatalf("step %d: %v", i, err)
					}
				}
				onDisk, err := os.ReadFile(w.path)
				must(t, err)
				if !bytes.Equal(onDisk, m.want) {
					t.Error("the file differs from what was written")
				}
			})
		})
	}
}

func TestManyConnectionsWriteAtOnceAndSeeEachOthersData(t *testing.T) {
	eachEngine(t, setting{options: Options{Loops: 3}}, func(t *testing.T, w *world) {
		l := w.listen("unix", nil)
		const conns, part = 9, 1 << 20
		var group sync.WaitGroup
		for i := range conns {
			c := w.dial(l, nbd.ClientOptions{Export: "a"})
			group.Go(func() {
				var inner sync.WaitGroup
				for k := range 32 {
					inner.Go(func() {
						p := bytes.Repeat([]byte{byte(1 + i*32 + k)}, part/32)
						if _, err := c.WriteAt(p, int64(i*part+k*part/32)); err != nil {
							t.Error(err)
						}
					})
				}
				inner.Wait()
				if err := c.Flush(); err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
		c := w.dial(l, nbd.ClientOptions{Export: "a"})
		got := make([]byte, conns*part)
		if _, err := c.ReadAt(got, 0); err != nil {
			t.Fatal(err)
		}
		for i := range got {
			if want := byte(1 + i/(part/32)); got[i] != want {
				t.Fatalf("byte %d is %d, not %d", i, got[i], want)
			}
		}
		for i, lane := range w.server.lanes {
			if n := lane.conns.Load(); n < conns/3 {
				t.Errorf("loop %d has %d of %d connections", i, n, conns+1)
			}
		}
	})
}

func TestRequestsThatAreWrongAreRefusedAndTheConnectionLives(t *testing.T) {
	for _, direct := range []bool{false, true} {
		eachEngine(t, setting{direct: direct}, func(t *testing.T, w *world) {
			c := w.client()
			unit := int64(w.disk.file.align)
			block := make([]byte, unit)
			refused := func(want nbd.Error, what string, err error) {
				t.Helper()
				if !errors.Is(err, want) {
					t.Errorf("%s: %v, want %v", what, err, want)
				}
			}
			_, err := c.ReadAt(block, diskBytes)
			refused(nbd.Invalid, "a read behind the end", err)
			_, err = c.WriteAt(block, diskBytes)
			refused(nbd.NoSpace, "a write behind the end", err)
			_, err = c.WriteAt(make([]byte, 2*unit), diskBytes-unit)
			refused(nbd.NoSpace, "a write across the end", err)
			refused(nbd.NoSpace, "a trim behind the end", c.Trim(1<<62, uint32(unit), 0))
			refused(nbd.NoSpace, "zeros across the end", c.WriteZeroes(diskBytes-unit, uint32(2*unit), 0))
			_, err = c.BlockStatus(diskBytes, uint32(unit), 0)
			refused(nbd.Invalid, "the status behind the end", err)
			_, err = c.Write(block, 0, 1<<15)
			refused(nbd.Invalid, "an unknown flag", err)
			_, err = c.Write(block, 0, nbd.CmdFlagReqOne)
			refused(nbd.Invalid, "another command's flag", err)
			if unit > 1 {
				_, err = c.WriteAt(make([]byte, 100), 0)
				refused(nbd.Invalid, "a piece of a block", err)
				_, err = c.ReadAt(block, 1)
				refused(nbd.Invalid, "a read between blocks", err)
			}
			if _, err := c.WriteAt(block, 0); err != nil {
				t.Errorf("the connection does not live: %v", err)
			}
		})
	}
}

func TestAnErrorOfTheDeviceReachesTheClientAndNobodyElse(t *testing.T) {
	fault := func(r *nbd.Request) error {
		if r.Offset == 4096 {
			return unix.EIO
		}
		return nil
	}
	eachEngine(t, setting{options: Options{fault: fault}}, func(t *testing.T, w *world) {
		c := w.client()
		if _, err := c.WriteAt(make([]byte, 512), 4096); !errors.Is(err, nbd.IOError) {
			t.Errorf("a write: %v", err)
		}
		if _, err := c.ReadAt(make([]byte, 512), 4096); !errors.Is(err, nbd.IOError) {
			t.Errorf("a read: %v", err)
		}
		if err := c.Trim(4096, 512, nbd.CmdFlagFUA); !errors.Is(err, nbd.IOError) {
			t.Errorf("a trim: %v", err)
		}
		if _, err := c.WriteAt(make([]byte, 512), 0); err != nil {
			t.Errorf("another place: %v", err)
		}
	})
}

// The kernel tells of a failed sync once and takes the lost pages for clean: the next sync succeeds. It must not be passed on, to no connection.
func TestAfterAFailedSyncNothingIsAcknowledgedAnyMore(t *testing.T) {
	for name, first := range map[string]func(c *nbd.Client) error{
		"flush": func(c *nbd.Client) error { return c.Flush() },
		"FUA write": func(c *nbd.Client) error {
			_, err := c.Write(make([]byte, 4096), 0, nbd.CmdFlagFUA)
			return err
		},
		"FUA trim": func(c *nbd.Client) error { return c.Trim(0, 4096, nbd.CmdFlagFUA) },
	} {
		t.Run(name, func(t *testing.T) {
			var syncs atomic.Int64
			once := func() error {
				if syncs.Add(1) == 1 {
					return unix.EIO
				}
				return nil
			}
			eachEngine(t, setting{options: Options{syncFault: once}}, func(t *testing.T, w *world) {
				syncs.Store(0)
				c, other := w.client(), w.client()
				if _, err := c.WriteAt(make([]byte, 4096), 0); err != nil {
					t.Fatal(err)
				}
				if err := first(c); !errors.Is(err, nbd.IOError) {
					t.Errorf("the sync that failed: %v", err)
				}
				for who, c := range map[string]*nbd.Client{"the same connection": c, "another": other} {
					if err := c.Flush(); !errors.Is(err, nbd.IOError) {
						t.Errorf("%s flushes: %v", who, err)
					}
					if _, err := c.Write(make([]byte, 4096), 0, nbd.CmdFlagFUA); !errors.Is(err, nbd.IOError) {
						t.Errorf("%s writes with FUA: %v", who, err)
					}
					if _, err := c.WriteAt(make([]byte, 4096), 0); !errors.Is(err, nbd.IOError) {
						t.Errorf("%s writes: %v", who, err)
					}
					if _, err := c.ReadAt(make([]byte, 4096), 0); err != nil {
						t.Errorf("%s reads: %v", who, err)
					}
				}
			})
		})
	}
}

// A sync that the kernel cancels has synced nothing, even though the write before it is whole.
func TestALinkedSyncThatIsCancelledIsAskedForAgain(t *testing.T) {
	ask := map[string]func(c *nbd.Client) error{
		"write":  func(c *nbd.Client) error { _, err := c.Write(make([]byte, 4096), 0, nbd.CmdFlagFUA); return err },
		"trim":   func(c *nbd.Client) error { return c.Trim(0, 4096, nbd.CmdFlagFUA) },
		"zeroes": func(c *nbd.Client) error { return c.WriteZeroes(0, 4096, nbd.CmdFlagFUA) },
	}
	var syncs, cancelled atomic.Int64
	options := Options{cancels: func() bool { return syncs.Add(1) <= cancelled.Load() }}
	w := newWorld(t, Ring, setting{options: options}) // threads link nothing
	c := w.client()
	for name, f := range ask {
		syncs.Store(0)
		cancelled.Store(2)
		if err := f(c); err != nil || syncs.Load() != 3 {
			t.Errorf("%s: %v, acknowledged after %d syncs, two of which were cancelled", name, err, syncs.Load())
		}
		syncs.Store(0)
		cancelled.Store(1 << 30)
		if err := f(c); err == nil {
			t.Errorf("%s: acknowledged, and every sync was cancelled", name)
		}
	}
	if err := c.Flush(); err != nil {
		t.Errorf("the connection does not live: %v", err)
	}
}

// A file system that cannot make zeros by itself is not made to write them for a client that wants them fast or not at all.
func TestZerosThatWouldBeSlowAreRefusedToWhoWantsThemFast(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("needs to mount a small file system: run as root")
	}
	eachEngine(t, setting{dir: smallDisk(t)}, func(t *testing.T, w *world) { // tmpfs makes holes, and no zeros that keep their space
		c := w.client()
		p := bytes.Repeat([]byte{7}, 64<<10)
		_, err := c.WriteAt(p, 0)
		must(t, err)
		if err := c.WriteZeroes(0, 4096, nbd.CmdFlagNoHole|nbd.CmdFlagFastZero); !errors.Is(err, nbd.NotSupported) {
			t.Errorf("fast zeros that keep their space: %v", err)
		}
		must(t, c.WriteZeroes(8192, 8192, nbd.CmdFlagNoHole))
		must(t, c.WriteZeroes(32<<10, 4096, nbd.CmdFlagFastZero))
		clear(p[8192:16384])
		clear(p[32<<10 : 36<<10])
		got := make([]byte, len(p))
		if _, err := c.ReadAt(got, 0); err != nil || !bytes.Equal(got, p) {
			t.Errorf("%v, or other data than what was written", err)
		}
		must(t, os.Remove(w.path))
	})
}

// A file shorter than its volume stands for a device whose end moved: what is missing reads as zeros, and is written by writing.
func TestReadingBeyondTheFilesEndGivesZeros(t *testing.T) {
	eachEngine(t, setting{}, func(t *testing.T, w *world) {
		c := w.client()
		must(t, os.Truncate(w.path, 1000))
		got := bytes.Repeat([]byte{1}, 4096)
		if _, err := c.ReadAt(got, 0); err != nil || len(bytes.Trim(got, "\x00")) > 0 {
			t.Errorf("%v, or not zeros", err)
		}
	})
}

func TestAVolumeThatGrowsCanBeUsedAtOnce(t *testing.T) {
	eachEngine(t, setting{}, func(t *testing.T, w *world) {
		l := w.listen("unix", nil)
		c := w.dial(l, nbd.ClientOptions{Export: "a"})
		if _, err := c.WriteAt(make([]byte, 512), diskBytes); !errors.Is(err, nbd.NoSpace) {
			t.Errorf("before: %v", err)
		}
		must(t, os.Truncate(w.path, 2*diskBytes))
		w.disk.size.Store(2 * diskBytes)
		if _, err := c.WriteAt(make([]byte, 512), 2*diskBytes-512); err != nil {
			t.Errorf("the open connection: %v", err)
		}
		if size := w.dial(l, nbd.ClientOptions{Export: "a"}).Size(); size != 2*diskBytes {
			t.Errorf("a new connection is told %d bytes", size)
		}
	})
}

func TestUnknownExportsAreNotFound(t *testing.T) {
	eachEngine(t, setting{}, func(t *testing.T, w *world) {
		l := w.listen("tcp", nil)
		if c, err := nbd.Dial(t.Context(), "tcp", l.Addr().String(), nbd.ClientOptions{Export: "none"}); err == nil {
			c.Close()
			t.Error("an export that is not there was found")
		}
		c := w.dial(l, nbd.ClientOptions{Export: "a"})
		if _, err := c.ReadAt(make([]byte, 1), 0); err != nil {
			t.Error(err)
		}
	})
}

// A file system that is full says so to the client, and only the file system is full.
func TestAFullDiskIsToldToTheClient(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("needs to mount a small file system: run as root")
	}
	eachEngine(t, setting{dir: smallDisk(t)}, func(t *testing.T, w *world) {
		c := w.client()
		p := bytes.Repeat([]byte{7}, 1<<20)
		var err error
		// In pieces of which the last fits in part: a short write, which breaks the link to its sync.
		for off, n := int64(0), 1<<20-12288; off < 16<<20 && err == nil; off += int64(n) {
			_, err = c.Write(p[:n], off, nbd.CmdFlagFUA)
		}
		if !errors.Is(err, nbd.NoSpace) {
			t.Fatalf("writing more than there is: %v", err)
		}
		if err := c.Trim(0, 8<<20, 0); err != nil {
			t.Fatal(err)
		}
		if _, err := c.WriteAt(p, 0); err != nil {
			t.Errorf("after making room: %v", err)
		}
		got := make([]byte, 1<<20)
		if _, err := c.ReadAt(got, 0); err != nil || !bytes.Equal(got, p) {
			t.Errorf("reading it: %v", err)
		}
		must(t, os.Remove(w.path))
	})
}

// smallDisk mounts a file system of 8 MiB.
func smallDisk(t *testing.T) string {
	dir := t.TempDir()
	must(t, unix.Mount("small", dir, "tmpfs", 0, "size=8m"))
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestReadersDoNotWrite(t *testing.T) {
	eachEngine(t, setting{}, func(t *testing.T, w *world) {
		w.disk.set("reader", volume.RoleReader)
		c := w.dial(w.listen("unix", nil), nbd.ClientOptions{Export: "reader"})
		if c.Flags()&nbd.FlagReadOnly == 0 {
			t.Error("a reader is not told that it is one")
		}
		if _, err := c.WriteAt(make([]byte, 512), 0); !errors.Is(err, nbd.NotPermitted) {
			t.Errorf("a reader writes: %v", err)
		}
		if _, err := io.ReadFull(io.NewSectionReader(c, 0, 4096), make([]byte, 4096)); err != nil {
			t.Errorf("a reader reads: %v", err)
		}
	})
}
