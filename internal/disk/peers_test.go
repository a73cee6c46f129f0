package disk

import (
	"bytes"
	"context"
	"io"
	"os"
	"testing"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

func TestAPeerThatDiesOrLiesIsLeftAndAnotherTaken(t *testing.T) {
	sends := func(data []byte, err error) func(context.Context, string) error {
		return func(_ context.Context, path string) error {
			if werr := os.WriteFile(path, data, 0o600); werr != nil {
				return werr
			}
			return err
		}
	}
	lie := bytes.Repeat([]byte("x"), len(sample))
	dead := Peer{"dead", sends(sample[:100], cloud.Errorf(cloud.KindUnavailable, "connection reset"))}
	liar := Peer{"liar", sends(lie, nil)}
	honest := Peer{"honest", sends(sample, nil)}
	for name, c := range map[string]struct {
		peers   []Peer
		service bool // the image service is asked
	}{
		"an honest one": {[]Peer{honest}, false}, "the third is honest": {[]Peer{dead, liar, honest}, false},
		"none is": {[]Peer{dead, liar}, true}, "there is none": {nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			asked := false
			s := open(t, t.TempDir(), func(ctx context.Context, id cloud.ImageID, offset int64) (io.ReadCloser, error) {
				asked = true
				return serve(sample)(ctx, id, offset)
			})
			base := rawBase(sample)
			base.Peers = c.peers
			path, _, err := s.EnsureBase(t.Context(), base)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, sample) {
				t.Errorf("the base differs from the image (%v)", err)
			}
			if asked != c.service {
				t.Errorf("the image service was asked: %v", asked)
			}
			if left, err := s.Bases(); err != nil || len(left) != 1 {
				t.Errorf("bases %v, %v", left, err)
			}
			if _, err := os.Stat(path + peerSuffix); err == nil {
				t.Error("what a peer sent is left")
			}
		})
	}
}
