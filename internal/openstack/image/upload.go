package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"syscall"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

const (
	// pieceBytes is the buffer of one transfer: large enough that system calls do not count, small enough for a hundred transfers at once.
	pieceBytes = 256 << 10
	// silenceMax is how long a client may send or take nothing.
	silenceMax = time.Minute
	// settleMax bounds the record's update after a failed upload, whose own context may have ended.
	settleMax = 10 * time.Second
	hashAlgo  = "sha512"
)

// upload receives an image's data.
func (s *Service) upload(w http.ResponseWriter, r *openstack.Request) error {
	if mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || mediaType != "application/octet-stream" {
		return openstack.Fail(http.StatusUnsupportedMediaType, "Image data is application/octet-stream.")
	}
	id := cloud.ImageID(r.PathValue("id"))
	if err := s.mayUpload(r, string(id)); err != nil {
		return err
	}
	if limit := s.options.ImageBytesMax; limit > 0 && r.ContentLength > limit {
		return s.tooLarge()
	}
	data, err := s.files.beginPatiently(r.Context(), id)
	if err != nil {
		return err
	}
	defer data.close()
	image, err := s.modify(r, "upload_image", startSaving)
	if err != nil {
		data.discard()
		return err
	}
	virtualBytes, err := s.receive(w, r, data, image.DiskFormat)
	if err == nil {
		err = data.keep()
	}
	if err != nil {
		return s.abandon(r.Context(), data, err)
	}
	if err := s.activate(r.Context(), data, virtualBytes); err != nil {
		return err
	}
	return openstack.NoContent(w)
}

// mayUpload refuses early, before anything is made on disk for the request.
func (s *Service) mayUpload(r *openstack.Request, id string) error {
	i, ok := lookup(s.store, id)
	if !ok {
		return notFound(id)
	}
	if err := mayModify(r.Caller, i, "upload_image"); err != nil {
		return err
	}
	try := *i
	return startSaving(&try)
}

// startSaving moves a queued image that has its formats to saving.
func startSaving(i *cloud.Image) error {
	if i.Status != cloud.ImageQueued {
		return cloud.Errorf(cloud.KindConflict, "Image status transition from %s to saving is not allowed", i.Status)
	}
	if i.DiskFormat == "" || i.ContainerFormat == "" {
		return cloud.Errorf(cloud.KindInvalid, "Properties disk_format, container_format must be set prior to saving data.")
	}
	i.Status = cloud.ImageSaving
	return nil
}

// receive writes the body to data and returns the image's virtual size.
func (s *Service) receive(w http.ResponseWriter, r *openstack.Request, data *upload, format string) (virtualBytes int64, err error) {
	body := &patientReader{rc: http.NewResponseController(w), from: r.Body}
	defer body.done()
	var from io.Reader = body
	if limit := s.options.ImageBytesMax; limit > 0 {
		from = http.MaxBytesReader(w, io.NopCloser(body), limit)
	}
	head, err := readHead(from)
	if err != nil {
		return 0, s.broken(err)
	}
	if err := inspectHead(format, head); err != nil {
		return 0, err
	}
	buffer := make([]byte, pieceBytes)
	if _, err := io.CopyBuffer(onlyWriter{data}, io.MultiReader(bytes.NewReader(head), from), buffer); err != nil {
		return 0, s.broken(err)
	}
	if format == "qcow2" {
		return inspectQCOW2(data.file, data.bytes)
	}
	return data.bytes, nil
}

// readHead reads the first headBytes, or all if there are fewer. Unlike io.ReadFull it tells the end from a broken body.
func readHead(from io.Reader) ([]byte, error) {
	head := make([]byte, headBytes)
	n := 0
	for n < len(head) {
		m, err := from.Read(head[n:])
		n += m
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	return head[:n], nil
}

// onlyWriter hides every other method, so that the copy uses our buffer.
type onlyWriter struct{ io.Writer }

// broken classifies a failed transfer.
func (s *Service) broken(err error) error {
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return s.tooLarge()
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return cloud.Errorf(cloud.KindTooLarge, "There is not enough disk space on the image storage media.")
	case errors.Is(err, syscall.EIO), errors.Is(err, syscall.EROFS):
		return fmt.Errorf("write image data: %w", err)
	}
	return cloud.E(cloud.KindInvalid, "", "", errors.New("The upload was interrupted; the image is queued again.")) //nolint:staticcheck,revive // a sentence for the client
}

func (s *Service) tooLarge() error {
	return cloud.Errorf(cloud.KindTooLarge, "Denying attempt to upload image larger than %d bytes.", s.options.ImageBytesMax)
}

// abandon removes the data, puts the image back to queued, and returns why.
func (s *Service) abandon(ctx context.Context, data *upload, why error) error {
	// The client may be gone; its image must not stay saving for that.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleMax)
	defer cancel()
	_, err := s.store.UpdateVisible(ctx, func(tx *store.Tx) error {
		i, err := store.Get(tx, tables.Images, data.id)
		if err != nil || i.Status != cloud.ImageSaving {
			return nil // deleted meanwhile
		}
		i.Status, i.Updated = cloud.ImageQueued, nowUTC()
		return store.Put(tx, tables.Images, data.id, i)
	})
	data.discard()
	if err != nil {
		// Maintain finds it: saving, and nobody holds the lock.
		s.options.Logger.Warn("image: a failed upload is queued again later", "image", data.id, "error", err)
	}
	return why
}

// activate makes the kept data the image's. If the image was deleted meanwhile the data goes.
func (s *Service) activate(ctx context.Context, data *upload, virtualBytes int64) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleMax)
	defer cancel()
	gone := false
	_, err := s.store.UpdateVisible(ctx, func(tx *store.Tx) error {
		i, err := store.Get(tx, tables.Images, data.id)
		gone = cloud.Is(err, cloud.KindNotFound) || err == nil && i.Status != cloud.ImageSaving
		if gone {
			return nil
		}
		if err != nil {
			return err
		}
		i.Status, i.SizeBytes, i.VirtualBytes, i.HashAlgo = cloud.ImageActive, data.bytes, virtualBytes, hashAlgo
		i.MD5, i.Hash = data.sums()
		i.Updated = nowUTC()
		return store.Put(tx, tables.Images, data.id, i)
	})
	switch {
	case err != nil:
		return err // whether it is active is not known: the data stays, and Maintain settles it
	case gone:
		data.discard()
		if err := s.reap(ctx, data.id); err != nil {
			s.options.Logger.Warn("image: data of a deleted image is removed later", "image", data.id, "error", err)
		}
		return openstack.Fail(http.StatusGone, "Image %s could not be found after upload. The image may have been deleted during the upload.", data.id)
	}
	return nil
}

// patientReader moves the connection's read deadline on with every piece.
type patientReader struct {
	rc   *http.ResponseController
	from io.Reader
}

// Read implements io.Reader.
func (p *patientReader) Read(b []byte) (int, error) {
	_ = p.rc.SetReadDeadline(time.Now().Add(silenceMax)) // a writer without deadlines has the server's own
	return p.from.Read(b)
}

// done lets the connection be idle again.
func (p *patientReader) done() { _ = p.rc.SetReadDeadline(time.Time{}) }
