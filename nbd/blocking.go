package nbd

import (
	"errors"
	"io"
	"sync"
)

// Storage is a device whose operations block, such as a file. Offsets and lengths are within the size.
type Storage interface {
	io.ReaderAt
	io.WriterAt
	// Flush makes written data durable.
	Flush() error
	// Trim says that a range is no longer needed.
	Trim(off, length int64) error
	// WriteZeroes makes a range read as zeros; with noHole its space stays allocated. With fast it returns NotSupported rather than write
	// zeros one by one.
	WriteZeroes(off, length int64, noHole, fast bool) error
	// Status returns the extents of a range, at most limit; the last may reach beyond it.
	Status(off, length int64, limit int) ([]Extent, error)
	// Cache says that a range will be read soon.
	Cache(off, length int64) error
}

// Blocking is a Device of a Storage: a goroutine runs each request, no more than a number at a time. It is the engine of machines without
// io_uring.
type Blocking struct {
	storage Storage
	info    Info
	size    func() uint64
	tickets chan struct{}
	group   sync.WaitGroup
}

// blockingWorkers is how many requests run at a time if the caller does not say: what a fast disk wants, and few enough threads.
const blockingWorkers = 64

// NewBlocking makes the device. size is asked for each request; workers bounds the requests that run at a time, 64 if zero.
func NewBlocking(storage Storage, info Info, size func() uint64, workers int) *Blocking {
	if workers == 0 {
		workers = blockingWorkers
	}
	return &Blocking{storage: storage, info: info, size: size, tickets: make(chan struct{}, workers)}
}

// Info implements Device.
func (b *Blocking) Info() Info { return b.info }

// Size implements Device.
func (b *Blocking) Size() uint64 { return b.size() }

// Start implements Device.
func (b *Blocking) Start(r *Request) {
	b.group.Go(func() {
		b.tickets <- struct{}{}
		err := Run(b.storage, r)
		<-b.tickets
		r.Done(err)
	})
}

// Wait waits until no request is under way.
func (b *Blocking) Wait() { b.group.Wait() }

// Run carries a request out on a storage. It blocks, and returns what Request.Done is to be told; it does not call it.
func Run(storage Storage, r *Request) error {
	off, length := int64(r.Offset), int64(r.Length)
	var err error
	switch r.Command {
	case CmdRead:
		n, err := storage.ReadAt(r.Data, off)
		if errors.Is(err, io.EOF) {
			clear(r.Data[n:]) // the end of the last block of a file that is not whole
			err = nil
		}
		return err
	case CmdWrite:
		_, err = storage.WriteAt(r.Data, off)
	case CmdFlush:
		return storage.Flush()
	case CmdTrim:
		err = storage.Trim(off, length)
	case CmdWriteZeroes:
		err = storage.WriteZeroes(off, length, r.Flags&CmdFlagNoHole != 0, r.Flags&CmdFlagFastZero != 0)
	case CmdCache:
		return storage.Cache(off, length)
	case CmdBlockStatus:
		r.Extents, err = storage.Status(off, length, r.ExtentsMax)
		return err
	default:
		return refused(Invalid, "%v", r.Command)
	}
	if err == nil && r.Flags&CmdFlagFUA != 0 {
		err = storage.Flush()
	}
	return err
}
