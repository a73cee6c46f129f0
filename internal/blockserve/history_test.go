package blockserve

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/nbd"
)

// event is a request in the history of one block: a write of a value that nobody else writes, or a read of one.
type event struct {
	attachment int // in the order of epochs
	write      bool
	value      uint64
	began      time.Duration
	ended      time.Duration // math.MaxInt64: nobody knows whether, or when, it was done
}

// history is what clients saw.
type history struct {
	mu     sync.Mutex
	start  time.Time
	events []event
}

func (h *history) add(e event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, e)
}

// faults are what no order of the events can explain. The block is a register: a read, and the last look at the file, must see a write that
// had begun, and that no acknowledged write had wholly replaced.
func (h *history) faults() (out []string) {
	writes := map[uint64]event{0: {ended: -1}} // zeros were there before anybody came
	for _, e := range h.events {
		if e.write {
			writes[e.value] = e
		}
	}
	for _, r := range h.events {
		if r.write {
			out = append(out, h.lateWriters(r)...)
			continue
		}
		seen, ok := writes[r.value]
		if !ok || seen.began > r.ended {
			out = append(out, fmt.Sprintf("%v reads what nobody had written", r))
			continue
		}
		for _, w := range h.events {
			if w.write && w.ended != math.MaxInt64 && seen.ended < w.began && w.ended < r.began {
				out = append(out, fmt.Sprintf("%v reads %v, which %v had replaced", r, seen, w))
			}
		}
	}
	return out
}

// lateWriters are the acknowledged writes of older attachments that began after this one was acknowledged.
func (h *history) lateWriters(w event) (out []string) {
	for _, older := range h.events {
		if older.write && older.attachment < w.attachment && older.ended != math.MaxInt64 && older.began > w.ended {
			out = append(out, fmt.Sprintf("%v was acknowledged after %v", older, w))
		}
	}
	return out
}

// use writes and reads the block until the attachment is cut off; who tells those apart that use one attachment.
func (h *history) use(c *nbd.Client, attachment int, who uint64, stop <-chan struct{}) {
	block := make([]byte, 4096)
	for i := uint64(1); ; i++ {
		select {
		case <-stop:
			return
		default:
		}
		e := event{attachment: attachment, write: i%3 != 0, value: uint64(attachment)<<40 | who<<32 | i, began: time.Since(h.start)}
		var err error
		if e.write {
			binary.LittleEndian.PutUint64(block, e.value)
			_, err = c.WriteAt(block, 0)
		} else {
			_, err = c.ReadAt(block, 0)
			e.value = binary.LittleEndian.Uint64(block)
		}
		e.ended = time.Since(h.start)
		switch {
		case err == nil:
			h.add(e)
		case e.write && errors.Is(err, nbd.ErrDisconnected):
			e.ended = math.MaxInt64
			h.add(e)
			return
		default:
			return // refused: it was not done
		}
	}
}

// A volume goes from host to host while everybody writes as much as he can: one writes at a time, and what was acknowledged is there.
func TestHistoriesOfHandOversHaveOneWriterAtATime(t *testing.T) {
	const hosts = 12
	eachKept(t, func(t *testing.T, k *kept) {
		l := k.listen("unix", nil)
		h := &history{start: time.Now()}
		stop := make(chan struct{})
		var group sync.WaitGroup
		for host := range hosts {
			id := cloud.AttachmentID(fmt.Sprintf("aaaaaaaa-0000-0000-0000-%012d", host+1))
			c := k.dial(l, nbd.ClientOptions{Export: k.open(id, host%4 != 0)}) // some take over at once, some by their first write
			for who := range uint64(2) {
				group.Go(func() { h.use(c, host, 1+who, stop) })
			}
			h.await(t, host, 20)
		}
		close(stop)
		group.Wait()
		c := k.dial(l, nbd.ClientOptions{Export: k.open(cloud.AttachmentID("aaaaaaaa-0000-0000-0000-00000000ffff"), true)})
		block := make([]byte, 4096)
		last := event{began: time.Since(h.start)}
		_, err := c.ReadAt(block, 0)
		must(t, err)
		last.value, last.ended = binary.LittleEndian.Uint64(block), time.Since(h.start)
		h.add(last)
		for _, fault := range h.faults() {
			t.Error(fault)
		}
	})
}

// await waits until an attachment has had so many requests answered.
func (h *history) await(t *testing.T, attachment, n int) {
	for {
		h.mu.Lock()
		got := 0
		for _, e := range h.events {
			if e.attachment == attachment {
				got++
			}
		}
		h.mu.Unlock()
		if got >= n {
			return
		}
		waitABit(t)
	}
}

// The check finds what it is for.
func TestTheCheckOfHistoriesFindsFaults(t *testing.T) {
	write := func(attachment int, value uint64, began, ended time.Duration) event {
		return event{attachment, true, value, began, ended}
	}
	read := func(value uint64, began, ended time.Duration) event { return event{0, false, value, began, ended} }
	for name, try := range map[string]struct {
		events []event
		faults int
	}{
		"one after another":            {[]event{write(0, 1, 0, 1), write(1, 2, 2, 3), read(2, 4, 5)}, 0},
		"at the same time":             {[]event{write(0, 1, 0, 3), write(1, 2, 1, 4), read(1, 5, 6)}, 0},
		"nobody knows":                 {[]event{write(0, 1, 0, 1), write(0, 2, 2, math.MaxInt64), read(2, 9, 10)}, 0},
		"an older writer after":        {[]event{write(1, 2, 0, 1), write(0, 1, 2, 3)}, 1},
		"a lost write":                 {[]event{write(0, 1, 0, 1), write(0, 2, 2, 3), read(1, 4, 5)}, 1},
		"zeros after a write":          {[]event{write(0, 1, 0, 1), read(0, 2, 3)}, 1},
		"what was not written":         {[]event{read(7, 0, 1)}, 1},
		"what was not yet written":     {[]event{read(7, 0, 1), write(0, 7, 2, 3)}, 1},
		"zeros before the first write": {[]event{read(0, 0, 1), write(0, 1, 2, 3)}, 0},
	} {
		if got := (&history{events: try.events}).faults(); len(got) != try.faults {
			t.Errorf("%s: %d faults, want %d: %v", name, len(got), try.faults, got)
		}
	}
}
