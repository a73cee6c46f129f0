// Package layout says where things lie on the test guest's disk. The builder of the image, the guest, and tests that look into a disk
// from outside share it.
//
//	0        sector 0: boot code, signature, partition table
//	1 MiB    partition 1: FAT, boot loader, kernel, initial RAM disk
//	33 MiB   partition 2: the disk log (package disklog), no file system
//	49 MiB   free: where godwit.fill writes, as far as the disk goes
//	64 MiB   end of the image; a server's disk may be larger
package layout

const (
	// SectorBytes is the unit of the partition table.
	SectorBytes = 512

	// BootOffset and BootBytes bound partition 1.
	BootOffset = 1 << 20
	BootBytes  = 32 << 20

	// LogOffset and LogBytes bound partition 2.
	LogOffset = BootOffset + BootBytes
	LogBytes  = 16 << 20

	// FillOffset is the first byte after the partitions.
	FillOffset = LogOffset + LogBytes

	// ImageBytes is the image's virtual size: the smallest disk the guest can have.
	ImageBytes = 64 << 20

	// Signature is the disk signature at SignatureAt, by which the guest knows its root disk.
	Signature uint32 = 0x74776467 // "gdwt"
)

// SignatureAt is the offset of the disk signature.
const SignatureAt = 440
