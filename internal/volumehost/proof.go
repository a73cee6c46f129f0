package volumehost

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// A cached image is cloned for years, and nobody would notice that its disk has forgotten a bit but the guests that boot from it. So the sum of what was
// made of a proven image lies beside it, and the file is read again and compared before the first volume that is made of it after a start of the service, and
// once a day of use. What does not match is removed and fetched anew.
const (
	sumSuffix = ".sum"
	// proofLasts is for how long a file that was read and found right is taken to be so.
	proofLasts = 24 * time.Hour
	// sumGrain is the piece that is left out of the sum when it is all zeros, so that an image costs what its data costs.
	sumGrain = 1 << 20
)

// seal writes the sum of an image's file, durably, before the file gets its name.
func seal(ctx context.Context, part, path string) error {
	sum, err := sumOf(ctx, part)
	if err != nil {
		return err
	}
	next := path + sumSuffix + partSuffix
	if err := writeDurably(next, []byte(sum+"\n")); err != nil {
		return err
	}
	return os.Rename(next, path+sumSuffix)
}

// proven reports whether the cached file under the name is what it was when it got its name. With the image's turn.
func (c *images) proven(ctx context.Context, name, path string) (bool, error) {
	c.mu.Lock()
	at, known := c.proofs[name]
	c.mu.Unlock()
	if known && time.Since(at) < proofLasts {
		return true, nil
	}
	began := time.Now()
	want, err := os.ReadFile(path + sumSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		c.log.Info("a cached image has no sum: it is fetched anew", "path", path)
		return false, nil
	}
	got := ""
	if err == nil {
		got, err = sumOf(ctx, path)
	}
	switch {
	case ctx.Err() != nil:
		return false, cloud.E(cloud.KindCancelled, "", "", context.Cause(ctx))
	case err != nil || got != strings.TrimSpace(string(want)):
		c.damaged.Add(1)
		c.log.Error("a cached image is not what it was: its disk lost or changed data; it is fetched anew", "path", path, "error", err)
		return false, nil
	}
	c.log.Debug("cached image is whole", "path", path, "took", time.Since(began))
	c.noteProof(name)
	return true, nil
}

func (c *images) noteProof(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.proofs[name] = time.Now()
}

// sumOf reads a file from its disk, not from the page cache, and sums what is not zero.
func sumOf(ctx context.Context, path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	forget := func() { _ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED) } // where it is not known, the cache is read
	forget()
	defer forget()
	sum, buf, zeros := sha256.New(), make([]byte, sumGrain), make([]byte, sumGrain)
	var at [8]byte
	binary.LittleEndian.PutUint64(at[:], uint64(info.Size()))
	sum.Write(at[:])
	for off := int64(0); off < info.Size(); off += sumGrain {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		if data, err := unix.Seek(int(f.Fd()), off, unix.SEEK_DATA); errors.Is(err, unix.ENXIO) {
			break // a hole up to the end
		} else if err == nil {
			off = data - data%sumGrain
		}
		n, err := f.ReadAt(buf, off)
		if err != nil && !errors.Is(err, io.EOF) {
			return "", err
		}
		if bytes.Equal(buf[:n], zeros[:n]) {
			continue
		}
		binary.LittleEndian.PutUint64(at[:], uint64(off))
		sum.Write(at[:])
		sum.Write(buf[:n])
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
