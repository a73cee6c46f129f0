package volume

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// writers returns the epochs of those who write and share with nobody.
func (l ledger) writers() []int64 {
	var out []int64
	for _, r := range l.Open {
		if !r.Shared && l.role(r) == RoleWriter {
			out = append(out, r.Epoch)
		}
	}
	return out
}

// life is what a ledger must keep to over its whole history.
type life struct {
	now   ledger
	given map[int64]bool // epochs ever given out
	over  map[int64]bool // epochs that were cut off or closed: never again
}

// become checks the step from one ledger to the next.
func (h *life) become(t *rapid.T, next ledger) {
	if next.Epoch < h.now.Epoch || next.Writer < h.now.Writer || next.Writer > next.Epoch {
		t.Fatalf("epoch %d, writer %d after epoch %d, writer %d", next.Epoch, next.Writer, h.now.Epoch, h.now.Writer)
	}
	if w := next.writers(); len(w) > 1 {
		t.Fatalf("epochs %v all write", w)
	}
	for _, r := range h.now.Open {
		if role := next.roleOf(r.ID, r.Epoch); role == RoleAbsent || role == RoleCutOff {
			h.over[r.Epoch] = true
		}
	}
	for _, r := range next.Open {
		if before, ok := h.now.find(r.ID); !ok || before.Epoch != r.Epoch {
			if h.given[r.Epoch] {
				t.Fatalf("epoch %d was given out twice", r.Epoch)
			}
			h.given[r.Epoch] = true
		}
		if role := next.role(r); h.over[r.Epoch] && role != RoleCutOff {
			t.Fatalf("epoch %d was over and is %v", r.Epoch, role)
		}
	}
	h.now = next
}

// roles returns the role of each open attachment but one.
func roles(l ledger, but cloud.AttachmentID) string {
	var out []string
	for _, r := range l.Open {
		if r.ID != but {
			out = append(out, fmt.Sprintf("%s:%d %v", r.ID, r.Epoch, l.role(r)))
		}
	}
	slices.Sort(out)
	return fmt.Sprint(out)
}

func TestAtMostOneAttachmentWritesAloneAndEpochsOnlyGrow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := &life{given: map[int64]bool{}, over: map[int64]bool{}}
		id := rapid.Custom(func(t *rapid.T) cloud.AttachmentID {
			return cloud.AttachmentID(rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "id"))
		})
		t.Repeat(map[string]func(*rapid.T){
			"open": func(t *rapid.T) {
				req := Request{Attachment: id.Draw(t, "id"), Host: cloud.HostName(rapid.SampledFrom([]string{"h1", "h2"}).Draw(t, "host")),
					ReadOnly: rapid.Bool().Draw(t, "ro"), Handover: rapid.Bool().Draw(t, "handover"), Shared: rapid.Bool().Draw(t, "shared")}
				before := roles(h.now, req.Attachment)
				next, r, err := h.now.open(req)
				if err != nil {
					t.Fatal(err)
				}
				want := RoleWriter
				if req.ReadOnly {
					want = RoleReader
				} else if req.Handover && !req.Shared && next.Writer < r.Epoch {
					want = RoleStandby
				}
				if got := next.role(r); got != want {
					t.Fatalf("%+v became %v, want %v", req, got, want)
				}
				if after := roles(next, req.Attachment); want != RoleWriter && after != before || req.Shared && after != before {
					t.Fatalf("%+v changed others from %s to %s", req, before, after)
				}
				again, r2, err := next.open(req)
				if err != nil || r2 != r || !again.equal(next) {
					t.Fatalf("asked again: %+v then %+v, %v", r, r2, err)
				}
				h.become(t, next)
			},
			"promote": func(t *rapid.T) {
				who := id.Draw(t, "id")
				was, open := h.now.find(who)
				next, err := h.now.promote(who)
				switch role := h.now.roleOf(who, was.Epoch); {
				case !open && !cloud.Is(err, cloud.KindNotFound):
					t.Fatalf("absent: %v", err)
				case open && (role == RoleReader || role == RoleCutOff) && !cloud.Is(err, cloud.KindConflict):
					t.Fatalf("%v promoted: %v", role, err)
				case (role == RoleStandby || role == RoleWriter) && (err != nil || next.roleOf(who, was.Epoch) != RoleWriter):
					t.Fatalf("%v promoted: %v", role, err)
				}
				if err == nil {
					h.become(t, next)
				}
			},
			"close": func(t *rapid.T) {
				who := id.Draw(t, "id")
				before, beforeOpen := roles(h.now, who), slices.Clone(h.now.Open)
				next := h.now.closed(who)
				if after := roles(next, who); after != before {
					t.Fatalf("closing %s changed others from %s to %s", who, before, after)
				}
				if !slices.Equal(beforeOpen, h.now.Open) {
					t.Fatal("the old ledger was changed in place")
				}
				h.become(t, next)
			},
		})
	})
}
