package volume

import (
	"errors"
	"io"
)

// fileSystem is every way in which this package touches files. Paths are absolute. Nothing is durable before the Sync that covers it:
// file.Sync for a file's content and length, SyncDir for the names in a directory.
type fileSystem interface {
	Mkdir(path string) error // with parents; there already: success
	// Open opens a file with os.O_ flags, unix.O_DIRECT among them.
	Open(path string, flags int) (file, error)
	Rename(from, to string) error
	// Exchange swaps two files' names at once. errNoExchange: the file system cannot; fs.ErrNotExist: one of them is not there.
	Exchange(one, two string) error
	Remove(path string) error // a file or an empty directory
	List(path string) ([]string, error)
	Stat(path string) (fileInfo, error)
	SyncDir(path string) error
	Space(path string) (total, free int64, err error)
	// Lock takes the path for this process until it is closed or the process ends. errLocked: another process has it.
	Lock(path string) (io.Closer, error)
}

type fileInfo struct {
	bytes     int64
	allocated int64
	dir       bool
}

// file is an open file. Any goroutine may use it.
type file interface {
	File
	Truncate(size int64) error
	Size() (int64, error)
	// Clone makes this file share the other's blocks, all of them. An error that is errNoReflink: the file system cannot.
	Clone(from file) error
	// Align is what direct I/O on this file asks for; 1 if it was not opened for it.
	Align() int
	Close() error
}

var (
	errLocked     = errors.New("another process serves this directory")
	errNoReflink  = errors.New("blocks cannot be shared")
	errNoExchange = errors.New("names cannot be exchanged")
)
