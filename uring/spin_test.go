package uring

import (
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// rests spins once, in vain, and counts the waits without a spin that follow.
func rests(s *spinner) (n int) {
	s.ended(false)
	for !s.due() {
		n++
	}
	return n
}

func TestSpinsInVainAreFollowedByLongerAndLongerRests(t *testing.T) {
	s := spinner{limit: time.Millisecond}
	for want := 1; want < spinRest; want *= 2 {
		if got := rests(&s); got != want {
			t.Errorf("%d waits without a spin, want %d", got, want)
		}
	}
	for range 3 {
		if got := rests(&s); got != spinRest {
			t.Errorf("%d waits without a spin, want no more than %d", got, spinRest)
		}
	}
}

func TestSpinsThatFindSomethingMakeTheNextRestShorter(t *testing.T) {
	s := spinner{limit: time.Millisecond}
	for range 10 {
		rests(&s)
	}
	for want := spinRest / 2; want > 0; want /= 2 {
		s.ended(true)
		s.ended(true)
		if got := rests(&s); got != want {
			t.Errorf("%d waits without a spin, want %d", got, want)
		}
	}
	s.ended(true)
	s.ended(true)
	if got := rests(&s); got != 1 {
		t.Errorf("%d waits without a spin, want one", got)
	}
}

func TestWaitsWithoutALimitCountForNoRest(t *testing.T) {
	s := spinner{limit: time.Millisecond}
	s.ended(false)
	s.limit = 0
	for range spinRest {
		if s.due() {
			t.Fatal("it spins without a limit")
		}
	}
	s.limit = time.Millisecond
	if s.due() || !s.due() {
		t.Error("the rest was not one wait")
	}
}

func TestALoopSpinsOnlyWhereItWasAsked(t *testing.T) {
	if s := (spinner{}); s.due() {
		t.Error("a loop without a limit spins")
	}
}

// Two loops play ping-pong over a socket pair, so that each waits for the other all the time, and goroutines hand them work meanwhile: a
// completion or a piece of work that a spin overlooked would stop the game.
func TestASpinningLoopOverlooksNothing(t *testing.T) {
	play(t, Options{Spin: 50 * time.Microsecond}, func(*Loop) {})
}

// play is the game. Each piece of work calls poke.
func play(t *testing.T, o Options, poke func(*Loop)) {
	t.Helper()
	const rallies, callers = 2000, 4
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	quiet := o
	quiet.QuietWaits = true
	loops := [2]*Loop{newLoop(t, o), newLoop(t, quiet)}
	var players, posters sync.WaitGroup
	done := make(chan struct{})
	for i, l := range loops {
		over := make(chan error, 1)
		players.Go(func() {
			if err := l.Post(func() { rally(l, fds[i], i == 0, rallies, over) }); err != nil {
				t.Error(err)
				return
			}
			if err := <-over; err != nil {
				t.Error(err)
			}
		})
		for range callers {
			posters.Go(func() {
				for {
					select {
					case <-done:
						return
					default:
					}
					answered := make(chan struct{})
					if err := l.Post(func() { poke(l); close(answered) }); err != nil {
						t.Error(err)
						return
					}
					<-answered
				}
			})
		}
	}
	players.Wait()
	close(done)
	posters.Wait()
}

// rally sends a byte and receives one, in turn, n times. On the loop's thread.
func rally(l *Loop, fd int, serves bool, n int, over chan<- error) {
	ball := make([]byte, 1)
	var send, receive func()
	send = func() {
		l.Begin(Handler(func(res int32, _ CQEFlags) {
			if res != 1 {
				over <- unix.Errno(-res)
				return
			}
			receive()
		})).PrepSend(fd, ball, 0)
	}
	receive = func() {
		if n--; n < 0 {
			over <- nil
			return
		}
		l.Begin(Handler(func(res int32, _ CQEFlags) {
			if res != 1 {
				over <- unix.Errno(-res)
				return
			}
			send()
		})).PrepRecv(fd, ball, 0)
	}
	if serves {
		send()
	} else {
		receive()
	}
}
