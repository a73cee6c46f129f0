package uring

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// refusing is a kernel that does not let us in.
type refusing struct {
	kernel
	errno error
}

func (k refusing) setup(uint32, *params) (int, error) { return -1, k.errno }

func TestRefusalSaysWhyAndWhatToDo(t *testing.T) {
	for errno, word := range map[error]string{unix.ENOSYS: "Linux 6.1", unix.EPERM: "kernel.io_uring_disabled", unix.ENOMEM: "RLIMIT_MEMLOCK"} {
		_, err := New(Options{kernel: refusing{errno: errno}})
		if !errors.Is(err, ErrUnavailable) || !errors.Is(err, errno) || !bytes.Contains([]byte(err.Error()), []byte(word)) {
			t.Errorf("%v: got %v, want ErrUnavailable that mentions %q", errno, err, word)
		}
	}
}

// dropping is a kernel that does not know some set-up flags.
type dropping struct {
	linux
	unknown SetupFlags
}

func (k dropping) setup(entries uint32, p *params) (int, error) {
	if p.Flags&k.unknown != 0 {
		return -1, unix.EINVAL
	}
	return k.linux.setup(entries, p)
}

func TestOptionalFlagsAreDroppedWhenUnknown(t *testing.T) {
	r, err := New(Options{Flags: SetupSingleIssuer | SetupDeferTaskrun, Optional: SetupSingleIssuer | SetupDeferTaskrun, kernel: dropping{unknown: SetupDeferTaskrun}})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if r.Flags()&SetupDeferTaskrun != 0 {
		t.Error("the flag the kernel refused is reported as in force")
	}
	if r.Flags()&SetupSingleIssuer == 0 {
		t.Error("an older flag, which the kernel knows, was dropped with it")
	}
	if _, err := New(Options{Flags: SetupDeferTaskrun | SetupSingleIssuer, kernel: dropping{unknown: SetupDeferTaskrun}}); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a flag that is not optional was dropped: %v", err)
	}
}

// flavours are the ways a ring can work; what holds for one holds for all.
var flavours = map[string]SetupFlags{
	"plain":  0,
	"coop":   SetupCoopTaskrun | SetupTaskrunFlag,
	"defer":  SetupSingleIssuer | SetupDeferTaskrun,
	"sqpoll": SetupSQPoll,
}

func eachFlavour(t *testing.T, o Options, f func(t *testing.T, r *Ring)) {
	for name, flags := range flavours {
		t.Run(name, func(t *testing.T) {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			o.Flags = flags
			o.SQPollIdle = 20 * time.Millisecond
			r, err := New(o)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			f(t, r)
		})
	}
}

// complete waits for n completions and returns them.
func complete(t *testing.T, r *Ring, n int) []CQE {
	t.Helper()
	var out []CQE
	for len(out) < n {
		if err := r.SubmitAndWait(1); err != nil {
			t.Fatal(err)
		}
		r.Completions(func(c CQE) { out = append(out, c) })
	}
	return out
}

func TestOneEnterCarriesManyEntries(t *testing.T) {
	const batch = 64
	eachFlavour(t, Options{Entries: batch}, func(t *testing.T, r *Ring) {
		for i := range batch {
			e := r.Next()
			e.PrepNop()
			e.UserData = uint64(i)
		}
		if r.Next() != nil {
			t.Fatal("the queue took more entries than it has")
		}
		before := r.Stats().Enters
		seen := map[uint64]bool{}
		for _, c := range complete(t, r, batch) {
			seen[c.UserData] = true
		}
		if len(seen) != batch {
			t.Errorf("%d of %d entries completed", len(seen), batch)
		}
		if r.Flags()&SetupSQPoll == 0 && r.Stats().Enters-before != 1 {
			t.Errorf("%d calls of io_uring_enter for one batch", r.Stats().Enters-before)
		}
	})
}

func TestOverflowingCompletionQueueLosesNothing(t *testing.T) {
	const entries, total = 4, 4 * 16
	eachFlavour(t, Options{Entries: entries, CQEntries: 8}, func(t *testing.T, r *Ring) {
		if r.Flags()&SetupSQPoll != 0 {
			return // its thread stops submitting instead
		}
		for sent := 0; sent < total; sent += entries {
			for i := range entries {
				e := r.Next()
				if e == nil {
					t.Fatal("no room though all was submitted")
				}
				e.PrepNop()
				e.UserData = uint64(sent + i)
			}
			if err := r.Submit(); err != nil {
				t.Fatal(err)
			}
		}
		seen := map[uint64]bool{}
		for _, c := range complete(t, r, total) {
			seen[c.UserData] = true
		}
		if len(seen) != total {
			t.Errorf("%d of %d completions", len(seen), total)
		}
	})
}

func TestWriteLinkedToFsyncThenRead(t *testing.T) {
	eachFlavour(t, Options{}, func(t *testing.T, r *Ring) {
		f, err := os.Create(filepath.Join(t.TempDir(), "file"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		fd := int(f.Fd())
		want := []byte("eleven thousand kilometres")
		w := r.Next()
		w.PrepWrite(fd, want, 4096)
		w.Flags, w.UserData = IOLink, 1
		s := r.Next()
		s.PrepFsync(fd, true)
		s.UserData = 2
		order := complete(t, r, 2)
		if order[0].UserData != 1 || order[0].Res != int32(len(want)) || order[1].UserData != 2 || order[1].Res != 0 {
			t.Fatalf("write then fsync: %+v", order)
		}
		got := make([]byte, len(want))
		e := r.Next()
		e.PrepRead(fd, got, 4096)
		if c := complete(t, r, 1)[0]; c.Res != int32(len(want)) || !bytes.Equal(got, want) {
			t.Fatalf("read %d bytes %q", c.Res, got)
		}
	})
}

func TestCancelledRequestSaysSo(t *testing.T) {
	eachFlavour(t, Options{}, func(t *testing.T, r *Ring) {
		var p [2]int
		if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		defer unix.Close(p[0])
		defer unix.Close(p[1])
		e := r.Next()
		e.PrepRead(p[0], make([]byte, 8), 0)
		e.UserData = 7
		if err := r.Submit(); err != nil {
			t.Fatal(err)
		}
		e = r.Next()
		e.PrepCancel(7, false)
		e.UserData = 8
		got := map[uint64]int32{}
		for _, c := range complete(t, r, 2) {
			got[c.UserData] = c.Res
		}
		if errno := unix.Errno(-got[7]); errno != unix.ECANCELED && errno != unix.EINTR {
			t.Errorf("the cancelled read returned %d", got[7])
		}
		if got[8] != 0 && unix.Errno(-got[8]) != unix.EALREADY {
			t.Errorf("cancel returned %d", got[8])
		}
	})
}

func TestWaitWithTimeoutComesBackWithoutCompletions(t *testing.T) {
	eachFlavour(t, Options{}, func(t *testing.T, r *Ring) {
		if err := r.SubmitAndWaitTimeout(1, time.Millisecond); err != nil {
			t.Fatal(err)
		}
		if n := r.Completions(func(CQE) {}); n != 0 {
			t.Errorf("%d completions of nothing", n)
		}
	})
}

func TestTimeoutCompletesWithETIME(t *testing.T) {
	eachFlavour(t, Options{}, func(t *testing.T, r *Ring) {
		var ts Timespec
		ts.Set(time.Millisecond)
		r.Next().PrepTimeout(&ts, 0)
		if c := complete(t, r, 1)[0]; unix.Errno(-c.Res) != unix.ETIME {
			t.Errorf("timeout completed with %d", c.Res)
		}
		runtime.KeepAlive(unsafe.Pointer(&ts))
	})
}

func TestClosedRingRefuses(t *testing.T) {
	r, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if err := r.Submit(); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
	if err := r.Close(); err != nil {
		t.Errorf("a second close: %v", err)
	}
}
