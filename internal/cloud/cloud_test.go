package cloud

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestEveryKindHasAName(t *testing.T) {
	seen := map[string]bool{}
	for _, k := range Kinds() {
		name := k.String()
		if name == "" || strings.HasPrefix(name, "kind ") || seen[name] {
			t.Errorf("kind %d has name %q: empty, generic or used twice", k, name)
		}
		seen[name] = true
	}
}

func TestErrorTextNamesOperationSubjectAndCause(t *testing.T) {
	cause := errors.New("disk full")
	err := E(KindExhausted, "prepare target", "server 7f3c", cause)
	if got, want := err.Error(), "prepare target: server 7f3c: disk full"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	wrapped := fmt.Errorf("flow: %w", err)
	if KindOf(wrapped) != KindExhausted || !errors.Is(wrapped, cause) {
		t.Errorf("wrapping lost the kind or the cause: %v", wrapped)
	}
	if KindOf(cause) != KindInternal {
		t.Errorf("a foreign error must be internal, got %v", KindOf(cause))
	}
}

func TestDeletedIsFinalAndEveryOtherStateCanEndThere(t *testing.T) {
	for _, s := range VMStates() {
		if s == VMDeleted {
			for _, next := range VMStates() {
				if next != s && s.CanBecome(next) {
					t.Errorf("deleted can become %s", next)
				}
			}
			continue
		}
		if !s.CanBecome(VMDeleted) {
			t.Errorf("%s cannot be deleted", s)
		}
	}
}

func TestEveryMigrationStatusReachesAFinalOne(t *testing.T) {
	for _, s := range MigrationStatuses() {
		reached := map[MigrationStatus]bool{s: true}
		for grew := true; grew; {
			grew = false
			for _, next := range MigrationStatuses() {
				for from := range reached {
					if from.CanBecome(next) && !reached[next] {
						reached[next], grew = true, true
					}
				}
			}
		}
		if !slices.ContainsFunc(MigrationStatuses(), func(m MigrationStatus) bool { return reached[m] && m.Final() }) {
			t.Errorf("%s never ends", s)
		}
		if s == MigrationPostCopy && s.CanBecome(MigrationCancelled) {
			t.Error("post-copy cannot be cancelled: the source no longer has the guest's memory")
		}
	}
}

func TestEveryOperationHasARule(t *testing.T) {
	for _, op := range Operations() {
		s := Server{ID: "x", VMState: VMActive}
		if err := s.Allow(op); Is(err, KindInternal) {
			t.Errorf("%s: %v", op, err)
		}
	}
}

func TestAllowUsesNovasWords(t *testing.T) {
	s := Server{ID: "x", VMState: VMActive, Task: TaskMigrating}
	err := s.Allow(OpLiveMigrate)
	if !Is(err, KindConflict) || err.Error() != "Cannot 'os-migrateLive' instance x while it is in task_state migrating" {
		t.Errorf("got %v", err)
	}
}

func TestBecomeRefusesIllegalMoves(t *testing.T) {
	s := Server{ID: "x", VMState: VMDeleted}
	if err := s.Become(VMActive, TaskNone); err == nil || s.VMState != VMDeleted {
		t.Errorf("a deleted server came back: %v %v", s.VMState, err)
	}
}
