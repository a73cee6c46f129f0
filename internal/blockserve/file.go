package blockserve

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/volume"
	"github.com/godwit-cloud/godwit/nbd"
)

// FileOptions say how ServeFile serves.
type FileOptions struct {
	Server   Options
	Direct   bool // bypass the page cache; an error where the file system refuses
	ReadOnly bool
	TLS      *tls.Config // as for Server.Serve
	// Started, if not nil, is called with the server before the first client is let in.
	Started func(*Server)
}

// shutdownTimeout bounds how long ServeFile waits for requests under way when its context ends.
const shutdownTimeout = 10 * time.Second

// ServeFile serves one file, or block device, as every export's name, until ctx ends: for measuring, and for rescuing data without a volume
// service. Nobody keeps other writers away from the file. It takes over the listener.
func ServeFile(ctx context.Context, path string, l net.Listener, o FileOptions) error {
	f, err := openPlain(path, o)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	defer f.Close()
	s, err := New(f, o.Server)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	if o.Started != nil {
		o.Started(s)
	}
	if err := s.Serve(l, o.TLS); err != nil {
		return errors.Join(err, s.Close())
	}
	<-ctx.Done()
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	return s.Shutdown(ending)
}

// plainFile is a file that is served as it is: the Volumes of ServeFile, and the Lease of everyone who comes.
type plainFile struct {
	*os.File
	fd       int
	size     int64
	align    int
	readOnly bool
	limiter  volume.Limiter
	lost     atomic.Pointer[error] // the first failure of a sync; see volume.Lease
}

func openPlain(path string, o FileOptions) (*plainFile, error) {
	flags := os.O_RDWR
	if o.ReadOnly {
		flags = os.O_RDONLY
	}
	if o.Direct {
		flags |= unix.O_DIRECT
	}
	file, err := os.OpenFile(path, flags, 0)
	if err != nil {
		return nil, fmt.Errorf("blockserve: %w", err)
	}
	size, err := file.Seek(0, io.SeekEnd) // of block devices too
	if err != nil {
		return nil, errors.Join(fmt.Errorf("blockserve: %w", err), file.Close())
	}
	f := &plainFile{File: file, fd: int(file.Fd()), size: size, align: 1, readOnly: o.ReadOnly}
	if o.Direct {
		f.align = volume.DirectAlign(f.fd)
	}
	if size%int64(f.align) != 0 {
		err := fmt.Errorf("blockserve: %s: %d bytes are not whole blocks of %d, as direct I/O wants them", path, size, f.align)
		return nil, errors.Join(err, file.Close())
	}
	return f, nil
}

// Admit implements Volumes.
func (f *plainFile) Admit(string, volume.Visit) (Lease, error) { return plainLease{f}, nil }

// List implements Volumes.
func (f *plainFile) List(cloud.HostName) []nbd.Listing {
	return []nbd.Listing{{Name: "", Description: f.Name()}}
}

// FD implements volume.File.
func (f *plainFile) FD() int { return f.fd }

// Punch implements volume.File.
func (f *plainFile) Punch(off, length int64) error {
	return os.NewSyscallError("fallocate", unix.Fallocate(f.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, length))
}

// Zero implements volume.File.
func (f *plainFile) Zero(off, length int64) error {
	return os.NewSyscallError("fallocate", unix.Fallocate(f.fd, unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, off, length))
}

// NextData implements volume.File. Where holes are not known, everything is data.
func (f *plainFile) NextData(off int64) (start, end int64, err error) {
	start, err = unix.Seek(f.fd, off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return 0, 0, io.EOF
	case errors.Is(err, unix.EINVAL), unsupported(err):
		return off, f.size, nil
	case err == nil:
		end, err = unix.Seek(f.fd, start, unix.SEEK_HOLE)
	}
	return start, end, os.NewSyscallError("seek", err)
}

// plainLease is the right to use a plain file: nobody is ever cut off.
type plainLease struct{ file *plainFile }

// Begin implements Lease.
func (l plainLease) Begin() volume.Verdict {
	if l.file.readOnly {
		return volume.Refused
	}
	return volume.Go
}

// EndAt implements Lease.
func (plainLease) EndAt(_, _ int64) {}

// Ended implements Lease; nobody asks.
func (plainLease) Ended(_, _ int64, _ bool, _ error) {}

// Await implements Lease; nothing is ever held.
func (plainLease) Await(done func(error)) { done(nil) }

// Err implements Lease.
func (plainLease) Err() error { return nil }

// Refusal implements Lease.
func (l plainLease) Refusal() error {
	if l.file.readOnly {
		return volume.ErrReadOnly
	}
	return nil
}

// SyncFailed implements Lease.
func (l plainLease) SyncFailed(err error) { l.file.lost.CompareAndSwap(nil, &err) }

// SyncErr implements Lease.
func (l plainLease) SyncErr() error {
	if err := l.file.lost.Load(); err != nil {
		return fmt.Errorf("blockserve: %s: an earlier sync failed: %w", l.file.Name(), *err)
	}
	return nil
}

// Attachment implements Lease.
func (l plainLease) Attachment() volume.Attachment {
	if l.file.readOnly {
		return volume.Attachment{Role: volume.RoleReader}
	}
	return volume.Attachment{Role: volume.RoleWriter}
}

// File implements Lease.
func (l plainLease) File() volume.File { return l.file }

// Align implements Lease.
func (l plainLease) Align() int { return l.file.align }

// Size implements Lease.
func (l plainLease) Size() int64 { return l.file.size }

// Limiter implements Lease.
func (l plainLease) Limiter() *volume.Limiter { return &l.file.limiter }

// Close implements Lease.
func (plainLease) Close() {}
