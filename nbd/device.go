package nbd

import (
	"fmt"
	"math/bits"
)

// Device is what an export reads from and writes to. It is used by all connections to the export at once.
type Device interface {
	// Info describes the export as it is now. It must not block.
	Info() Info
	// Size is the export's length in bytes now. It must not block.
	Size() uint64
	// Start carries out a request and calls its Done, exactly once, now or later. It must not block. The request is valid: within the
	// size, aligned, allowed by the export's flags.
	Start(r *Request)
}

// Info describes an export.
type Info struct {
	Description string
	Flags       ExportFlags
	// Status says that the device answers CmdBlockStatus.
	Status bool
	// BlockMin is the unit of offsets and lengths, a power of two up to 64 KiB; 1 if zero. BlockPreferred is what is fastest; 4096 if
	// zero. PayloadMax is the most one read or write may carry; 32 MiB if zero.
	BlockMin, BlockPreferred, PayloadMax uint32
}

const (
	blockMinMax           = 64 << 10
	blockPreferredDefault = 4096
	payloadDefault        = 32 << 20
)

// normal fills in the defaults.
func (i Info) normal() (Info, error) {
	if i.BlockMin == 0 {
		i.BlockMin = 1
	}
	if i.BlockPreferred == 0 {
		i.BlockPreferred = max(blockPreferredDefault, i.BlockMin)
	}
	if i.PayloadMax == 0 {
		i.PayloadMax = payloadDefault
	}
	if bits.OnesCount32(i.BlockMin) != 1 || i.BlockMin > blockMinMax || bits.OnesCount32(i.BlockPreferred) != 1 || i.BlockPreferred < i.BlockMin || i.PayloadMax%i.BlockMin != 0 {
		return i, fmt.Errorf("nbd: block sizes %d, %d, %d: the first two must be powers of two in order, the last a multiple of the first", i.BlockMin, i.BlockPreferred, i.PayloadMax)
	}
	return i, nil
}

// Attacher is a Device that wants to know its connections.
type Attacher interface {
	// Attach is called before the first request of a connection; an error refuses it. The Conn is the device's to Drain and to Finish. It
	// must not block, nor call the Conn's methods.
	Attach(c *Conn) error
	// Detach is called after the last request of an attached connection is done.
	Detach()
}

// Leaver is a Device that wants to know at once that a client has gone: nobody will hear of the requests under way. A device that holds
// requests back may end them early. It is called once at most, without the Conn's lock, so that with several goroutines Detach may come first.
type Leaver interface{ Leave() }

// Exports finds devices by name.
type Exports interface {
	// Find returns the device of an export. An error that is or wraps an Error decides what the client is told: NotPermitted that it is not
	// allowed, anything else that there is no such export. It must not block.
	Find(name string, peer Peer) (Device, error)
	// List returns the exports a peer may see. It must not block.
	List(peer Peer) []Listing
}

// Listing is an entry of a list of exports.
type Listing struct{ Name, Description string }

// Request is a request under way.
type Request struct {
	Command Command
	Flags   CommandFlags
	Offset  uint64
	Length  uint32
	// Data is the payload of a write, or where a read goes; its length is Length.
	Data []byte
	// Extents is where the device appends the answer to CmdBlockStatus, from Offset on: at least one, in order, no more than ExtentsMax;
	// the last may reach beyond Length. After CmdRead the device may append extents that cover the request exactly; those that read as
	// zeros are then not sent, and need not be in Data.
	Extents []Extent
	// ExtentsMax is how many extents the client will get at most.
	ExtentsMax int
	// Buffer is where Data lies; nil if the request has none. It is for devices that know their own Memory.
	Buffer *Buffer
	// Local is for the device's use. It is kept when the request is used again.
	Local any
	// Intercept is for a device that stands before another: Done calls it, once, instead of answering. It ends the request, then or later,
	// by calling Done again.
	Intercept func(err error)

	cookie uint64
	conn   *Conn
}

// Done ends the request. The device must not touch it afterwards. An error goes to the client, with its text if the client understands
// that; see Error for its number.
func (r *Request) Done(err error) {
	if f := r.Intercept; f != nil {
		r.Intercept = nil
		f(err)
		return
	}
	r.conn.done(r, err)
}

// Memory provides the buffers of payloads.
type Memory interface {
	// Get returns a buffer for n bytes of data. It must not block.
	Get(n int) *Buffer
	// Put takes it back.
	Put(b *Buffer)
}

// HeadRoom is how many bytes of a Buffer lie before its data: the head of a reply is put there, so that it goes out with the data in one
// piece.
const HeadRoom = 32

// Buffer holds a payload.
type Buffer struct {
	// Whole is HeadRoom bytes followed by the data. A Memory for direct I/O places it so that the data is aligned.
	Whole []byte
	// Index is for the Memory's use, such as the number of a registered buffer.
	Index int

	memory Memory
}

// Data returns where the payload lies.
func (b *Buffer) Data() []byte { return b.Whole[HeadRoom:] }

// Release gives the buffer back to its memory.
func (b *Buffer) Release() { b.memory.Put(b) }

// heap is the Memory of those who do not care.
type heap struct{}

func (heap) Get(n int) *Buffer { return &Buffer{Whole: make([]byte, HeadRoom+n)} }
func (heap) Put(*Buffer)       {}
