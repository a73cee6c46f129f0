package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// Reader reads a volume or a snapshot in order of offset, without its holes. One goroutine uses it.
type Reader struct {
	file  file
	bytes int64
	off   int64
	end   int64 // of the data that off is in
	close func() error
}

// readings numbers the clones that volumes are read from.
var readings atomic.Int64

const readPrefix = "reading."

// Read opens a volume's data, or a snapshot's if one is named, for reading. A volume that is attached is read as it is at this moment where blocks can be
// shared; elsewhere what is written meanwhile may or may not be read. Deleting what is being read does not disturb the reader.
func (s *Store) Read(ctx context.Context, id cloud.VolumeID, snapshot cloud.SnapshotID) (*Reader, error) {
	v := s.lookup(id)
	if v == nil {
		return nil, cloud.Errorf(cloud.KindNotFound, "volume %s: no such volume", id)
	}
	if err := v.take(ctx); err != nil {
		return nil, err
	}
	defer v.give()
	m, err := v.truth()
	if err != nil {
		return nil, err
	}
	if m.Phase != phaseReady {
		return nil, cloud.Errorf(cloud.KindNotFound, "volume %s: no such volume", id)
	}
	r, err := v.read(ctx, m, snapshot)
	return r, v.fail("read", err)
}

func (v *volume) read(ctx context.Context, m meta, snapshot cloud.SnapshotID) (*Reader, error) {
	s := v.store
	path, bytes := s.dataPath(v.id), m.Bytes
	temporary := false
	switch {
	case snapshot != "":
		snap, ok := m.snapshot(snapshot)
		if !ok {
			return nil, cloud.Errorf(cloud.KindNotFound, "no snapshot %s", snapshot)
		}
		path, bytes = s.snapshotPath(v.id, snap.ID), snap.Bytes
	case len(m.Ledger.Open) > 0 && s.noLink == "":
		beside := filepath.Join(s.dir(v.id), fmt.Sprintf("%s%d", readPrefix, readings.Add(1)))
		if err := s.copyFile(ctx, s, path, beside, nil); err != nil {
			s.files.Remove(beside)
			return nil, err
		}
		path, temporary = beside, true
	}
	f, err := s.files.Open(path, os.O_RDONLY)
	if temporary {
		err = errors.Join(err, s.remove(path)) // its name is not needed: it goes when the reader is closed
	}
	if err != nil {
		if f != nil {
			f.Close()
		}
		return nil, err
	}
	return &Reader{file: f, bytes: bytes, close: f.Close}, nil
}

// Size returns the volume's or snapshot's size in bytes.
func (r *Reader) Size() int64 { return r.bytes }

// Next reads the next stretch of data into buf and returns where it begins and how much of buf it is; what lies between stretches reads as zeros.
// io.EOF: there is no more.
func (r *Reader) Next(buf []byte) (off int64, n int, err error) {
	if r.off >= r.end {
		start, end, err := r.file.NextData(r.off)
		if err == nil && start >= r.bytes {
			err = io.EOF
		}
		if err != nil {
			return 0, 0, err
		}
		r.off, r.end = start, min(end, r.bytes)
	}
	n = int(min(int64(len(buf)), r.end-r.off))
	n, err = r.file.ReadAt(buf[:n], r.off)
	if n > 0 && errors.Is(err, io.EOF) {
		err = nil
	}
	off = r.off
	r.off += int64(n)
	return off, n, err
}

// Close ends the reading.
func (r *Reader) Close() error { return r.close() }
