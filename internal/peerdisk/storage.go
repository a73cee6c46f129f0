package peerdisk

import (
	"errors"
	"io"

	"golang.org/x/sys/unix"

	"github.com/godwit-cloud/godwit/nbd"
)

// ReadAt implements nbd.Storage.
func (d *fileDevice) ReadAt(p []byte, off int64) (int, error) {
	if err := d.pace(len(p)); err != nil {
		return 0, err
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.closed {
		return 0, nbd.Shutdown
	}
	n, err := d.file.ReadAt(p, off)
	if errors.Is(err, io.EOF) && n == len(p) {
		err = nil
	}
	return n, err
}

// pace waits until n bytes may be sent.
func (d *fileDevice) pace(n int) error {
	if d.images == nil || d.images.limit == nil {
		return nil
	}
	for limit := d.images.limit; n > 0; {
		piece := min(n, limit.Burst())
		if err := limit.WaitN(d.life, piece); err != nil {
			return nbd.Shutdown
		}
		n -= piece
	}
	return nil
}

// Status implements nbd.Storage: where the file has data and where holes.
func (d *fileDevice) Status(off, length int64, limit int) ([]nbd.Extent, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.closed {
		return nil, nbd.Shutdown
	}
	var out []nbd.Extent
	for end := min(off+length, d.bytes); off < end && len(out) < limit; {
		start, stop := d.nextData(off)
		if start > off {
			hole := min(start, d.bytes) - off
			out = append(out, nbd.Extent{Length: uint64(hole), Flags: nbd.StatusHole | nbd.StatusZero})
			off += hole
			continue
		}
		out = append(out, nbd.Extent{Length: uint64(stop - off)})
		off = stop
	}
	return out, nil
}

// nextData returns the first stretch of data at or after off. A file system that knows no holes has data only.
func (d *fileDevice) nextData(off int64) (start, end int64) {
	fd := int(d.file.Fd())
	start, err := unix.Seek(fd, off, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return d.bytes, d.bytes
	}
	if err == nil {
		end, err = unix.Seek(fd, start, unix.SEEK_HOLE)
	}
	if err != nil {
		return off, d.bytes
	}
	return start, min(end, d.bytes)
}

// WriteAt implements nbd.Storage; the export is read-only, so nobody gets here.
func (d *fileDevice) WriteAt([]byte, int64) (int, error) { return 0, nbd.NotPermitted }

// Flush implements nbd.Storage.
func (d *fileDevice) Flush() error { return nil }

// Trim implements nbd.Storage.
func (d *fileDevice) Trim(int64, int64) error { return nbd.NotPermitted }

// WriteZeroes implements nbd.Storage.
func (d *fileDevice) WriteZeroes(int64, int64, bool, bool) error { return nbd.NotPermitted }

// Cache implements nbd.Storage.
func (d *fileDevice) Cache(off, length int64) error {
	return unix.Fadvise(int(d.file.Fd()), off, length, unix.FADV_WILLNEED)
}
