package uring

import (
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestASpinInVainIsFollowedByARest(t *testing.T) {
	s := spinner{limit: time.Millisecond}
	for range 3 {
		if !s.due() {
			t.Fatal("no spin though the last one found something")
		}
		s.ended(true)
	}
	s.due()
	s.ended(false)
	rests := 0
	for !s.due() {
		rests++
	}
	if rests != spinRest {
		t.Errorf("%d waits without a spin, want %d", rests, spinRest)
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
	const rallies, callers = 2000, 4
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	loops := [2]*Loop{newLoop(t, Options{Spin: 50 * time.Microsecond}), newLoop(t, Options{Spin: 50 * time.Microsecond, QuietWaits: true})}
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
					if err := l.Post(func() { close(answered) }); err != nil {
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
