package blockserve

import (
	"errors"
	"io"

	"golang.org/x/sys/unix"

	"github.com/godwit-cloud/godwit/internal/volume"
	"github.com/godwit-cloud/godwit/nbd"
	"github.com/godwit-cloud/godwit/uring"
)

// storage is a volume's file as blocking operations: all of the threads engine, and what the ring has no operation for.
type storage struct {
	volume.File
	size  func() int64
	align int // of offsets, lengths and memory; 1: the file is buffered
	lease Lease
	fault func() error // tests: the device's error for a sync; nil
	deaf  bool         // tests: Options.syncsNothing
}

// zeroBytes is how much is written at a time where a range cannot be zeroed otherwise.
const zeroBytes = 1 << 20

// Flush implements nbd.Storage.
func (s *storage) Flush() error {
	if s.deaf {
		return nil
	}
	err := s.Sync()
	if s.fault != nil {
		err = errors.Join(err, s.fault())
	}
	if err != nil {
		s.lease.SyncFailed(err)
	}
	return err
}

// Trim implements nbd.Storage. It is advice: a file system that knows no holes has lost nothing by it.
func (s *storage) Trim(off, length int64) error {
	if err := s.Punch(off, length); err != nil && !unsupported(err) {
		return err
	}
	return nil
}

// WriteZeroes implements nbd.Storage.
func (s *storage) WriteZeroes(off, length int64, noHole, fast bool) error {
	zero := s.Punch
	if noHole {
		zero = s.Zero
	}
	err := zero(off, length)
	switch {
	case err == nil || !unsupported(err):
		return err
	case fast:
		return nbd.NotSupported
	}
	zeros := uring.Aligned(int(min(length, zeroBytes)), max(s.align, 1))
	for done := int64(0); done < length; {
		n, err := s.WriteAt(zeros[:min(length-done, int64(len(zeros)))], off+done)
		if err != nil {
			return err
		}
		done += int64(n)
	}
	return nil
}

// unsupported reports whether a file system cannot, rather than could not.
func unsupported(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS)
}

// Status implements nbd.Storage. Stretches that the file system calls holes may be allocated and not yet written; they read as zeros all the
// same.
func (s *storage) Status(off, length int64, limit int) ([]nbd.Extent, error) {
	var out []nbd.Extent
	end := min(off+length, s.size())
	for at := off; at < end && len(out) < limit; {
		start, stop, err := s.NextData(at)
		if errors.Is(err, io.EOF) {
			start, stop = end, end
		} else if err != nil {
			return nil, err
		}
		start, stop = s.rounded(start, end), s.rounded(stop, end)
		if start > at {
			out = append(out, nbd.Extent{Length: uint64(start - at), Flags: nbd.StatusHole | nbd.StatusZero})
		}
		if stop > max(start, at) && len(out) < limit {
			out = append(out, nbd.Extent{Length: uint64(stop - max(start, at))})
		}
		at = max(start, stop)
	}
	return out, nil
}

// rounded keeps the border of an extent on a block, as the protocol demands, and within end, which is on one. A file system's blocks are no
// smaller than those of direct I/O, so there is nothing to round but the end of a file that is not whole.
func (s *storage) rounded(at, end int64) int64 {
	a := int64(max(s.align, 1))
	return min((at+a-1)/a*a, end)
}

// Cache implements nbd.Storage.
func (s *storage) Cache(off, length int64) error {
	if s.align > 1 || s.FD() < 0 {
		return nil // there is no cache to fill
	}
	return unix.Fadvise(s.FD(), off, length, unix.FADV_WILLNEED)
}
