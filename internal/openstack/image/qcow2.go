package image

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// What QEMU's qcow2 driver accepts at most (block/qcow2.h), and what we do.
const (
	qcow2Magic       = "QFI\xfb"
	qcow2V2Bytes     = 72
	qcow2V3BytesMin  = 104
	clusterBitsMin   = 9
	clusterBitsMax   = 21
	l1BytesMax       = 32 << 20
	refcountBytesMax = 8 << 20
	refcountOrderMax = 6
	snapshotsMax     = 65536
	// virtualBytesMax bounds a disk: 64 TiB, more than any host here has, and far from overflow in everything computed from it.
	virtualBytesMax = 64 << 40
	// extensionsMax bounds the walk through header extensions; QEMU writes at most five.
	extensionsMax = 64
)

// Incompatible feature bits.
const (
	qcow2Dirty       = 1 << 0
	qcow2Corrupt     = 1 << 1
	qcow2DataFile    = 1 << 2
	qcow2Compression = 1 << 3
	qcow2ExtendedL2  = 1 << 4
)

const (
	extensionEnd      = 0
	extensionDataFile = 0x44415441
)

// qcow2Header is the part of the header that is looked at.
type qcow2Header struct {
	version         uint32
	backingOffset   uint64
	backingBytes    uint32
	clusterBits     uint32
	virtualBytes    uint64
	crypt           uint32
	l1Entries       uint32
	l1Offset        uint64
	refcountOffset  uint64
	refcountCluster uint32
	snapshots       uint32
	incompatible    uint64
	refcountOrder   uint32
	headerBytes     uint32
}

func badImage(format string, args ...any) error {
	return cloud.Errorf(cloud.KindInvalid, "Invalid image data: "+format, args...)
}

// inspectQCOW2 returns the virtual size of a qcow2 image of fileBytes bytes, or cloud.KindInvalid for one that is broken, is encrypted, or
// needs any other file. It reads the header's cluster only.
func inspectQCOW2(r io.ReaderAt, fileBytes int64) (virtualBytes int64, err error) {
	h, err := readQCOW2Header(r)
	if err != nil {
		return 0, err
	}
	if err := h.checkFeatures(); err != nil {
		return 0, err
	}
	if err := h.checkGeometry(uint64(fileBytes)); err != nil {
		return 0, err
	}
	if err := h.checkExtensions(r); err != nil {
		return 0, err
	}
	return int64(h.virtualBytes), nil
}

func readQCOW2Header(r io.ReaderAt) (qcow2Header, error) {
	var b [qcow2V3BytesMin]byte
	n, err := r.ReadAt(b[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return qcow2Header{}, fmt.Errorf("read image header: %w", err)
	}
	if n < qcow2V2Bytes || string(b[:4]) != qcow2Magic {
		return qcow2Header{}, badImage("not a qcow2 image")
	}
	be := binary.BigEndian
	h := qcow2Header{version: be.Uint32(b[4:]), backingOffset: be.Uint64(b[8:]), backingBytes: be.Uint32(b[16:]), clusterBits: be.Uint32(b[20:]),
		virtualBytes: be.Uint64(b[24:]), crypt: be.Uint32(b[32:]), l1Entries: be.Uint32(b[36:]), l1Offset: be.Uint64(b[40:]),
		refcountOffset: be.Uint64(b[48:]), refcountCluster: be.Uint32(b[56:]), snapshots: be.Uint32(b[60:]), refcountOrder: 4, headerBytes: qcow2V2Bytes}
	switch h.version {
	case 2:
	case 3:
		if n < qcow2V3BytesMin {
			return qcow2Header{}, badImage("qcow2 header is cut short")
		}
		h.incompatible, h.refcountOrder, h.headerBytes = be.Uint64(b[72:]), be.Uint32(b[96:]), be.Uint32(b[100:])
	default:
		return qcow2Header{}, badImage("qcow2 version %d is not supported", h.version)
	}
	return h, nil
}

func (h *qcow2Header) checkFeatures() error {
	const known = qcow2Dirty | qcow2Corrupt | qcow2DataFile | qcow2Compression | qcow2ExtendedL2
	switch {
	case h.backingOffset != 0 || h.backingBytes != 0:
		return badImage("a qcow2 image with a backing file is not allowed; flatten it with qemu-img convert")
	case h.incompatible&qcow2DataFile != 0:
		return badImage("a qcow2 image with an external data file is not allowed; flatten it with qemu-img convert")
	case h.incompatible&qcow2Corrupt != 0:
		return badImage("the qcow2 image is marked corrupt; repair it with qemu-img check -r")
	case h.incompatible&qcow2Dirty != 0:
		return badImage("the qcow2 image was not closed properly or is in use; repair it with qemu-img check -r")
	case h.incompatible&^known != 0:
		return badImage("the qcow2 image uses unknown features (%#x)", h.incompatible&^known)
	case h.crypt != 0:
		return badImage("an encrypted qcow2 image is not supported")
	}
	return nil
}

func (h *qcow2Header) checkGeometry(fileBytes uint64) error {
	if h.clusterBits < clusterBitsMin || h.clusterBits > clusterBitsMax {
		return badImage("qcow2 cluster size 2^%d is out of range", h.clusterBits)
	}
	cluster := uint64(1) << h.clusterBits
	if h.virtualBytes == 0 || h.virtualBytes > virtualBytesMax {
		return badImage("qcow2 virtual size %d is out of range", h.virtualBytes)
	}
	if h.headerBytes%8 != 0 || uint64(h.headerBytes) > cluster || h.version == 3 && h.headerBytes < qcow2V3BytesMin {
		return badImage("qcow2 header length %d is out of range", h.headerBytes)
	}
	if h.refcountOrder > refcountOrderMax || h.snapshots > snapshotsMax {
		return badImage("qcow2 header is out of range")
	}
	entry := uint64(8)
	if h.incompatible&qcow2ExtendedL2 != 0 {
		entry = 16
	}
	perL1 := cluster * (cluster / entry) // bytes of disk that one L1 entry maps
	needed := (h.virtualBytes + perL1 - 1) / perL1
	if l1 := uint64(h.l1Entries); l1 < needed || l1*8 > l1BytesMax {
		return badImage("qcow2 L1 table of %d entries does not fit a disk of %d bytes", l1, h.virtualBytes)
	}
	if !within(h.l1Offset, uint64(h.l1Entries)*8, cluster, fileBytes) {
		return badImage("qcow2 L1 table lies outside the file: is the file cut short?")
	}
	refcounts := uint64(h.refcountCluster) * cluster
	if h.refcountCluster == 0 || refcounts > refcountBytesMax || !within(h.refcountOffset, refcounts, cluster, fileBytes) {
		return badImage("qcow2 refcount table lies outside the file: is the file cut short?")
	}
	return nil
}

// within reports whether a table lies behind the header, cluster-aligned and whole in the file.
func within(offset, length, cluster, fileBytes uint64) bool {
	return offset >= cluster && offset%cluster == 0 && offset <= fileBytes && length <= fileBytes-offset
}

// checkExtensions refuses a header that names a data file in an extension.
func (h *qcow2Header) checkExtensions(r io.ReaderAt) error {
	end := int64(1) << h.clusterBits
	at := int64(h.headerBytes)
	for range extensionsMax {
		var b [8]byte
		if at+8 > end {
			return nil
		}
		if _, err := r.ReadAt(b[:], at); err != nil {
			return badImage("qcow2 header extensions are cut short")
		}
		kind, length := binary.BigEndian.Uint32(b[:]), int64(binary.BigEndian.Uint32(b[4:]))
		switch kind {
		case extensionEnd:
			return nil
		case extensionDataFile:
			return badImage("a qcow2 image with an external data file is not allowed; flatten it with qemu-img convert")
		}
		if length > end-at-8 {
			return badImage("qcow2 header extension %#x does not fit the header", kind)
		}
		at += 8 + (length+7)/8*8
	}
	return badImage("qcow2 header has too many extensions")
}

// foreign are the beginnings of formats that a client might call raw by mistake, or to have them probed by somebody later.
var foreign = []struct {
	magic  string
	offset int
	name   string
}{
	{qcow2Magic, 0, "qcow2"},
	{"KDMV", 0, "vmdk"},
	{"COWD", 0, "vmdk"},
	{"# Disk Descriptor", 0, "vmdk"},
	{"vhdxfile", 0, "vhdx"},
	{"conectix", 0, "vhd"},
	{"QED\x00", 0, "qed"},
	{"LUKS\xba\xbe", 0, "luks"},
	{"\x7f\x10\xda\xbe", 64, "vdi"},
	{"WithoutFreeSpace", 0, "parallels"},
	{"WithouFreSpacExt", 0, "parallels"},
}

// headBytes is how much of an image's beginning inspectHead wants.
const headBytes = 512

// inspectHead refuses, from the first bytes, data that cannot be of the format, so that a wrong upload ends at once.
func inspectHead(format string, head []byte) error {
	if len(head) == 0 {
		return badImage("the image is empty")
	}
	if format == "qcow2" {
		if len(head) < 4 || string(head[:4]) != qcow2Magic {
			return badImage("not a qcow2 image")
		}
		return nil
	}
	for _, f := range foreign {
		if end := f.offset + len(f.magic); len(head) >= end && string(head[f.offset:end]) == f.magic {
			return badImage("the data is of format %s, not raw", f.name)
		}
	}
	return nil
}
