package volume

import (
	"bytes"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// overheard is a file that remembers where it was written, and refuses with a given error.
type overheard struct {
	file
	refuses error
	mu      sync.Mutex
	offsets []int64
}

func (o *overheard) WriteAt(p []byte, off int64) (int, error) {
	o.mu.Lock()
	o.offsets = append(o.offsets, off)
	o.mu.Unlock()
	if o.refuses != nil {
		return 0, o.refuses
	}
	return o.file.WriteAt(p, off)
}

// copied copies an image with holes, blocks of zeros and a length that is no whole block, with ways to the target that are listened to.
func copied(t *testing.T, refuses error) (through, past *overheard, size int64) {
	t.Helper()
	dir := mounted(t, "ext4", xfsBytes)
	s := openStore(t, Options{Dir: dir})
	size = 3*directGrain.chunk + 777
	path, content := image(t, dir, size)
	content[size-1] = 1
	src := must(s.files.Open(path, unix.O_RDWR))(t)
	defer src.Close()
	must(src.WriteAt(content[size-1:], size-1))(t)
	must(src.WriteAt(make([]byte, 64<<10), 1<<20))(t)
	copy(content[1<<20:], make([]byte, 64<<10))
	dst := must(s.openTarget(filepath.Join(dir, "copy")))(t)
	defer dst.Close()
	if dst.past == nil {
		t.Fatal("ext4 has no way past the page cache")
	}
	through, past = &overheard{file: dst.file}, &overheard{file: dst.past, refuses: refuses}
	dst.file, dst.past = through, past
	if err := copySparse(t.Context(), src, dst, size, nil); err != nil {
		t.Fatal(err)
	}
	if err := dst.Sync(); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, size)
	must(dst.ReadAt(got, 0))(t)
	if !bytes.Equal(got, content) {
		t.Error("the copy is not what it was made of")
	}
	st := must(s.files.Stat(filepath.Join(dir, "copy")))(t)
	if st.bytes != size || st.allocated > 2<<20 {
		t.Errorf("the copy is %d bytes and takes %d", st.bytes, st.allocated)
	}
	return through, past, size
}

func TestACopyWritesWholeBlocksPastThePageCacheAndTheRestThroughIt(t *testing.T) {
	through, past, size := copied(t, nil)
	if len(past.offsets) < 5 {
		t.Errorf("%d writes past the cache", len(past.offsets))
	}
	if last := size / holeBytes * holeBytes; len(through.offsets) != 1 || through.offsets[0] > last {
		t.Errorf("writes through the cache at %v, want one that ends the file", through.offsets)
	}
}

func TestACopyGoesThroughThePageCacheWhereTheWayPastItIsRefusedLate(t *testing.T) {
	through, past, _ := copied(t, unix.EINVAL)
	if len(past.offsets) == 0 || len(through.offsets) < len(past.offsets) {
		t.Errorf("%d writes were refused, %d made otherwise", len(past.offsets), len(through.offsets))
	}
}

func TestACopyFailsWithTheDisksErrorAndIsNotTriedAnotherWay(t *testing.T) {
	dir := mounted(t, "ext4", xfsBytes)
	s := openStore(t, Options{Dir: dir})
	dst := must(s.openTarget(filepath.Join(dir, "copy")))(t)
	defer dst.Close()
	through := &overheard{file: dst.file}
	dst.file, dst.past = through, &overheard{file: dst.past, refuses: unix.ENOSPC}
	if _, err := dst.WriteAt(make([]byte, holeBytes), 0); err != unix.ENOSPC { //nolint:errorlint // the very one
		t.Errorf("got %v", err)
	}
	if len(through.offsets) != 0 {
		t.Error("it was written through the cache all the same")
	}
}

func TestAStoreWhoseDirectIOIsOffCopiesThroughThePageCache(t *testing.T) {
	dir := mounted(t, "ext4", xfsBytes)
	s := openStore(t, Options{Dir: dir, Direct: DirectOff})
	dst := must(s.openTarget(filepath.Join(dir, "copy")))(t)
	defer dst.Close()
	if dst.past != nil || dst.grain() != cachedGrain {
		t.Error("it goes past the cache")
	}
}
