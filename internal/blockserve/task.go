package blockserve

import (
	"cmp"
	"io"
	"time"

	"golang.org/x/sys/unix"

	"github.com/godwit-cloud/godwit/internal/volume"
	"github.com/godwit-cloud/godwit/nbd"
	"github.com/godwit-cloud/godwit/uring"
)

// task is a request on its way through a gate. It is made once for each nbd.Request and used again with it.
type task struct {
	gate    *gate
	request *nbd.Request
	began   time.Duration // by Server.now
	holds   bool          // a mutation is counted with the lease
	ended   func(error)   // finish, for nbd.Request.Intercept

	// On the ring.
	lane  *lane
	moved int    // bytes read or written so far
	tries int    // times the kernel was asked again without having moved anything
	steps int    // completions still to come
	runs  bool   // counted by the lane
	err   error  // the first error of the steps
	loose bool   // the linked sync was cancelled, and told nothing
	cuts  uint64 // of links, when the sync was linked
}

func newTask(g *gate, r *nbd.Request) *task {
	t := &task{gate: g, request: r}
	t.ended = t.finish
	t.lane, _ = g.place.(*lane)
	r.Local = t
	return t
}

// mutates reports whether the request changes the volume.
func (t *task) mutates() bool {
	c := t.request.Command
	return c == nbd.CmdWrite || c == nbd.CmdTrim || c == nbd.CmdWriteZeroes
}

// unlimited reports whether the volume's limits do not count the request: a flush does no more than what was counted with the writes.
func (t *task) unlimited() bool {
	c := t.request.Command
	return c != nbd.CmdRead && !t.mutates()
}

// cost is how many bytes the limits count. Trimming and zeroing move none.
func (t *task) cost() int64 { return int64(len(t.request.Data)) }

// admit starts the task if the epoch allows it, or sees to it that it will be.
func (t *task) admit() {
	l := t.gate.lease
	if t.request.Command != nbd.CmdRead {
		if err := l.SyncErr(); err != nil {
			t.finish(err)
			return
		}
	}
	if !t.mutates() {
		if err := l.Err(); err != nil {
			t.finish(refusal(err))
			return
		}
		t.gate.place.start(t)
		return
	}
	switch l.Begin() {
	case volume.Go:
		t.holds = true
		t.gate.place.start(t)
	case volume.Held:
		t.gate.meter.held.Add(1)
		l.Await(func(err error) { t.gate.place.post(func() { t.released(err) }) })
	case volume.Refused:
		t.finish(refusal(l.Refusal()))
	}
}

// released goes on with a mutation that was held.
func (t *task) released(err error) {
	if err != nil {
		t.finish(refusal(err))
		return
	}
	t.admit()
}

// finish ends the task.
func (t *task) finish(err error) {
	g, r := t.gate, t.request
	if t.runs {
		t.runs = false
		t.lane.ended(t)
	}
	if r.Command == nbd.CmdRead || t.mutates() {
		g.lease.Ended(int64(r.Offset), int64(r.Length), r.Command == nbd.CmdWrite || r.Command == nbd.CmdWriteZeroes, err)
	}
	if t.holds {
		t.holds = false
		g.lease.EndAt(int64(r.Offset), int64(r.Length))
	}
	g.meter.ended(r, g.server.now()-t.began, err)
	r.Done(err)
}

// run carries the task out by the ring. On the loop's thread, like all that follows.
func (t *task) run() {
	t.runs = true
	t.lane.began()
	if fault := t.gate.server.options.fault; fault != nil {
		if err := fault(t.request); err != nil {
			t.finish(err)
			return
		}
	}
	t.moved, t.tries, t.steps, t.err, t.loose = 0, 0, 1, nil, false
	if t.gate.fd < 0 {
		t.offLoop() // a file that is none of the kernel's
		return
	}
	t.ask()
}

// ask hands the request, or what is missing of it, to the kernel.
func (t *task) ask() {
	switch t.request.Command {
	case nbd.CmdRead:
		t.read()
	case nbd.CmdWrite:
		t.write()
	case nbd.CmdFlush:
		t.prepSync(t.lane.loop.Begin(t))
	case nbd.CmdTrim, nbd.CmdWriteZeroes:
		t.allocate()
	default:
		t.offLoop()
	}
}

// onFile names the file in an entry: by its registered number if it has one.
func (t *task) onFile(e *uring.SQE) {
	if t.gate.fixed {
		e.Flags |= uring.FixedFile
	}
}

func (t *task) read() {
	r := t.request
	e := t.lane.loop.Begin(t)
	e.PrepRead(int(t.gate.fd), r.Data[t.moved:], int64(r.Offset)+int64(t.moved))
	t.onFile(e)
}

// write writes, and with FUA syncs: linked, so that both go to the kernel together and the sync begins when the write has succeeded.
func (t *task) write() {
	r, loop := t.request, t.lane.loop
	synced := r.Flags&nbd.CmdFlagFUA != 0
	if synced {
		loop.Reserve(2)
	}
	e := loop.Begin(t)
	e.PrepWrite(int(t.gate.fd), r.Data[t.moved:], int64(r.Offset)+int64(t.moved))
	t.onFile(e)
	if synced {
		t.sync(e)
	}
}

// allocate makes a hole or a stretch of zeros.
func (t *task) allocate() {
	r, loop := t.request, t.lane.loop
	mode := uint32(unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE)
	if r.Command == nbd.CmdWriteZeroes && r.Flags&nbd.CmdFlagNoHole != 0 {
		mode = unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE
	}
	synced := r.Flags&nbd.CmdFlagFUA != 0
	if synced {
		loop.Reserve(2)
	}
	e := loop.Begin(t)
	e.PrepFallocate(int(t.gate.fd), mode, int64(r.Offset), int64(r.Length))
	t.onFile(e)
	if synced {
		t.sync(e)
	}
}

// sync links a sync to an entry.
func (t *task) sync(e *uring.SQE) {
	e.Flags |= uring.IOLink
	t.steps, t.cuts = 2, t.lane.loop.LinksCut()
	t.prepSync(t.lane.loop.Begin((*syncStep)(t)))
}

// prepSync makes an entry a sync of the file.
func (t *task) prepSync(e *uring.SQE) {
	if t.gate.server.options.syncsNothing {
		e.PrepNop()
		return
	}
	e.PrepFsync(int(t.gate.fd), true)
	t.onFile(e)
}

// syncStep is a task as the Completer of its linked sync.
type syncStep task

// Complete takes the sync's result. A sync whose write failed or fell short was cancelled, and tells nothing; the kernel may cancel one for
// reasons of its own too.
func (s *syncStep) Complete(res int32, _ uring.CQEFlags) {
	t := (*task)(s)
	errno := unix.Errno(-min(res, 0))
	if cancels := t.gate.server.options.cancels; cancels != nil && cancels() {
		errno = unix.ECANCELED
	}
	if errno == unix.ECANCELED {
		t.loose = true
	} else {
		t.err = cmp.Or(t.err, t.synced(errno))
		t.loose = t.lane.loop.LinksCut() != t.cuts // it may have begun before what it was to sync had ended
	}
	t.step()
}

// synced takes the result of a sync and remembers a failure: the next sync would succeed over what this one lost.
func (t *task) synced(errno unix.Errno) error {
	var err error
	if errno != 0 {
		err = errno
	}
	if fault := t.gate.server.options.syncFault; fault != nil && err == nil {
		err = fault()
	}
	if err != nil && errno != unix.EINTR && errno != unix.EAGAIN { // those two are asked again
		t.gate.lease.SyncFailed(err)
	}
	return err
}

// Complete takes the result of a read, a write, a lone sync or an allocation.
func (t *task) Complete(res int32, _ uring.CQEFlags) {
	switch {
	case t.request.Command == nbd.CmdFlush:
		t.err = t.synced(unix.Errno(-min(res, 0)))
	case res < 0:
		t.err = unix.Errno(-res)
	case t.request.Command == nbd.CmdRead && res == 0:
		clear(t.request.Data[t.moved:]) // beyond the end of a file that is not whole
		t.moved = len(t.request.Data)
	default:
		t.moved += int(res)
		if res > 0 {
			t.tries = 0
		}
	}
	t.step()
}

// triesMax bounds how often the kernel is asked again after a signal or a refusal for now. More than one in a row has not been seen.
const triesMax = 16

// step ends the task when all its steps have completed, or asks for what is missing.
func (t *task) step() {
	if t.steps--; t.steps > 0 {
		return
	}
	r, err, loose := t.request, t.err, t.loose
	t.steps, t.err, t.loose = 1, nil, false
	short := (r.Command == nbd.CmdRead || r.Command == nbd.CmdWrite) && t.moved < len(r.Data)
	again := err == unix.EINTR || err == unix.EAGAIN || err == nil && (short || loose) //nolint:errorlint // set by Complete alone
	switch {
	case again && t.tries < triesMax:
		t.tries++
		if loose && err == nil && !short { // what it was to sync is done
			t.cuts = t.lane.loop.LinksCut()
			t.prepSync(t.lane.loop.Begin((*syncStep)(t)))
			return
		}
		t.ask()
	case err == nil && short:
		t.finish(io.ErrShortWrite)
	case err == nil && loose:
		t.finish(unix.ECANCELED) // written and not synced: to be told so is better than to be told nothing
	case unsupported(err) && (r.Command == nbd.CmdTrim || r.Command == nbd.CmdWriteZeroes):
		t.offLoop()
	default:
		t.finish(err)
	}
}

// offLoop carries the task out in a goroutine that may block.
func (t *task) offLoop() {
	t.gate.server.aside(func() {
		err := nbd.Run(t.gate.storage, t.request)
		t.lane.post(func() { t.finish(err) })
	})
}
