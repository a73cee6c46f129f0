package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// A capture is a copy of a server's overlay at one moment, and then a raw file with what the guest sees of it. Both lie beside the disk and go with the server.
const (
	captureSuffix = ".capture"
	flatSuffix    = ".flat"
)

// Capture copies the overlay as it is. Nobody may write to it meanwhile. An older copy is replaced.
func (s *Store) Capture(ctx context.Context, id cloud.ServerID) error {
	f, err := s.Files(id)
	if err != nil {
		return err
	}
	if err := s.EndCapture(id); err != nil {
		return err
	}
	if err := saveCopy(ctx, f.Root, f.Root+captureSuffix); errors.Is(err, fs.ErrNotExist) {
		return cloud.Errorf(cloud.KindNotFound, "server %s: it has no disk on this host", id)
	} else if err != nil {
		return fmt.Errorf("server %s: copy its disk: %w", id, err)
	}
	return nil
}

// EndCapture removes what Capture and OpenCapture made.
func (s *Store) EndCapture(id cloud.ServerID) error {
	f, err := s.Files(id)
	if err != nil {
		return err
	}
	for _, suffix := range []string{captureSuffix, flatSuffix} {
		if rmErr := os.Remove(f.Root + suffix); rmErr != nil && !errors.Is(rmErr, fs.ErrNotExist) {
			err = errors.Join(err, rmErr)
		}
	}
	return err
}

// Flat is a disk as its guest sees it. One goroutine uses it.
type Flat struct {
	file  *os.File
	bytes int64
	off   int64
}

// OpenCapture makes one file of what Capture copied and the base image below it.
func (s *Store) OpenCapture(ctx context.Context, id cloud.ServerID) (*Flat, error) {
	f, err := s.Files(id)
	if err != nil {
		return nil, err
	}
	flat := f.Root + flatSuffix
	if err := s.runLong(ctx, "convert", "-q", "-f", FormatQCOW2, "-O", FormatRaw, f.Root+captureSuffix, flat); err != nil {
		return nil, fmt.Errorf("server %s: %w", id, err)
	}
	file, err := os.Open(flat)
	if err != nil {
		return nil, fmt.Errorf("server %s: %w", id, err)
	}
	info, err := file.Stat()
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return &Flat{file: file, bytes: info.Size()}, nil
}

// Bytes returns the size of the disk.
func (f *Flat) Bytes() int64 { return f.bytes }

// Next reads the next stretch of data into buf and returns where it begins and how long it is; what lies between stretches reads as zeros. io.EOF: there is
// no more.
func (f *Flat) Next(buf []byte) (off int64, n int, err error) {
	start, end := nextData(f.file, f.off, f.bytes)
	if start >= f.bytes {
		return f.bytes, 0, io.EOF
	}
	n, err = f.file.ReadAt(buf[:min(int64(len(buf)), end-start)], start)
	if errors.Is(err, io.EOF) && n > 0 {
		err = nil
	}
	f.off = start + int64(n)
	return start, n, err
}

// Close lets the file go; EndCapture removes it.
func (f *Flat) Close() error { return f.file.Close() }
