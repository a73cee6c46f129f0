package peerdisk_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/peerdisk"
	"github.com/godwit-cloud/godwit/nbd"
)

// holds gives the world an image x of so many bytes.
func (w *world) holds(size int) {
	w.t.Helper()
	w.images["x"] = filepath.Join(w.t.TempDir(), "image")
	if err := os.WriteFile(w.images["x"], bytes.Repeat([]byte("x"), size), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

func TestImagesAreSentNoFasterThanTheBound(t *testing.T) {
	const size, perSecond, burst, hosts = 1 << 20, 4 << 20, 512 << 10, 3
	w := newLimitedWorld(t, perSecond)
	w.holds(size)
	to := t.TempDir()
	began := time.Now()
	var all sync.WaitGroup
	for i := range hosts {
		from := w.as(fmt.Sprintf("host-%d", i), peerdisk.ImageExport("x"))
		all.Go(func() {
			if _, err := peerdisk.NewPuller(0).Pull(t.Context(), from, filepath.Join(to, fmt.Sprint(i)), 0); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if least := time.Second * (hosts*size - burst) / perSecond; time.Since(began) < least*9/10 {
		t.Errorf("%d images of %d bytes came in %s, the bound says %s", hosts, size, time.Since(began), least)
	}
}

func TestAHostSendsAnImageToFewAtATime(t *testing.T) {
	const most = 4
	w := newWorld(t)
	w.holds(4096)
	from := w.as("other", peerdisk.ImageExport("x"))
	dial := func() (*nbd.Client, error) {
		c, err := nbd.Dial(t.Context(), "tcp", w.address, nbd.ClientOptions{Export: from.Export, TLS: from.TLS})
		if err != nil {
			return nil, err
		}
		if _, err := c.ReadAt(make([]byte, 1), 0); err != nil { // a refusal may come as the end of the connection
			c.Close()
			return nil, err
		}
		return c, nil
	}
	var open []*nbd.Client
	for range most {
		c, err := dial()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		open = append(open, c)
	}
	if c, err := dial(); err == nil {
		c.Close()
		t.Errorf("more than %d read at a time", most)
	}
	if err := open[0].Close(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); ; { // the server notices a moment later
		c, err := dial()
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("one has gone, and there is no room: %v", err)
		}
	}
}
