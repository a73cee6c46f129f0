package volume

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// memStore is a store on files in memory with one volume, of generation 1.
func memStore(t testing.TB, reflink bool) (*Store, *memFiles) {
	t.Helper()
	files := newMemFiles(newTree(), reflink)
	s := openStore(t, Options{Dir: dirOne, Direct: DirectOff, files: files})
	must(s.Create(context.Background(), call(1), Spec{Bytes: mib}))(t)
	return s, files
}

// attach opens an attachment and admits a connection to it.
func attach(t testing.TB, s *Store, req Request) *Lease {
	t.Helper()
	now := must(s.Inspect(context.Background(), vol))(t)
	must(s.OpenAttachment(context.Background(), call(now.Generation), req))(t)
	l := must(s.Admit(Visit{Volume: vol, Attachment: req.Attachment, Host: req.Host}))(t)
	t.Cleanup(l.Close)
	return l
}

func role(t testing.TB, s *Store, id cloud.AttachmentID) Role {
	t.Helper()
	a, _ := s.Find(vol, id)
	return a.Role
}

// answer returns what Await says.
func answer(l *Lease) error {
	said := make(chan error, 1)
	l.Await(func(err error) { said <- err })
	return <-said
}

func TestAWriterKeepsWritingWhenItsSuccessorCannotBeRecorded(t *testing.T) {
	s, files := memStore(t, true)
	a := attach(t, s, Request{Attachment: "a", Host: "h"})
	b := attach(t, s, Request{Attachment: "b", Host: "h", Handover: true})
	files.mu.Lock()
	files.fault = func(int, effect) error { return unix.ENOSPC }
	files.mu.Unlock()
	if v := b.Begin(); v != Held {
		t.Fatalf("the standby's Begin: %v", v)
	}
	wantKind(t, answer(b), cloud.KindExhausted)
	_, err := s.OpenAttachment(context.Background(), call(2), Request{Attachment: "c", Host: "h"})
	wantKind(t, err, cloud.KindExhausted)
	if v := a.Begin(); v != Go {
		t.Fatalf("the writer's Begin: %v", v)
	}
	a.End()
	files.mu.Lock()
	files.fault = nil
	files.mu.Unlock()
	if err := answer(b); err != nil {
		t.Fatal(err)
	}
	if role(t, s, "b") != RoleWriter || role(t, s, "a") != RoleCutOff {
		t.Fatalf("a %v, b %v", role(t, s, "a"), role(t, s, "b"))
	}
}

func TestACallerThatGivesUpWaitingForWritesChangesNothing(t *testing.T) {
	s, _ := memStore(t, true)
	a := attach(t, s, Request{Attachment: "a", Host: "h"})
	a.Begin()
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() {
		_, err := s.OpenAttachment(ctx, call(2), Request{Attachment: "b", Host: "h"})
		result <- err
	}()
	for a.Begin() == Go { // until the gate is shut
		a.End()
	}
	held := make(chan error, 1)
	a.Await(func(err error) { held <- err })
	cancel()
	wantKind(t, <-result, cloud.KindCancelled)
	if err := <-held; err != nil {
		t.Fatalf("the write that was held meanwhile: %v", err)
	}
	if _, ok := s.Find(vol, "b"); ok || role(t, s, "a") != RoleWriter {
		t.Fatalf("a %v, b is there: %v", role(t, s, "a"), ok)
	}
	a.End()
}

func TestTheWriterIsToldOnceThatItIsCutOff(t *testing.T) {
	s, _ := memStore(t, true)
	ctx := context.Background()
	must(s.OpenAttachment(ctx, call(1), Request{Attachment: "a", Host: "h"}))(t)
	var told atomic.Int32
	l := must(s.Admit(Visit{Volume: vol, Attachment: "a", CutOff: func() { told.Add(1) }}))(t)
	for range 2 {
		must(s.OpenAttachment(ctx, call(1), Request{Attachment: "b", Host: "h"}))(t)
		must(s.CloseAttachment(ctx, call(1), "a"))(t)
	}
	if n := told.Load(); n != 1 {
		t.Fatalf("told %d times", n)
	}
	if err := l.Err(); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	l.Close()
	if n := told.Load(); n != 1 {
		t.Fatalf("told again by Close: %d times", n)
	}
}

func TestAReaderNeverWritesAndCutsNobodyOff(t *testing.T) {
	s, _ := memStore(t, true)
	a := attach(t, s, Request{Attachment: "a", Host: "h"})
	r := attach(t, s, Request{Attachment: "r", Host: "h", ReadOnly: true})
	if v := r.Begin(); v != Refused || !errors.Is(r.Refusal(), ErrReadOnly) || r.Err() != nil {
		t.Fatalf("the reader's Begin: %v, %v, %v", v, r.Refusal(), r.Err())
	}
	attach(t, s, Request{Attachment: "b", Host: "h"})
	if r.Err() != nil || !errors.Is(a.Err(), ErrCutOff) {
		t.Fatalf("the reader %v, the older writer %v", r.Err(), a.Err())
	}
}

func TestSharedAttachmentsWriteSideBySide(t *testing.T) {
	s, _ := memStore(t, true)
	leases := []*Lease{attach(t, s, Request{Attachment: "a", Host: "h1", Shared: true}), attach(t, s, Request{Attachment: "b", Host: "h2", Shared: true}),
		attach(t, s, Request{Attachment: "c", Host: "h3", Shared: true, Handover: true})}
	for i, l := range leases {
		if v := l.Begin(); v != Go {
			t.Fatalf("%d: %v", i, v)
		}
		if a := l.Attachment(); a.Role != RoleWriter || a.Connections != 1 || a.Epoch != int64(i+1) {
			t.Fatalf("%d: %+v", i, a)
		}
		defer l.End()
	}
}

func TestOnlyTheAttachmentsHostIsAdmitted(t *testing.T) {
	s, _ := memStore(t, true)
	attach(t, s, Request{Attachment: "a", Host: "h"})
	_, err := s.Admit(Visit{Volume: vol, Attachment: "a", Host: "other"})
	wantKind(t, err, cloud.KindForbidden)
	_, err = s.Admit(Visit{Volume: vol, Attachment: "b", Host: "h"})
	wantKind(t, err, cloud.KindNotFound)
	_, err = s.Admit(Visit{Volume: "unknown", Attachment: "a", Host: "h"})
	wantKind(t, err, cloud.KindNotFound)
}

func TestAnAttachmentThatMovesToAnotherHostCutsTheFirstOff(t *testing.T) {
	s, _ := memStore(t, true)
	a := attach(t, s, Request{Attachment: "a", Host: "h1"})
	second := must(s.OpenAttachment(context.Background(), call(2), Request{Attachment: "a", Host: "h2"}))(t)
	if second.Epoch != 2 || second.Role != RoleWriter {
		t.Fatalf("%+v", second)
	}
	if v := a.Begin(); v != Refused {
		t.Fatalf("the first host's Begin: %v", v)
	}
	_, err := s.Admit(Visit{Volume: vol, Attachment: "a", Host: "h1"})
	wantKind(t, err, cloud.KindForbidden)
}

func TestClosingAStandbyLeavesTheWriterAlone(t *testing.T) {
	s, _ := memStore(t, true)
	a := attach(t, s, Request{Attachment: "a", Host: "h"})
	attach(t, s, Request{Attachment: "b", Host: "h", Handover: true})
	must(s.CloseAttachment(context.Background(), call(2), "b"))(t)
	if v := a.Begin(); v != Go {
		t.Fatalf("the writer's Begin: %v", v)
	}
	a.End()
}

func TestClosingTheWriterWaitsForItsWrites(t *testing.T) {
	s, _ := memStore(t, true)
	a := attach(t, s, Request{Attachment: "a", Host: "h"})
	a.Begin()
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		if _, err := s.CloseAttachment(context.Background(), call(2), "a"); err != nil {
			t.Error(err)
		}
	}()
	for a.Begin() == Go {
		a.End()
	}
	select {
	case <-closed:
		t.Fatal("closed with a write under way")
	default:
	}
	a.End()
	<-closed
	if got := must(s.Inspect(context.Background(), vol))(t); len(got.Attachments) != 0 || got.Epoch != 1 {
		t.Fatalf("%+v", got)
	}
}

func TestAttachmentsAndEpochsSurviveARestart(t *testing.T) {
	ctx := context.Background()
	files := newMemFiles(newTree(), true)
	o := Options{Dir: dirOne, Name: "fast", Direct: DirectOff, Log: slog.New(slog.DiscardHandler), files: files}
	s := must(Open(ctx, o))(t)
	must(s.Create(ctx, call(1), Spec{Bytes: mib}))(t)
	a := attach(t, s, Request{Attachment: "a", Host: "h"})
	attach(t, s, Request{Attachment: "b", Host: "h"})
	attach(t, s, Request{Attachment: "c", Host: "h", Handover: true})
	before := describe(t, s)
	if err := s.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if v := a.Begin(); v != Refused || !errors.Is(a.Err(), ErrClosed) {
		t.Fatalf("Begin on a store that is closed: %v, %v", v, a.Err())
	}
	_, err := s.OpenAttachment(ctx, call(9), Request{Attachment: "d", Host: "h"})
	wantKind(t, err, cloud.KindUnavailable)

	s = openStore(t, o)
	if after := describe(t, s); after != before {
		t.Fatalf("before\n%safter\n%s", before, after)
	}
	_, err = s.Admit(Visit{Volume: vol, Attachment: "a", Host: "h"})
	wantKind(t, err, cloud.KindConflict)
	b := must(s.Admit(Visit{Volume: vol, Attachment: "b", Host: "h"}))(t)
	defer b.Close()
	if v := b.Begin(); v != Go {
		t.Fatalf("the writer's Begin: %v", v)
	}
	b.End()
}

func TestConnectionsHearOfANewSize(t *testing.T) {
	s, _ := memStore(t, true)
	must(s.OpenAttachment(context.Background(), call(1), Request{Attachment: "a", Host: "h"}))(t)
	sizes := make(chan int64, 1)
	l := must(s.Admit(Visit{Volume: vol, Attachment: "a", Resized: func(n int64) { sizes <- n }}))(t)
	defer l.Close()
	must(s.Extend(context.Background(), call(2), 2*mib))(t)
	if got := <-sizes; got != 2*mib || l.Size() != got {
		t.Fatalf("told %d, Size %d", got, l.Size())
	}
}

func TestALeaseClosedWithAWriteUnderWayIsAProgrammersError(t *testing.T) {
	s, _ := memStore(t, true)
	a := attach(t, s, Request{Attachment: "a", Host: "h"})
	a.Begin()
	defer a.End()
	defer func() {
		if recover() == nil {
			t.Fatal("no panic")
		}
	}()
	a.Close()
}

func BenchmarkBeginEnd(b *testing.B) {
	s, _ := memStore(b, true)
	l := attach(b, s, Request{Attachment: "a", Host: "h"})
	for b.Loop() {
		if l.Begin() != Go {
			b.Fatal("not the writer")
		}
		l.End()
	}
}
