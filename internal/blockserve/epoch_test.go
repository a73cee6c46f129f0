package blockserve

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/volume"
	"github.com/godwit-cloud/godwit/nbd"
)

// ends waits until a client's connection is closed by the server.
func ends(t *testing.T, c *nbd.Client) {
	t.Helper()
	for {
		_, err := c.ReadAt(make([]byte, 512), 0)
		if errors.Is(err, nbd.ErrDisconnected) {
			return
		}
		if t.Context().Err() != nil || err == nil {
			t.Fatalf("the connection goes on: %v", err)
		}
	}
}

func TestAStandbyBecomesTheWriterByItsFirstMutationAndTheOldOneIsCutOff(t *testing.T) {
	mutations := map[string]func(*nbd.Client) error{
		"write":        func(c *nbd.Client) error { _, err := c.WriteAt(make([]byte, 4096), 0); return err },
		"trim":         func(c *nbd.Client) error { return c.Trim(0, 4096, 0) },
		"write zeroes": func(c *nbd.Client) error { return c.WriteZeroes(0, 4096, nbd.CmdFlagFUA) },
	}
	for name, mutate := range mutations {
		t.Run(name, func(t *testing.T) {
			eachEngine(t, setting{options: Options{Loops: 2}}, func(t *testing.T, w *world) {
				w.disk.set("b", volume.RoleStandby)
				l := w.listen("unix", nil)
				source, target := w.dial(l, nbd.ClientOptions{Export: "a"}), w.dial(l, nbd.ClientOptions{Export: "b"})
				if _, err := target.ReadAt(make([]byte, 4096), 0); err != nil {
					t.Errorf("a standby reads: %v", err)
				}
				if err := target.Flush(); err != nil {
					t.Errorf("a standby flushes: %v", err)
				}
				if _, err := source.WriteAt(make([]byte, 4096), 0); err != nil {
					t.Errorf("the writer, while nobody else wrote: %v", err)
				}
				must(t, mutate(target))
				if _, err := source.WriteAt(make([]byte, 4096), 0); !errors.Is(err, nbd.Shutdown) && !errors.Is(err, nbd.ErrDisconnected) {
					t.Errorf("the old writer writes: %v", err)
				}
				ends(t, source)
				if err := mutate(target); err != nil {
					t.Errorf("the new writer: %v", err)
				}
				if c, err := nbd.Dial(t.Context(), "unix", l.Addr().String(), nbd.ClientOptions{Export: "a"}); err == nil {
					c.Close()
					t.Error("the old writer comes back")
				}
			})
		})
	}
}

func TestMutationsWaitForThePromotionAndTheLoopDoesNot(t *testing.T) {
	eachEngine(t, setting{options: Options{Loops: 1}}, func(t *testing.T, w *world) {
		asked, allow := make(chan struct{}), make(chan struct{})
		w.disk.promote = func() error {
			close(asked)
			<-allow
			return nil
		}
		w.disk.set("b", volume.RoleStandby)
		l := w.listen("unix", nil)
		standby, other := w.dial(l, nbd.ClientOptions{Export: "b"}), w.dial(l, nbd.ClientOptions{Export: "b"})
		var group sync.WaitGroup
		for i := range int64(8) {
			group.Go(func() {
				if _, err := standby.WriteAt([]byte{1}, i); err != nil {
					t.Error(err)
				}
			})
		}
		<-asked
		if _, err := other.ReadAt(make([]byte, 4096), 0); err != nil { // the same loop
			t.Errorf("a read meanwhile: %v", err)
		}
		if _, err := standby.ReadAt(make([]byte, 4096), 0); err != nil { // the same connection
			t.Errorf("a read meanwhile: %v", err)
		}
		close(allow)
		group.Wait()
	})
}

func TestAPromotionThatFailsFailsTheMutationAndCutsNobodyOff(t *testing.T) {
	eachEngine(t, setting{}, func(t *testing.T, w *world) {
		w.disk.promote = func() error { return errors.New("the metadata cannot be written") }
		w.disk.set("b", volume.RoleStandby)
		l := w.listen("unix", nil)
		source, target := w.dial(l, nbd.ClientOptions{Export: "a"}), w.dial(l, nbd.ClientOptions{Export: "b"})
		if _, err := target.WriteAt([]byte{1}, 0); !errors.Is(err, nbd.IOError) {
			t.Errorf("the standby: %v", err)
		}
		if _, err := source.WriteAt([]byte{1}, 0); err != nil {
			t.Errorf("the writer: %v", err)
		}
	})
}

// Between the cut-off and the end of the connection every request is told ESHUTDOWN.
func TestWhoIsCutOffIsToldSoThenDisconnected(t *testing.T) {
	eachEngine(t, setting{}, func(t *testing.T, w *world) {
		c := w.client()
		if _, err := c.WriteAt([]byte{1}, 0); err != nil {
			t.Fatal(err)
		}
		w.disk.cutOff("a")
		began := time.Now()
		if _, err := c.WriteAt([]byte{1}, 0); !errors.Is(err, nbd.Shutdown) && time.Since(began) < cutOffGrace/2 {
			t.Errorf("a write: %v", err)
		}
		if _, err := c.ReadAt(make([]byte, 1), 0); !errors.Is(err, nbd.Shutdown) && !errors.Is(err, nbd.ErrDisconnected) {
			t.Errorf("a read: %v", err)
		}
		ends(t, c)
	})
}

func TestACutOffEndsRequestsThatTheLimitsHeldBack(t *testing.T) {
	eachEngine(t, setting{}, func(t *testing.T, w *world) {
		w.disk.limiter.Set(volume.Limits{IOPS: 1})
		c := w.client()
		if _, err := c.WriteAt([]byte{1}, 0); err != nil {
			t.Fatal(err)
		}
		var group sync.WaitGroup
		for range 20 { // twenty seconds' worth
			group.Go(func() {
				if _, err := c.WriteAt([]byte{1}, 0); !errors.Is(err, nbd.Shutdown) {
					t.Errorf("a request held back: %v", err)
				}
			})
		}
		for delayed(w.server) < 20 && t.Context().Err() == nil {
			waitABit(t)
		}
		w.disk.cutOff("a")
		group.Wait()
		ends(t, c)
	})
}

func delayed(s *Server) (n uint64) {
	for _, m := range s.meters() {
		n += m.delayed.Load()
	}
	return n
}

// waitABit lets others run, between two looks at something.
func waitABit(t testing.TB) {
	select {
	case <-time.After(time.Millisecond):
	case <-t.Context().Done():
		t.Fatal(context.Cause(t.Context()))
	}
}

func TestLimitsDelayRequestsAndNotTheLoop(t *testing.T) {
	eachEngine(t, setting{options: Options{Loops: 1}}, func(t *testing.T, w *world) {
		l := w.listen("unix", nil)
		c, other := w.dial(l, nbd.ClientOptions{Export: "a"}), w.dial(l, nbd.ClientOptions{Export: "a"})
		var group sync.WaitGroup
		var done atomic.Int64
		read := func(requests int) {
			for range requests {
				group.Go(func() {
					if _, err := c.ReadAt(make([]byte, 512), 0); err != nil {
						t.Error(err)
					}
					done.Add(1)
				})
			}
		}
		const held = 250 // half a minute's worth
		w.disk.limiter.Set(volume.Limits{IOPS: 8})
		read(held)
		for delayed(w.server) == 0 {
			waitABit(t)
		}
		if _, err := other.BlockStatus(0, 4096, 0); err != nil { // not limited, on the same loop
			t.Error(err)
		}
		if done.Load() == held {
			t.Error("a request that is not limited was answered after all that are")
		}
		w.disk.limiter.Set(volume.Limits{})
		group.Wait()

		const iops, requests = 20, 22
		w.disk.limiter.Set(volume.Limits{IOPS: iops})
		began := time.Now()
		read(requests)
		group.Wait()
		// What may be used at once is a tenth of a second's worth.
		if took, least := time.Since(began), time.Second*(requests-iops/10-1)/iops; took < least {
			t.Errorf("%d requests at %d per second took %v, not %v", requests, iops, took, least)
		}
	})
}

func TestAClientThatLeavesIsNotWaitedForByItsLimits(t *testing.T) {
	eachEngine(t, setting{}, func(t *testing.T, w *world) {
		w.disk.limiter.Set(volume.Limits{BytesPerSecond: 1024})
		l := w.listen("unix", nil)
		conn := rawClient(t, l, "a")
		for i := range uint64(10) { // hours
			_, err := conn.Write(request(nbd.CmdRead, 0, i, 0, 1<<17))
			must(t, err)
		}
		for delayed(w.server) < 9 {
			waitABit(t)
		}
		began := time.Now()
		must(t, w.server.Close())
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("closing took %v", took)
		}
		_ = conn.Close()
	})
}

// The lease of a client that left is closed when its mutation has been decided on, and not before.
func TestAClientMayLeaveWhileItsMutationsAreHeld(t *testing.T) {
	eachEngine(t, setting{}, func(t *testing.T, w *world) {
		allow := make(chan struct{})
		w.disk.promote = func() error { <-allow; return nil }
		w.disk.set("b", volume.RoleStandby)
		l := w.listen("unix", nil)
		conn := rawClient(t, l, "b")
		for i := range uint64(5) {
			_, err := conn.Write(append(request(nbd.CmdWrite, 0, i, 0, 4), 1, 2, 3, 4))
			must(t, err)
		}
		for held(w.server) < 5 {
			waitABit(t)
		}
		must(t, conn.Close())
		if n := w.disk.leases.Load(); n != 1 {
			t.Errorf("%d leases while mutations are held", n)
		}
		close(allow)
		for w.disk.leases.Load() > 0 {
			waitABit(t)
		}
	})
}
