// Package guest makes the virtual machine that tests and the demo run: a bootable disk image of about 20 MB, built from Debian's cloud
// kernel, the syslinux boot loader and one static Go program (package init below) that is the whole user space.
//
// Image returns the path of the image, building it only when an input changed. Nothing here needs a mount, a loop device or root: the FAT
// file system is written with mtools, the initial RAM disk and the partition table by this package.
//
// What the guest can be ordered to do is described in init/params.go and its TCP commands in init/services.go; where things lie on its disk
// in package layout; what it says in package wire. Client talks to a running guest's control port.
package guest
