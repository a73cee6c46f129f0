package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

// The part of the qcow2 format (docs/interop/qcow2.rst in QEMU) that decides whether a file may be used.
const (
	qcow2Magic       = 0x514649fb // "QFI\xfb"
	qcow2HeaderV2    = 72
	qcow2HeaderV3    = 104
	qcow2BackingMax  = 1023
	qcow2ExtEnd      = 0
	qcow2ExtDataFile = 0x44415441
	qcow2ExtsMax     = 64 // real files have half a dozen

	qcow2Dirty           = 1 << 0
	qcow2Corrupt         = 1 << 1
	qcow2ExternalData    = 1 << 2
	qcow2CompressionType = 1 << 3
	qcow2ExtendedL2      = 1 << 4
	qcow2Known           = qcow2Dirty | qcow2Corrupt | qcow2ExternalData | qcow2CompressionType | qcow2ExtendedL2
)

// qcow2BytesMax is the largest virtual disk we accept, 64 TiB: more than any file system here holds and far from overflowing anything.
const qcow2BytesMax = 64 << 40

// Header is what matters of a qcow2 file.
type Header struct {
	Version      uint32
	VirtualBytes int64
	Backing      string // name of the backing file; empty: none
	ExternalData bool   // its data is in another file
	Encrypted    bool
	Incompatible uint64 // feature bits
}

var errNotQCOW2 = errors.New("not a qcow2 file")

// ReadHeader decodes a qcow2 file's header strictly: whatever it does not understand is an error.
func ReadHeader(r io.ReaderAt) (Header, error) {
	raw := make([]byte, qcow2HeaderV3)
	n, err := r.ReadAt(raw, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return Header{}, err
	}
	if n < qcow2HeaderV2 || binary.BigEndian.Uint32(raw) != qcow2Magic {
		return Header{}, errNotQCOW2
	}
	u32 := func(at int) uint32 { return binary.BigEndian.Uint32(raw[at:]) }
	u64 := func(at int) uint64 { return binary.BigEndian.Uint64(raw[at:]) }
	h := Header{Version: u32(4), Encrypted: u32(32) != 0}
	length := uint32(qcow2HeaderV2)
	switch h.Version {
	case 2:
	case 3:
		if n < qcow2HeaderV3 {
			return Header{}, errors.New("qcow2 header is cut off")
		}
		h.Incompatible, length = u64(72), u32(100)
	default:
		return Header{}, fmt.Errorf("qcow2 version %d is unknown", h.Version)
	}
	clusterBits := u32(20)
	size := u64(24)
	switch {
	case clusterBits < 9 || clusterBits > 21:
		return Header{}, fmt.Errorf("qcow2 cluster size 2^%d is out of range", clusterBits)
	case size == 0 || size > qcow2BytesMax:
		return Header{}, fmt.Errorf("qcow2 virtual size %d is out of range", size)
	case h.Incompatible&^qcow2Known != 0:
		return Header{}, fmt.Errorf("qcow2 features %#x are unknown", h.Incompatible&^qcow2Known)
	case length < qcow2HeaderV2 || uint64(length) > 1<<clusterBits:
		return Header{}, fmt.Errorf("qcow2 header length %d is out of range", length)
	}
	h.VirtualBytes = int64(size)
	h.ExternalData = h.Incompatible&qcow2ExternalData != 0
	if h.Backing, err = readBacking(r, u64(8), u32(16), uint64(1)<<clusterBits); err != nil {
		return Header{}, err
	}
	named, err := namesDataFile(r, int64(length), int64(1)<<clusterBits)
	h.ExternalData = h.ExternalData || named
	return h, err
}

func readBacking(r io.ReaderAt, offset uint64, length uint32, cluster uint64) (string, error) {
	if offset == 0 {
		return "", nil
	}
	if length == 0 || length > qcow2BackingMax || offset > cluster || offset+uint64(length) > cluster {
		return "", fmt.Errorf("qcow2 backing file name of %d bytes at %d is out of range", length, offset)
	}
	name := make([]byte, length)
	if _, err := r.ReadAt(name, int64(offset)); err != nil {
		return "", fmt.Errorf("qcow2 backing file name: %w", noEOF(err))
	}
	return string(name), nil
}

// namesDataFile walks the header extensions, which end with one of type 0 or with the first cluster.
func namesDataFile(r io.ReaderAt, at, end int64) (bool, error) {
	var head [8]byte
	for range qcow2ExtsMax {
		if at+int64(len(head)) > end {
			return false, nil
		}
		if _, err := r.ReadAt(head[:], at); err == io.EOF {
			return false, nil // a version 2 file may end here
		} else if err != nil {
			return false, err
		}
		kind, length := binary.BigEndian.Uint32(head[:]), int64(binary.BigEndian.Uint32(head[4:]))
		switch {
		case kind == qcow2ExtEnd:
			return false, nil
		case kind == qcow2ExtDataFile:
			return true, nil
		case length > end-at:
			return false, fmt.Errorf("qcow2 header extension %#x of %d bytes is out of range", kind, length)
		}
		at += int64(len(head)) + (length+7)&^7
	}
	return false, errors.New("qcow2 header has too many extensions")
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// checkBase says why a user's image may not be a base. The raw format has nothing to check: all its bytes are data.
func checkBase(path, format string) (virtualBytes int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if format == FormatRaw {
		info, err := f.Stat()
		if err != nil {
			return 0, err
		}
		return info.Size(), nil
	}
	h, err := ReadHeader(f)
	switch {
	case err != nil:
		return 0, err
	case h.Backing != "":
		return 0, errors.New("image has a backing file")
	case h.ExternalData:
		return 0, errors.New("image keeps its data in another file")
	case h.Encrypted:
		return 0, errors.New("image is encrypted")
	case h.Incompatible&qcow2Corrupt != 0:
		return 0, errors.New("image is marked corrupt")
	}
	return h.VirtualBytes, nil
}
