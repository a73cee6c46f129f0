package image

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// Fill gives a queued image its data, raw and size bytes long, and returns when it is active with its hashes. next returns the pieces in order of
// offset and io.EOF after the last one; what no piece covers is zeros and takes no room on disk. An image that is active already is
// success, so that a Fill whose answer was lost may be repeated; one that is gone is cloud.KindNotFound. After any other failure the image is queued
// again.
func (s *Service) Fill(ctx context.Context, id cloud.ImageID, size int64, next func() (offset int64, data []byte, err error)) error {
	i, ok := lookup(s.store, string(id))
	switch {
	case !ok:
		return notFound(string(id))
	case i.Status == cloud.ImageActive:
		return nil
	case s.options.ImageBytesMax > 0 && size > s.options.ImageBytesMax:
		return s.tooLarge()
	}
	data, err := s.files.beginPatiently(ctx, id)
	if err != nil {
		return err
	}
	defer data.close()
	if err := s.claimSaving(ctx, id); err != nil {
		data.discard()
		return err
	}
	if err = data.fill(ctx, size, next); err == nil {
		err = data.keep()
	}
	if err != nil {
		return s.abandon(ctx, data, fmt.Errorf("image %s: %w", id, err))
	}
	return s.activate(ctx, data, size)
}

// claimSaving moves the image to saving. One that says so already belongs to an earlier attempt that died: we hold its lock.
func (s *Service) claimSaving(ctx context.Context, id cloud.ImageID) error {
	_, err := s.store.UpdateVisible(ctx, func(tx *store.Tx) error {
		i, err := store.Get(tx, tables.Images, id)
		if cloud.Is(err, cloud.KindNotFound) {
			return notFound(string(id))
		}
		if err != nil {
			return err
		}
		if i.Status == cloud.ImageSaving {
			i.Status = cloud.ImageQueued
		}
		if err := startSaving(&i); err != nil {
			return err
		}
		return store.Put(tx, tables.Images, id, i)
	})
	return err
}

// fill writes the pieces and, between and behind them, holes.
func (u *upload) fill(ctx context.Context, size int64, next func() (int64, []byte, error)) error {
	for {
		offset, piece, err := next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if offset < u.bytes || offset+int64(len(piece)) > size {
			return cloud.Errorf(cloud.KindInternal, "a piece of %d bytes at %d does not follow %d of %d bytes", len(piece), offset, u.bytes, size)
		}
		if offset == 0 && len(piece) > 0 { // as for uploads: raw data that looks like another format would be taken for it by somebody
			if err := inspectHead("raw", piece[:min(len(piece), headBytes)]); err != nil {
				return err
			}
		}
		if err := u.skip(ctx, offset-u.bytes); err != nil {
			return err
		}
		if _, err := u.Write(piece); err != nil {
			return err
		}
	}
	return u.skip(ctx, size-u.bytes)
}

// zeros are hashed for holes.
var zeros [pieceBytes]byte

// skip leaves a hole of n bytes: hashed as the zeros it reads as, and not written.
func (u *upload) skip(ctx context.Context, n int64) error {
	end := u.bytes + n
	for u.bytes < end {
		if err := ctx.Err(); err != nil {
			return err
		}
		z := zeros[:min(end-u.bytes, int64(len(zeros)))]
		u.md5.Write(z)
		u.sha.Write(z)
		u.bytes += int64(len(z))
	}
	if err := u.file.Truncate(end); err != nil {
		return err
	}
	_, err := u.file.Seek(end, io.SeekStart)
	return err
}
