package volume

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// A volume of one word that several hosts fight for, checked against what a person would say it does: somebody writes, a newer one takes over, and
// from then on nothing of the older one arrives.

type raceOp uint8

const (
	opWrite raceOp = iota // by the attachment who, of value
	opRead
	opTake    // who is opened as the writer
	opStandBy // who is opened for handover
	opWait    // who, whose write is held, waits to become the writer
)

type raceInput struct {
	op    raceOp
	who   int
	value uint64
}

type raceOutput struct {
	value   uint64 // read
	refused bool   // the writer was cut off
}

// raceState is the model: the word, who writes, and who may yet become the writer. Attachments are numbered in the order in which they may
// be opened, each once.
type raceState struct {
	word    uint64
	writer  int
	standby int // bit set
	over    int // bit set: cut off for good
}

var raceModel = porcupine.Model{
	Init: func() any { return raceState{writer: -1} },
	Step: func(state, input, output any) (bool, any) {
		s, in, out := state.(raceState), input.(raceInput), output.(raceOutput)
		bit := 1 << in.who
		take := func() {
			// Whoever was opened before is over: the writer and all who stood by. Who stood by later than in.who does so still.
			for w := range in.who {
				if w == s.writer || s.standby&(1<<w) != 0 {
					s.over |= 1 << w
				}
			}
			s.standby &^= bit | s.over
			s.writer = in.who
		}
		switch in.op {
		case opTake:
			take()
			return true, s
		case opStandBy:
			s.standby |= bit
			return true, s
		case opRead: // one that overtakes the cut-off is allowed, and sees the word as it is
			if out.refused {
				return s.over&bit != 0, s
			}
			return out.value == s.word, s
		case opWait:
			if out.refused {
				return s.over&bit != 0, s
			}
			if s.standby&bit != 0 {
				take()
			}
			return s.writer == in.who, s
		case opWrite:
			if out.refused {
				return s.over&bit != 0, s
			}
			s.word = in.value
			return s.writer == in.who, s
		default:
			return false, s
		}
	},
	DescribeOperation: func(input, output any) string {
		in, out := input.(raceInput), output.(raceOutput)
		return fmt.Sprintf("%s(%d, %d) -> %d refused %v", []string{"write", "read", "take", "standby", "wait"}[in.op], in.who, in.value, out.value, out.refused)
	},
}

// racers run against one store and write down what they did.
type racers struct {
	t     *testing.T
	s     *Store
	start time.Time
	mu    sync.Mutex
	ops   []porcupine.Operation
	opens sync.Mutex // attachments are opened in order of their numbers
	next  int
}

func (r *racers) note(client int, in raceInput, f func() raceOutput) {
	began := time.Since(r.start)
	r.wrote(client, in, began, f())
}

func (r *racers) wrote(client int, in raceInput, began time.Duration, out raceOutput) {
	ended := time.Since(r.start)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ops = append(r.ops, porcupine.Operation{ClientId: client, Input: in, Call: int64(began), Output: out, Return: int64(ended)})
}

// fight is one host's life: it opens attachments and uses each until it is cut off, or for some turns.
func (r *racers) fight(client int, rnd *rand.Rand, lives, turns int) {
	for range lives {
		r.opens.Lock()
		who := r.next
		r.next++
		op := opTake
		if rnd.IntN(2) == 0 {
			op = opStandBy
		}
		id := cloud.AttachmentID(strconv.Itoa(who))
		r.note(client, raceInput{op: op, who: who}, func() raceOutput {
			_, err := r.s.OpenAttachment(context.Background(), call(1), Request{Attachment: id, Host: "h", Handover: op == opStandBy})
			if err != nil {
				r.t.Error(err)
			}
			return raceOutput{}
		})
		r.opens.Unlock()
		l, err := r.s.Admit(Visit{Volume: vol, Attachment: id})
		if err != nil { // cut off already
			continue
		}
		for range rnd.IntN(turns) + 1 {
			r.turn(client, who, l, rnd)
		}
		l.Close()
	}
}

func (r *racers) turn(client, who int, l *Lease, rnd *rand.Rand) {
	if rnd.IntN(3) == 0 {
		r.note(client, raceInput{op: opRead, who: who}, func() raceOutput {
			if l.Err() != nil {
				return raceOutput{refused: true}
			}
			var word [8]byte
			if _, err := l.File().ReadAt(word[:], 0); err != nil {
				r.t.Error(err)
			}
			return raceOutput{value: binary.BigEndian.Uint64(word[:])}
		})
		return
	}
	for v := r.write(client, who, l, rnd.Uint64()); v == Held; v = r.write(client, who, l, rnd.Uint64()) {
		r.note(client, raceInput{op: opWait, who: who}, func() raceOutput {
			err := answer(l)
			if err != nil && !errors.Is(err, ErrCutOff) {
				r.t.Error(err)
			}
			return raceOutput{refused: err != nil}
		})
	}
}

// write tries to write, and notes it unless it is held.
func (r *racers) write(client, who int, l *Lease, value uint64) Verdict {
	var verdict Verdict
	began := time.Since(r.start)
	if verdict = l.Begin(); verdict == Held {
		return Held
	}
	if verdict == Go {
		var word [8]byte
		binary.BigEndian.PutUint64(word[:], value)
		if _, err := l.File().WriteAt(word[:], 0); err != nil {
			r.t.Error(err)
		}
		l.End()
	}
	r.wrote(client, raceInput{op: opWrite, who: who, value: value}, began, raceOutput{refused: verdict == Refused})
	return verdict
}

// disturb does to the volume what has no say in who writes it.
func (r *racers) disturb(over <-chan struct{}) {
	ctx := context.Background()
	for n := int64(0); ; n++ {
		select {
		case <-over:
			return
		default:
		}
		snap := cloud.SnapshotID(fmt.Sprint("s", n%3))
		clone := Call{Volume: "clone", Generation: n}
		for _, err := range []error{
			discard(r.s.Snapshot(ctx, call(1), snap)), discard(r.s.Extend(ctx, call(1), 4096+min(n, 8)*sectorBytes)), discard(r.s.SetLimits(ctx, call(1), Limits{IOPS: n})),
			discard(r.s.Create(ctx, clone, Spec{Bytes: 16384, Source: Source{Volume: vol}})), r.s.Delete(ctx, clone), r.s.DeleteSnapshot(ctx, call(1), snap),
		} {
			if err != nil {
				r.t.Error(err)
			}
		}
	}
}

func TestAttachRacesKeepOneWriterAtATimeAndLoseNoAcknowledgedWrite(t *testing.T) {
	const (
		rounds  = 20
		hosts   = 4
		lives   = 4
		turns   = 12
		timeout = 20 * time.Second
	)
	for round := range rounds {
		s := openStore(t, Options{Dir: dirOne, Direct: DirectOff, files: newMemFiles(newTree(), round%2 == 0)})
		must(s.Create(context.Background(), call(1), Spec{Bytes: 4096}))(t)
		r := &racers{t: t, s: s, start: time.Now()}
		var group, others sync.WaitGroup
		over := make(chan struct{})
		others.Go(func() { r.disturb(over) })
		for host := range hosts {
			group.Go(func() { r.fight(host, rand.New(rand.NewPCG(uint64(round), uint64(host))), lives, turns) })
		}
		group.Wait()
		close(over)
		others.Wait()
		if got := porcupine.CheckOperationsTimeout(raceModel, r.ops, timeout); got != porcupine.Ok {
			for _, o := range r.ops {
				t.Logf("host %d %d..%d %s", o.ClientId, o.Call, o.Return, raceModel.DescribeOperation(o.Input, o.Output))
			}
			t.Fatalf("round %d: the history of %d operations is %s", round, len(r.ops), got)
		}
	}
}
