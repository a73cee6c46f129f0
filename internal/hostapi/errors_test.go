package hostapi

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

func TestEveryKindSurvivesTheWire(t *testing.T) {
	for _, kind := range cloud.Kinds() {
		sent := fmt.Errorf("outer: %w", cloud.E(kind, "prepare", "server s1", errors.New("why")))
		wire := ToStatus(sent)
		if status.Code(wire) == codes.OK || status.Code(wire) == codes.Unknown {
			t.Errorf("%s has no code of its own: %v", kind, status.Code(wire))
		}
		got := FromStatus(context.Background(), wire)
		if cloud.KindOf(got) != kind || got.Error() != sent.Error() {
			t.Errorf("%s arrived as %s: %q", kind, cloud.KindOf(got), got)
		}
	}
}

func TestEveryCodeHasAKind(t *testing.T) {
	for code := codes.Canceled; code <= codes.Unauthenticated; code++ {
		if _, ok := codeKinds[code]; !ok {
			t.Errorf("%s has no kind", code)
		}
	}
}

func TestAForeignErrorIsInternalOnTheWire(t *testing.T) {
	got := FromStatus(context.Background(), ToStatus(errors.New("boom")))
	if cloud.KindOf(got) != cloud.KindInternal || got.Error() != "boom" {
		t.Errorf("got %s: %v", cloud.KindOf(got), got)
	}
	if ToStatus(nil) != nil || FromStatus(context.Background(), nil) != nil {
		t.Error("nil must stay nil")
	}
}

func TestACallCutByItsConnectionIsUnavailableNotCancelled(t *testing.T) {
	closing := status.Error(codes.Canceled, "grpc: the client connection is closing")
	if got := FromStatus(context.Background(), closing); !cloud.Is(got, cloud.KindUnavailable) {
		t.Errorf("got %s", cloud.KindOf(got))
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	got := FromStatus(ctx, status.FromContextError(ctx.Err()).Err())
	if !cloud.Is(got, cloud.KindCancelled) || !errors.Is(got, context.Canceled) {
		t.Errorf("the caller's own cancellation: got %s %v", cloud.KindOf(got), got)
	}
}
