package volume

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// An image comes from a user and the program that reads it is large, so it runs with limits. They are those Cinder's operators have lived with:
// a gigabyte of addresses is enough for any honest image's tables.
const (
	inspectTimeMax  = 30 * time.Second
	inspectCPUMax   = 10 * time.Second
	convertTimeMax  = 2 * time.Hour
	convertCPUMax   = time.Hour
	imageMemoryMax  = 2 << 30 // addresses, not pages: each of up to 64 threads reserves a stack
	imageStderrMax  = 4 << 10
	convertRequests = 8
)

// qcow2Magic begins a qcow2 file.
const qcow2Magic = 0x514649fb

// incompatibleDataFile is the feature bit of a qcow2 file whose data is in another file.
const incompatibleDataFile = 1 << 2

// ConvertQCOW2 makes the raw sparse file to, anew, from the qcow2 image from, and returns its size. When it returns, the content is durable and the
// name is not; when it fails, what it has made is worth nothing. cloud.KindInvalid: the image is not fit to be used, or is larger than bytesMax;
// cloud.KindExhausted: the disk is full.
func ConvertQCOW2(ctx context.Context, from, to string, bytesMax int64) (bytes int64, err error) {
	if from, err = filepath.Abs(from); err != nil {
		return 0, err
	}
	if to, err = filepath.Abs(to); err != nil {
		return 0, err
	}
	if err := checkQCOW2File(from); err != nil {
		return 0, err
	}
	virtual, err := inspectImage(ctx, from)
	if err != nil {
		return 0, err
	}
	if err := fits(virtual, bytesMax); err != nil {
		return 0, err
	}
	f, err := os.OpenFile(to, os.O_CREATE|os.O_RDWR|os.O_TRUNC, fileMode)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if err := f.Truncate(virtual); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, convertTimeMax)
	defer cancel()
	limits := []string{"--as=" + strconv.Itoa(imageMemoryMax), "--cpu=" + seconds(convertCPUMax), "--fsize=" + strconv.FormatInt(virtual, 10)}
	_, err = runLimited(ctx, limits, "qemu-img", "convert", "-n", "--target-is-zero", "-W", "-m", strconv.Itoa(convertRequests), "-f", "qcow2", "-O", "raw", from, to)
	if err != nil {
		return 0, err
	}
	return virtual, f.Sync()
}

// WriteSparse writes p at off of a file that has a hole there, and leaves the hole where p has blocks of zeros.
func WriteSparse(to io.WriterAt, p []byte, off int64) error { return writeSparse(to, p, off) }

// imageHeadBytes is how much of a qcow2 file checkQCOW2 looks at: the header as far as the features.
const imageHeadBytes = 80

// checkQCOW2File is checkQCOW2 for a file. No other program has opened it by then.
func checkQCOW2File(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	head := make([]byte, imageHeadBytes)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	return checkQCOW2(head[:n])
}

// checkQCOW2 reads the header: the image must be one, and must not send whoever opens it to other files.
func checkQCOW2(header []byte) error {
	head := make([]byte, imageHeadBytes)
	copy(head, header)
	version := binary.BigEndian.Uint32(head[4:])
	switch {
	case binary.BigEndian.Uint32(head) != qcow2Magic:
		return cloud.Errorf(cloud.KindInvalid, "the image is not in qcow2 format")
	case version != 2 && version != 3:
		return cloud.Errorf(cloud.KindInvalid, "the image is qcow2 of version %d: 2 and 3 are known", version)
	case binary.BigEndian.Uint64(head[8:]) != 0:
		return cloud.Errorf(cloud.KindInvalid, "the image has a backing file")
	case version == 3 && binary.BigEndian.Uint64(head[72:])&incompatibleDataFile != 0:
		return cloud.Errorf(cloud.KindInvalid, "the image keeps its data in another file")
	}
	return nil
}

// imageInfo is what qemu-img says of an image.
type imageInfo struct {
	Format         string `json:"format"`
	VirtualSize    int64  `json:"virtual-size"`
	BackingFile    string `json:"backing-filename"`
	FormatSpecific struct {
		Data struct {
			DataFile string `json:"data-file"`
			Corrupt  bool   `json:"corrupt"`
		} `json:"data"`
	} `json:"format-specific"`
}

// inspectImage asks qemu-img for the image's virtual size and refuses it if it depends on other files.
func inspectImage(ctx context.Context, path string) (virtualBytes int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, inspectTimeMax)
	defer cancel()
	limits := []string{"--as=" + strconv.Itoa(imageMemoryMax), "--cpu=" + seconds(inspectCPUMax)}
	out, err := runLimited(ctx, limits, "qemu-img", "info", "-f", "qcow2", "--output=json", path)
	if err != nil {
		return 0, err
	}
	var info imageInfo
	if err := json.Unmarshal(out, &info); err != nil {
		return 0, fmt.Errorf("qemu-img info: %w", err)
	}
	switch {
	case info.BackingFile != "":
		return 0, cloud.Errorf(cloud.KindInvalid, "the image has a backing file")
	case info.FormatSpecific.Data.DataFile != "":
		return 0, cloud.Errorf(cloud.KindInvalid, "the image keeps its data in another file")
	case info.FormatSpecific.Data.Corrupt:
		return 0, cloud.Errorf(cloud.KindInvalid, "the image is marked corrupt")
	case info.VirtualSize <= 0:
		return 0, cloud.Errorf(cloud.KindInvalid, "the image's size is %d", info.VirtualSize)
	}
	return info.VirtualSize, nil
}

func seconds(d time.Duration) string { return strconv.Itoa(int(d / time.Second)) }

// runLimited runs a program under prlimit and returns what it printed. A program that fails says why in the error; that the image is bad is the
// likeliest reason, unless the disk is full.
func runLimited(ctx context.Context, limits []string, program string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "prlimit", append(append(limits, "--core=0", program), args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "MALLOC_ARENA_MAX=2"} // else each thread reserves 64 MiB of addresses more
	var stdout bytes.Buffer
	stderr := &head{max: imageStderrMax}
	cmd.Stdout, cmd.Stderr = &stdout, stderr
	err := cmd.Run()
	if err == nil {
		return stdout.Bytes(), nil
	}
	text := strings.TrimSpace(string(stderr.kept))
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return nil, cloud.Errorf(cloud.KindCancelled, "%s %s: %w", program, args[0], context.Cause(ctx))
	case !errors.As(err, &exit):
		return nil, fmt.Errorf("%s %s: %w", program, args[0], err)
	case strings.Contains(text, "No space left on device"), strings.Contains(text, "Disk quota exceeded"):
		return nil, cloud.Errorf(cloud.KindExhausted, "%s %s: %s", program, args[0], text)
	default:
		return nil, cloud.Errorf(cloud.KindInvalid, "%s %s: %w: %s", program, args[0], err, text)
	}
}

// head keeps the beginning of what is written to it.
type head struct {
	kept []byte
	max  int
}

// Write implements io.Writer.
func (h *head) Write(p []byte) (int, error) {
	h.kept = append(h.kept, p[:min(len(p), h.max-len(h.kept))]...)
	return len(p), nil
}
