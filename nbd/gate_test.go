package nbd

import (
	"errors"
	"testing"
)

// before is a Device that stands before another: what blockserve's gate and others like it build upon.
type before struct {
	*instant
	conn   *Conn
	ended  []error
	left   int
	detach int
}

func (b *before) Attach(c *Conn) error { b.conn = c; return nil }
func (b *before) Detach()              { b.detach++ }
func (b *before) Leave()               { b.left++ }

func (b *before) Start(r *Request) {
	r.Intercept = func(err error) {
		b.ended = append(b.ended, err)
		r.Done(errors.Join(err, NoSpace))
	}
	b.instant.Start(r)
}

func TestADeviceMayStandBeforeAnother(t *testing.T) {
	b := &before{instant: &instant{t: t, size: 1 << 20}}
	w := newTape(t, b, &lent{}, Limits{})
	w.conn.structured = false
	for cookie := range uint64(3) { // the request is used again, and intercepted again
		w.feed(requestHead(CmdFlush, 0, cookie, 0, 0))
	}
	if len(b.ended) != 3 || errors.Join(b.ended...) != nil {
		t.Errorf("the ends that were seen: %v", b.ended)
	}
	if len(w.out) != 3*simpleReplyBytes || w.out[7] != byte(NoSpace) {
		t.Errorf("the client hears %x", w.out)
	}
}

func TestFinishAnswersWhatIsUnderWayAndTakesNoMore(t *testing.T) {
	b := &before{instant: &instant{t: t, size: 1 << 20, hold: true}}
	w := newTape(t, b, &lent{}, Limits{})
	w.feed(requestHead(CmdFlush, 0, 1, 0, 0))
	b.conn.Finish()
	w.feed(requestHead(CmdFlush, 0, 2, 0, 0))
	if w.closed || len(b.held) != 1 {
		t.Errorf("closed %v, %d requests under way", w.closed, len(b.held))
	}
	b.held[0].Done(nil)
	if !w.closed || len(w.out) == 0 {
		t.Errorf("closed %v, %d bytes of answers", w.closed, len(w.out))
	}
}

func TestTheDeviceIsToldOfClientsThatLeaveRequestsBehind(t *testing.T) {
	b := &before{instant: &instant{t: t, size: 1 << 20, hold: true}}
	w := newTape(t, b, &lent{}, Limits{})
	w.feed(requestHead(CmdFlush, 0, 1, 0, 0))
	w.conn.Closed(nil)
	if b.left != 1 || b.detach != 0 {
		t.Errorf("told %d times, detached %d times", b.left, b.detach)
	}
	b.held[0].Done(nil)
	if b.left != 1 || b.detach != 1 {
		t.Errorf("at last told %d times, detached %d times", b.left, b.detach)
	}
	w = newTape(t, b, &lent{}, Limits{})
	w.conn.Closed(nil)
	if b.left != 1 || b.detach != 2 {
		t.Errorf("a client that left nothing behind: told %d times, detached %d times", b.left, b.detach)
	}
}
