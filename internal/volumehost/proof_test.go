package volumehost

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// rot changes a bit of a file, or takes its end away, as a disk may.
func rot(t *testing.T, path string, how string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	switch how {
	case "a bit":
		data[len(data)/2] ^= 4
	case "its end":
		data = data[:len(data)-4096]
	case "zeros":
		clear(data[4096:8192])
	case "its sum":
		path, data = path+sumSuffix, []byte("nonsense")
	case "no sum":
		if err := os.Remove(path + sumSuffix); err != nil {
			t.Fatal(err)
		}
		return
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A cached image that its disk has changed is noticed before a volume is made of it, and fetched anew.
func TestACachedImageThatRottedIsNotCloned(t *testing.T) {
	const imageBytes = 3*mib + 512 // the last piece of the sum is not whole
	for _, format := range []string{"raw", "qcow2"} {
		for _, how := range []string{"a bit", "its end", "zeros", "its sum", "no sum", "nothing"} {
			if format == "qcow2" && how != "a bit" && how != "nothing" {
				continue
			}
			t.Run(format+" "+how, func(t *testing.T) {
				dir := t.TempDir()
				w := newWorld(t, dir)
				w.images[w.stores[0]].bytesMax = 100 * mib
				raw := noise(imageBytes)
				clear(raw[1<<20 : 2<<20]) // a piece that is left out of the sum
				image := w.image("i1", raw)
				if format == "qcow2" {
					image = w.packed("i1", raw)
				}
				if err := w.create("v1", "a", 4*mib, image); err != nil {
					t.Fatal(err)
				}
				cache, library := w.images[w.stores[0]].dir, w.library.images
				w.end()
				files, err := filepath.Glob(filepath.Join(cache, "*"))
				if err != nil || len(files) != 2 || !strings.HasSuffix(files[1], sumSuffix) {
					t.Fatalf("the cache has %v, %v", files, err)
				}
				rot(t, files[0], how)

				w = newWorldKeeping(t, dir, 100*mib)
				w.library.images = library
				for _, id := range []string{"v2", "v3"} {
					if err := w.create(id, "a", 4*mib, image); err != nil {
						t.Fatal(err)
					}
					if got := w.content(id, ""); !bytes.Equal(got[:len(raw)], raw) {
						t.Errorf("volume %s is not the image", id)
					}
				}
				fetched, damaged := 1, uint64(1)
				switch how {
				case "nothing":
					fetched, damaged = 0, 0
				case "no sum":
					damaged = 0
				}
				if w.library.opened != fetched || w.images[w.stores[0]].damaged.Load() != damaged {
					t.Errorf("fetched %d times, found damaged %d times", w.library.opened, w.images[w.stores[0]].damaged.Load())
				}
			})
		}
	}
}
