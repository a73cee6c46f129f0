package image

import (
	"bytes"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"syscall"
	"testing"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// piece is one piece of a sparse source.
type piece struct {
	offset int64
	data   string
}

func pieces(all ...piece) func() (int64, []byte, error) {
	return func() (int64, []byte, error) {
		if len(all) == 0 {
			return 0, nil, io.EOF
		}
		p := all[0]
		all = all[1:]
		return p.offset, []byte(p.data), nil
	}
}

func TestFillMakesAnActiveImageWithHoles(t *testing.T) {
	c := newCloud(t, Options{})
	id := cloud.ImageID(c.create(ann, obj{"disk_format": "raw", "container_format": "bare"}))
	const size = 8 << 20
	for range 2 { // again changes nothing
		if err := c.service.Fill(t.Context(), id, size, pieces(piece{0, "boot"}, piece{5 << 20, "data"})); err != nil {
			t.Fatal(err)
		}
	}
	want := make([]byte, size)
	copy(want, "boot")
	copy(want[5<<20:], "data")
	sum := sha512.Sum512(want)
	i, _ := store.Lookup(c.service.store, tables.Images, id)
	if i.Status != cloud.ImageActive || i.SizeBytes != size || i.VirtualBytes != size || i.Hash != hex.EncodeToString(sum[:]) {
		t.Errorf("image %+v", i)
	}
	path := c.service.files.path(id)
	got, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("data differs (%v)", err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Sys().(*syscall.Stat_t).Blocks*512 > 2<<20 {
		t.Errorf("holes take room: %+v (%v)", info.Sys(), err)
	}
}

func TestAFillThatFailsLeavesTheImageQueuedAndCanBeRepeated(t *testing.T) {
	c := newCloud(t, Options{})
	id := cloud.ImageID(c.create(ann, obj{"disk_format": "raw", "container_format": "bare"}))
	lost := errors.New("connection lost")
	for _, next := range []func() (int64, []byte, error){
		func() (int64, []byte, error) { return 0, nil, lost },
		pieces(piece{0, "abc"}, piece{1, "overlaps"}),
		pieces(piece{90, "beyond the end"}),
		pieces(piece{0, "QFI\xfb\x00\x00\x00\x03"}), // what a guest writes must not be taken for an image that names files
	} {
		if err := c.service.Fill(t.Context(), id, 100, next); err == nil {
			t.Error("a broken source made an image")
		}
		if c.status(string(id)) != "queued" || len(c.files()) > 0 {
			t.Errorf("image is %s, files %v", c.status(string(id)), c.files())
		}
	}
	if err := c.service.Fill(t.Context(), id, 100, pieces(piece{0, "abc"})); err != nil {
		t.Error(err)
	}
	if err := c.service.Fill(t.Context(), "0e0e0e0e-0000-4000-8000-00000000000e", 100, pieces()); !cloud.Is(err, cloud.KindNotFound) {
		t.Errorf("fill of an unknown image: %v", err)
	}
}
