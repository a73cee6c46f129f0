package uring

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// platter is a disk under the fake kernel: it writes to the file in truth, all or a part, and remembers what had been written when a sync began.
type platter struct {
	f       *fake
	path    string
	durable []byte
	failed  bool // something was refused
}

// begin carries a request out at once, or leaves it for later.
func (d *platter) begin(e SQE) (int32, bool) {
	if d.f.random.IntN(2) == 0 {
		return 0, true
	}
	return d.carry(e), false
}

func (d *platter) carry(e SQE) int32 {
	switch e.Opcode {
	case OpWrite:
		p := memoryAt(e.Addr, int(e.Len))
		switch d.f.random.IntN(8) {
		case 0:
			d.failed = true
			return -int32(unix.EIO)
		case 1, 2:
			p = p[:1+d.f.random.IntN(len(p))]
		}
		n, err := unix.Pwrite(int(e.FD), p, int64(e.Off))
		if err != nil {
			d.f.breach("pwrite: %v", err)
		}
		return int32(n)
	case OpFsync:
		switch d.f.random.IntN(8) {
		case 0:
			d.failed = true
			return -int32(unix.EIO)
		case 1:
			if d.f.chains.before[e.UserData] != 0 { // linked: the kernel may cancel it for reasons of its own
				return -int32(unix.ECANCELED)
			}
		}
		var err error
		if d.durable, err = os.ReadFile(d.path); err != nil {
			d.f.breach("%v", err)
		}
		return 0
	default:
		return 0
	}
}

// Short writes, writes that fail, syncs that are cancelled and links that are cut: what WriteSync says is durable was synced after it was written.
func TestWhatWriteSyncAcknowledgesWasSyncedAfterItWasWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	cuts, acknowledged := uint64(0), 0
	for seed := range uint64(30) {
		f := newFake(seed)
		f.moody = seed%2 == 1
		d := &platter{f: f, path: path}
		f.begin = d.begin
		l := fakeLoop(t, f, Options{Entries: 4, CQEntries: 8})
		stop := finishing(f, d.carry)
		file, err := l.Open(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		random := rand.New(rand.NewPCG(seed, 8))
		for range 40 {
			p := make([]byte, 1+random.IntN(3000))
			for i := range p {
				p[i] = byte(random.Uint32())
			}
			off := random.Int64N(5000)
			f.mu.Lock()
			d.durable, d.failed = nil, false
			f.mu.Unlock()
			err := file.WriteSync(p, off)
			f.mu.Lock()
			durable, failed := d.durable, d.failed
			f.mu.Unlock()
			switch {
			case err == nil && (int64(len(durable)) < off+int64(len(p)) || !bytes.Equal(durable[off:off+int64(len(p))], p)):
				t.Fatalf("seed %d: acknowledged, and not on the disk", seed)
			case err != nil && (!failed || !errors.Is(err, unix.EIO)):
				t.Fatalf("seed %d: %v, although nothing had failed", seed, err)
			case err == nil:
				acknowledged++
			}
		}
		if err := l.Post(func() { cuts += l.LinksCut() }); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(file.Close(), l.Close()); err != nil {
			t.Error(err)
		}
		stop()
		f.verdict(t)
	}
	if acknowledged == 0 || cuts == 0 {
		t.Errorf("%d writes were acknowledged, %d links cut: the kernel was not moody enough", acknowledged, cuts)
	}
}

// A request whose linked time is over ends as one that took too long, one that ends in time as itself; either way nothing is left in the kernel.
func TestALinkedTimeOutEndsWhatItLimitsAndNothingElse(t *testing.T) {
	for seed := range uint64(8) {
		f := newFake(seed)
		f.begin = func(e SQE) (int32, bool) { return 7, e.Opcode == OpNop }
		l := fakeLoop(t, f, Options{Entries: 8})
		done := make(chan struct{})
		var helper sync.WaitGroup
		helper.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if f.random2(3) == 0 {
					f.expire()
				} else {
					f.finishOne(7)
				}
				runtime.Gosched()
			}
		})
		var wg sync.WaitGroup
		var late, inTime int
		var mu sync.Mutex
		for range 4 {
			wg.Go(func() {
				for range 20 {
					n, err := l.DoTimeout(time.Hour, SQE{Opcode: OpNop})
					mu.Lock()
					switch {
					case errors.Is(err, os.ErrDeadlineExceeded):
						late++
					case err == nil && n == 7:
						inTime++
					default:
						t.Errorf("seed %d: %d, %v", seed, n, err)
					}
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		close(done)
		helper.Wait()
		if late == 0 || inTime == 0 {
			t.Errorf("seed %d: %d were too late and %d in time", seed, late, inTime)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		f.verdict(t)
	}
}

// random2 is a random number for tests that do not hold the lock.
func (f *fake) random2(n int) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.random.IntN(n)
}

// finishOne ends one request that is neither the bell's nor a time-out.
func (f *fake) finishOne(res int32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range f.pending {
		if e.UserData != bellToken && e.Opcode != OpLinkTimeout {
			f.end(e, res, 0)
			f.changed.Broadcast()
			return
		}
	}
}

// With a thread of the kernel's that takes the entries and sleeps now and then, every request gets its own result, and the thread is woken.
func TestAThreadThatSubmitsIsWokenWhenItSleeps(t *testing.T) {
	slept := 0
	for seed := range uint64(8) {
		f := newFake(seed)
		f.begin = func(e SQE) (int32, bool) { return int32(e.Len), f.random.IntN(2) == 0 }
		l := fakeLoop(t, f, Options{Entries: 4, CQEntries: 8, Flags: SetupSQPoll, SQPollIdle: time.Millisecond})
		stop := finishing(f, func(e SQE) int32 { return int32(e.Len) })
		var wg sync.WaitGroup
		for w := range 8 {
			wg.Go(func() {
				for i := range 20 {
					want := w*1000 + i
					if got, err := l.Do(SQE{Opcode: OpNop, Len: uint32(want)}); got != want || err != nil {
						t.Errorf("seed %d: got %d, %v, want %d", seed, got, err, want)
					}
				}
			})
		}
		wg.Wait()
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		stop()
		f.mu.Lock()
		slept += f.poller.slept
		f.mu.Unlock()
		f.verdict(t)
	}
	if slept == 0 {
		t.Error("the thread never slept")
	}
}

// porch is a listener on the fake kernel: callers arrive one by one, and now and then the multishot request ends with one of them, or for no reason.
type porch struct {
	f       *fake
	next    int32 // the next caller's descriptor
	callers int32 // how many are still to come
	tired   int   // of times that the request ended although nobody asked
}

const firstCaller = 2_000_000 // no descriptor of this process

// step lets something happen at the door.
func (p *porch) step() {
	f := p.f
	f.mu.Lock()
	defer f.mu.Unlock()
	var asked []SQE
	for _, e := range f.pending {
		if e.Opcode == OpAccept {
			asked = append(asked, e)
		}
	}
	if len(asked) > 1 {
		f.breach("%d accepts are in the kernel at a time", len(asked))
	}
	if len(asked) == 0 || p.callers == 0 {
		return
	}
	e := asked[0]
	defer f.changed.Broadcast()
	switch f.random.IntN(8) {
	case 0:
		p.tired++
		f.end(e, -int32(unix.ECONNABORTED), 0)
		return
	case 1: // the last of this request
		p.tired++
		f.end(e, p.next, 0)
	default:
		f.complete(e, p.next, CQEMore)
	}
	p.next++
	p.callers--
}

// Whatever ends the multishot accept, it is asked for again, once, and every caller is let in, in order; while nobody is welcome it is not in the kernel.
func TestAnAcceptThatEndsByItselfIsAskedForAgain(t *testing.T) {
	tired := 0
	for seed := range uint64(30) {
		f := newFake(seed)
		f.begin = func(SQE) (int32, bool) { return 0, true }
		l := fakeLoop(t, f, Options{})
		const callers, roomFor = 60, 5
		door := &porch{f: f, next: firstCaller, callers: callers}
		var mu sync.Mutex
		var came []int
		room := roomFor
		a := &acceptor{loop: l, fd: 77,
			welcome: func() bool { mu.Lock(); defer mu.Unlock(); return room > 0 },
			got:     func(fd int) { mu.Lock(); defer mu.Unlock(); came = append(came, fd); room-- }}
		post := func(do func()) {
			if err := l.Post(do); err != nil {
				t.Fatal(err)
			}
		}
		post(a.arm)
		for done := false; !done; {
			door.step()
			f.finishTimers()
			mu.Lock()
			done = len(came) == callers
			more := room <= 0
			if more {
				room = roomFor
			}
			mu.Unlock()
			if more {
				post(a.arm)
			}
			runtime.Gosched()
		}
		closed := make(chan struct{})
		post(func() { a.close(func() { close(closed) }) })
		<-closed
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		f.verdict(t)
		if !slices.IsSorted(came) || came[0] != firstCaller || came[len(came)-1] != firstCaller+callers-1 {
			t.Fatalf("seed %d: callers %v", seed, came)
		}
		tired += door.tired
	}
	if tired == 0 {
		t.Error("no accept ended by itself")
	}
}
