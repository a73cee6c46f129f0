package image

import (
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
)

// download sends an image's data: whole and verified, or a range of it.
func (s *Service) download(w http.ResponseWriter, r *openstack.Request) error {
	i, err := s.visible(r, "download_image")
	if err != nil {
		return err
	}
	switch {
	case i.Status == cloud.ImageDeactivated && !r.Caller.IsAdmin():
		return cloud.Errorf(cloud.KindForbidden, "The requested image has been deactivated. Image data download is forbidden.")
	case i.Status != cloud.ImageActive && i.Status != cloud.ImageDeactivated:
		return openstack.NoContent(w) // Glance's answer for an image without data
	case len(i.Snapshots) > 0 && i.SizeBytes == 0:
		return openstack.NoContent(w)
	}
	file, size, err := s.files.open(i.ID)
	if err != nil {
		return fmt.Errorf("data of an active image: %w", withoutKind(err))
	}
	defer file.Close()
	if size != i.SizeBytes {
		return fmt.Errorf("image %s is damaged: %d bytes on disk, %d on record", i.ID, size, i.SizeBytes)
	}
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Etag", `"`+i.MD5+`"`)
	h.Set("Accept-Ranges", "bytes")
	out := &patientWriter{ResponseWriter: w, rc: http.NewResponseController(w)}
	defer out.done()
	if r.Header.Get("Range") != "" {
		http.ServeContent(out, r.Request, "", time.Time{}, file)
		return nil
	}
	h.Set("Content-Md5", i.MD5) // hexadecimal, as Glance has it
	h.Set("Content-Length", strconv.FormatInt(size, 10))
	if r.Method == http.MethodHead {
		w.WriteHeader(http.StatusOK)
		return nil
	}
	if err := sendVerified(out, file, i); err != nil {
		s.options.Logger.Error("image: download was cut short", "image", i.ID, "request", r.ID, "error", err)
		return err
	}
	return nil
}

// withoutKind keeps a not-found of the file from becoming a not-found of the image.
func withoutKind(err error) error { return errors.New(err.Error()) }

// sendVerified copies the file and holds the last piece back until the hash of all is right. An error means that the client has not got the
// whole, and knows it by the length.
func sendVerified(w io.Writer, file *os.File, i *cloud.Image) error {
	hash := sha512.New()
	// Two buffers: one waits to be written while the other is read.
	waiting, next := make([]byte, 0, pieceBytes), make([]byte, pieceBytes)
	for {
		n, err := io.ReadFull(file, next)
		hash.Write(next[:n])
		end := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !end {
			return fmt.Errorf("read image %s: %w", i.ID, err)
		}
		if end {
			if got := hex.EncodeToString(hash.Sum(nil)); got != i.Hash {
				return fmt.Errorf("image %s is damaged: its sha512 is %s, not %s", i.ID, got, i.Hash)
			}
		}
		if len(waiting) > 0 {
			if _, err := w.Write(waiting); err != nil {
				return fmt.Errorf("send image %s: %w", i.ID, err)
			}
		}
		waiting, next = next[:n], waiting[:cap(waiting)]
		if end {
			_, err := w.Write(waiting)
			return err
		}
	}
}

// patientWriter moves the connection's write deadline on with every piece.
type patientWriter struct {
	http.ResponseWriter
	rc *http.ResponseController
}

// Write implements io.Writer.
func (p *patientWriter) Write(b []byte) (int, error) {
	_ = p.rc.SetWriteDeadline(time.Now().Add(silenceMax)) // a writer without deadlines has the server's own
	return p.ResponseWriter.Write(b)
}

// done lets the connection be idle again.
func (p *patientWriter) done() { _ = p.rc.SetWriteDeadline(time.Time{}) }
