package nodeinit

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// backoffMin and backoffMax bound the wait before a dead unit is started again. Short: a lab is for watching recovery.
	backoffMin = 100 * time.Millisecond
	backoffMax = 2 * time.Second
	// settled is how long a unit must have run for its next death to count as the first.
	settled = 10 * time.Second
	// stopGrace is how long a stopping unit may take before SIGKILL.
	stopGrace = 10 * time.Second
)

// supervisor owns the units of a node. All its fields belong to the goroutine in loop.
type supervisor struct {
	units     []*unit
	listeners []*os.File
	requests  chan request
	files     chan struct{} // a watched directory changed; one pending note is enough
	booted    bool
	log       *slog.Logger
}

type unit struct {
	Unit
	logFile  *os.File
	wanted   bool
	stopping bool
	pid      int
	starts   int
	since    time.Time
	backoff  time.Duration
	due      time.Time // when wanted and not running: do not start before
	killAt   time.Time // when stopping: send SIGKILL then
	lastExit string
	onExit   []func() // called once when the present process has been reaped
}

func newSupervisor(spec Spec, listeners []*os.File, log *slog.Logger) (*supervisor, error) {
	s := &supervisor{listeners: listeners, requests: make(chan request), files: make(chan struct{}, 1), log: log}
	for _, u := range spec.Units {
		f, err := os.OpenFile(u.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, fmt.Errorf("unit %s: log: %w", u.Name, err)
		}
		s.units = append(s.units, &unit{Unit: u, logFile: f, wanted: true, since: time.Now()})
	}
	return s, nil
}

// loop runs the node until it is killed.
func (s *supervisor) loop(children <-chan os.Signal) error {
	timer := time.NewTimer(0)
	for {
		select {
		case req := <-s.requests:
			s.handle(req)
		case <-children:
			s.reap()
		case <-s.files:
		case <-timer.C:
		}
		timer.Reset(s.advance(time.Now()))
	}
}

// idle is the timer's period when nothing is due; the loop is then woken by events alone.
const idle = time.Hour

// advance starts and kills what is due at now and returns how long nothing else will be.
func (s *supervisor) advance(now time.Time) time.Duration {
	next := idle
	for _, u := range s.units {
		switch {
		case u.stopping && u.pid != 0:
			if !now.Before(u.killAt) {
				unix.Kill(u.pid, unix.SIGKILL)
				u.killAt = now.Add(stopGrace)
			}
			next = min(next, u.killAt.Sub(now))
		case !s.booted || !u.wanted || u.pid != 0 || u.awaitsFile():
		case now.Before(u.due):
			next = min(next, u.due.Sub(now))
		default:
			if err := u.start(s.listeners); err != nil {
				s.log.Error("unit does not start", "unit", u.Name, "err", err)
				u.lastExit = err.Error()
				u.retryLater(now)
				next = min(next, u.due.Sub(now))
			}
		}
	}
	return next
}

// handle answers a request now or, for those that wait for a process to end, when it is reaped.
func (s *supervisor) handle(req request) {
	if req.Op == OpBoot || req.Op == OpStatus {
		s.booted = s.booted || req.Op == OpBoot
		req.reply <- s.report()
		return
	}
	u := s.find(req.Unit)
	if u == nil {
		req.reply <- Reply{Err: fmt.Sprintf("no unit %q", req.Unit)}
		return
	}
	switch req.Op {
	case OpStart:
		u.wanted, u.due = true, time.Time{}
		req.reply <- s.report()
	case OpStop:
		u.wanted = false
		s.end(u, unix.SIGTERM, req.reply)
	case OpRestart:
		u.wanted = true
		s.end(u, unix.SIGTERM, req.reply)
	case OpKill:
		s.end(u, unix.SIGKILL, req.reply)
	case OpCrash:
		u.wanted = false
		s.end(u, unix.SIGKILL, req.reply)
	case OpBoot, OpStatus: // answered above
	default:
		req.reply <- Reply{Err: fmt.Sprintf("unknown operation %q", req.Op)}
	}
}

// end sends sig to the unit's process and answers when it is gone, at once if there is none.
func (s *supervisor) end(u *unit, sig unix.Signal, reply chan Reply) {
	if u.pid == 0 {
		u.due = time.Time{}
		reply <- s.report()
		return
	}
	if sig == unix.SIGTERM {
		u.stopping, u.killAt = true, time.Now().Add(stopGrace)
	}
	u.onExit = append(u.onExit, func() { reply <- s.report() })
	if err := unix.Kill(u.pid, sig); err != nil && !errors.Is(err, unix.ESRCH) {
		s.log.Error("unit does not take a signal", "unit", u.Name, "signal", sig, "err", err)
	}
}

// reap collects every dead child: units, and the orphans that the kernel hands to process 1.
func (s *supervisor) reap() {
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		for _, u := range s.units {
			if u.pid == pid {
				u.exited(ws, time.Now())
				s.log.Info("unit ended", "unit", u.Name, "how", u.lastExit)
			}
		}
	}
}

func (s *supervisor) find(name string) *unit {
	for _, u := range s.units {
		if u.Name == name {
			return u
		}
	}
	return nil
}

func (s *supervisor) report() Reply {
	reply := Reply{}
	for _, u := range s.units {
		reply.Units = append(reply.Units, UnitStatus{
			Name: u.Name, State: u.state(), PID: u.pid, Starts: u.starts, Since: u.since, LastExit: u.lastExit,
		})
	}
	return reply
}

// watch reports changes in the directories of the WaitFor files.
func (s *supervisor) watch() error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return fmt.Errorf("inotify: %w", err)
	}
	for _, u := range s.units {
		if u.WaitFor == "" {
			continue
		}
		dir := filepath.Dir(u.WaitFor)
		if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_CLOSE_WRITE|unix.IN_MOVED_TO|unix.IN_CREATE); err != nil {
			return fmt.Errorf("watch %s: %w", dir, err)
		}
	}
	go func() {
		f := os.NewFile(uintptr(fd), "inotify")
		buf := make([]byte, 4096)
		for {
			if _, err := f.Read(buf); err != nil {
				s.log.Error("file watch is gone", "err", err)
				return
			}
			select {
			case s.files <- struct{}{}:
			default:
			}
		}
	}()
	return nil
}
