package guest

import (
	"bytes"
	"fmt"
)

// cpioArchive builds an initial RAM disk in the "newc" format, with fixed times and owners so that equal contents give equal bytes.
type cpioArchive struct {
	buf   bytes.Buffer
	inode int
}

// File modes, as in stat(2).
const (
	modeDir  = 0o040755
	modeExec = 0o100755
	modeFile = 0o100644
	modeChar = 0o020600
)

func (a *cpioArchive) add(name string, mode int, data []byte) { a.entry(name, mode, 0, 0, data) }

// device adds a character device node.
func (a *cpioArchive) device(name string, major, minor int) {
	a.entry(name, modeChar, major, minor, nil)
}

func (a *cpioArchive) entry(name string, mode, major, minor int, data []byte) {
	a.inode++
	const links = 1
	fields := []int{a.inode, mode, 0, 0, links, 0, len(data), 0, 0, major, minor, len(name) + 1, 0}
	a.buf.WriteString("070701")
	for _, f := range fields {
		fmt.Fprintf(&a.buf, "%08x", f)
	}
	a.buf.WriteString(name + "\x00")
	a.pad()
	a.buf.Write(data)
	a.pad()
}

func (a *cpioArchive) pad() {
	for a.buf.Len()%4 != 0 {
		a.buf.WriteByte(0)
	}
}

// bytes closes the archive and returns it.
func (a *cpioArchive) bytes() []byte {
	a.inode = -1 // the trailer has inode 0
	a.entry("TRAILER!!!", 0, 0, 0, nil)
	return a.buf.Bytes()
}

// Initrd is an initial RAM disk with one program, which is the first and only one: for machines that need no disk and no drivers.
func Initrd(init []byte) []byte {
	var a cpioArchive
	for _, dir := range []string{"dev", "proc", "sys"} {
		a.add(dir, modeDir, nil)
	}
	const console, minor = 5, 1
	a.device("dev/console", console, minor) // the kernel opens it for init
	a.add("init", modeExec, init)
	return a.bytes()
}
