package uring

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func newLoop(t testing.TB, o Options) *Loop {
	t.Helper()
	l, err := NewLoop(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func scratch(t testing.TB, l *Loop, flags int) *File {
	t.Helper()
	f, err := l.Open(filepath.Join(t.TempDir(), "file"), os.O_RDWR|os.O_CREATE|flags, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestManyGoroutinesShareOneLoop(t *testing.T) {
	const workers, blocks, size = 32, 40, 512
	l := newLoop(t, Options{Entries: 8}) // small: the queue fills up all the time
	f := scratch(t, l, 0)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for b := range blocks {
				off := int64((w*blocks + b) * size)
				want := bytes.Repeat([]byte{byte(w), byte(b)}, size/2)
				if _, err := f.WriteAt(want, off); err != nil {
					t.Error(err)
					return
				}
				got := make([]byte, size)
				if _, err := f.ReadAt(got, off); err != nil || !bytes.Equal(got, want) {
					t.Errorf("worker %d block %d: %v", w, b, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestRequestsThatArriveWhileTheLoopIsBusyGoInOneCall(t *testing.T) {
	const requests = 64
	l := newLoop(t, Options{Entries: 2 * requests})
	busy, gate := make(chan struct{}), make(chan struct{})
	if err := l.Post(func() { close(busy); <-gate }); err != nil {
		t.Fatal(err)
	}
	<-busy
	var wg sync.WaitGroup
	for range requests {
		wg.Go(func() {
			var e SQE
			e.PrepNop()
			if _, err := l.Do(e); err != nil {
				t.Error(err)
			}
		})
	}
	for handed := 0; handed < requests; runtime.Gosched() {
		l.mu.Lock()
		handed = len(l.incoming)
		l.mu.Unlock()
	}
	before := l.Stats()
	close(gate)
	wg.Wait()
	after := l.Stats()
	// One for the requests; one more at most for the bell that the first of them rang.
	if calls := after.Enters - before.Enters; calls > 2 {
		t.Errorf("%d calls of the kernel for %d requests", calls, requests)
	}
}

func TestReadPastTheEndIsEOF(t *testing.T) {
	l := newLoop(t, Options{})
	f := scratch(t, l, 0)
	if _, err := f.WriteAt([]byte("abc"), 0); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 8)
	if n, err := f.ReadAt(p, 1); n != 2 || !errors.Is(err, io.EOF) || string(p[:2]) != "bc" {
		t.Errorf("read %d %q, %v", n, p[:n], err)
	}
}

func TestErrorsNameTheFile(t *testing.T) {
	l := newLoop(t, Options{})
	name := filepath.Join(t.TempDir(), "read-only")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := l.Open(name, os.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, err = f.WriteAt([]byte("x"), 0)
	var path *os.PathError
	if !errors.As(err, &path) || path.Path != name || !errors.Is(err, unix.EBADF) {
		t.Errorf("got %v", err)
	}
}

func TestWriteSyncDiscardAndZeroes(t *testing.T) {
	l := newLoop(t, Options{})
	f := scratch(t, l, 0)
	block := bytes.Repeat([]byte{0xab}, 8192)
	if err := f.WriteSync(block, 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Discard(0, 4096); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 8192)
	if _, err := f.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got[:4096], make([]byte, 4096)) || !bytes.Equal(got[4096:], block[4096:]) {
		t.Error("discard touched the wrong bytes")
	}
	if err := f.WriteZeroes(4096, 4096); err != nil {
		t.Fatal(err)
	}
	if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, make([]byte, 8192)) {
		t.Errorf("zeroes do not read as zeros: %v", err)
	}
	if size, err := f.Size(); err != nil || size != 8192 {
		t.Errorf("size %d, %v", size, err)
	}
}

func TestWriteSyncOfAFullDiskIsAnError(t *testing.T) {
	l := newLoop(t, Options{})
	f, err := l.Open("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.WriteSync([]byte("x"), 0); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("got %v", err)
	}
}

func TestContextCancelsARequestInTheKernel(t *testing.T) {
	l := newLoop(t, Options{})
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(p[0])
	defer unix.Close(p[1])
	ctx, cancel := context.WithCancel(t.Context())
	buf := make([]byte, 1)
	var e SQE
	e.PrepRead(p[0], buf, 0)
	ended := make(chan error)
	go func() {
		_, err := l.DoContext(ctx, e, buf)
		ended <- err
	}()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestClosedLoopRefusesAndCloseWaits(t *testing.T) {
	l, err := NewLoop(Options{})
	if err != nil {
		t.Fatal(err)
	}
	f := scratch(t, l, 0)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("x"), 0); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

func TestFixedFilesAndBuffers(t *testing.T) {
	l := newLoop(t, Options{})
	f := scratch(t, l, 0)
	memory := Aligned(8192, 4096)
	if err := l.RegisterBuffers([][]byte{memory}); err != nil {
		t.Fatal(err)
	}
	if err := l.RegisterFiles([]int32{int32(f.FD())}); err != nil {
		t.Fatal(err)
	}
	copy(memory, "fixed")
	var e SQE
	e.PrepWriteFixed(0, memory[:5], 0, 0)
	e.Flags |= FixedFile
	if n, err := l.Do(e, memory); n != 5 || err != nil {
		t.Fatalf("wrote %d, %v", n, err)
	}
	e = SQE{}
	e.PrepReadFixed(0, memory[4096:4101], 0, 0)
	e.Flags |= FixedFile
	if n, err := l.Do(e, memory); n != 5 || err != nil || string(memory[4096:4101]) != "fixed" {
		t.Fatalf("read %d %q, %v", n, memory[4096:4101], err)
	}
}

func TestLoopOnEveryFlavour(t *testing.T) {
	for name, flags := range flavours {
		t.Run(name, func(t *testing.T) {
			l := newLoop(t, Options{Flags: flags, SQPollIdle: 10 * time.Millisecond})
			f := scratch(t, l, 0)
			if err := f.WriteSync([]byte("hello"), 0); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, 5)
			if _, err := f.ReadAt(got, 0); err != nil || string(got) != "hello" {
				t.Fatalf("%q, %v", got, err)
			}
		})
	}
}

func BenchmarkReadAt4K(b *testing.B) {
	for _, depth := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("uring-depth-%d", depth), func(b *testing.B) {
			l := newLoop(b, Options{Entries: 256})
			f := scratch(b, l, unix.O_DIRECT)
			benchmarkReads(b, depth, f)
		})
		b.Run(fmt.Sprintf("pread-depth-%d", depth), func(b *testing.B) {
			f, err := os.OpenFile(filepath.Join(b.TempDir(), "file"), os.O_RDWR|os.O_CREATE|unix.O_DIRECT, 0o600)
			if err != nil {
				b.Fatal(err)
			}
			defer f.Close()
			benchmarkReads(b, depth, f)
		})
	}
}

func benchmarkReads(b *testing.B, depth int, f interface {
	io.ReaderAt
	io.WriterAt
}) {
	const size, block = 256 << 20, 4096
	chunk := Aligned(1<<20, block)
	for off := int64(0); off < size; off += int64(len(chunk)) {
		if _, err := f.WriteAt(chunk, off); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(block)
	b.ResetTimer()
	var wg sync.WaitGroup
	for w := range depth {
		n := b.N / depth
		if w == 0 {
			n += b.N % depth
		}
		wg.Go(func() {
			p := Aligned(block, block)
			for range n {
				if _, err := f.ReadAt(p, rand.Int64N(size/block)*block); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// A quiet loop waits in the kernel without telling the scheduler, which must get through to it all the same.
func TestAQuietLoopDoesNotHoldUpTheProgram(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	l := newLoop(t, Options{QuietWaits: true})
	if !l.ring.quiet {
		t.Fatal("the loop is not quiet")
	}
	var e SQE
	e.PrepNop()
	for range 50 {
		if _, err := l.Do(e); err != nil { // the wait that follows is quiet
			t.Fatal(err)
		}
		began := time.Now()
		runtime.GC()
		if took := time.Since(began); took > 10*time.Second {
			t.Fatalf("a collection took %v", took)
		}
	}
}
