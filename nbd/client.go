package nbd

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// ClientOptions choose an export and how to talk to it.
type ClientOptions struct {
	Export string
	// TLS, if not nil, is set up before anything else; a server that has none is refused.
	TLS *tls.Config
	// Simple does without structured replies, and so without BlockStatus.
	Simple bool
}

// Client is the other side: a connection to an export. Any number of goroutines may use it at once; each call is a request, and they are
// under way together. It satisfies io.ReaderAt and io.WriterAt.
type Client struct {
	conn       net.Conn
	in         *bufio.Reader // of conn
	size       uint64
	flags      ExportFlags
	blockMin   uint32
	payloadMax uint32
	structured bool
	status     bool
	context    uint32 // the server's number of base:allocation

	writing sync.Mutex // one request at a time on the wire

	mu      sync.Mutex // guards what follows
	waiting map[uint64]*call
	cookie  uint64
	failed  error         // why no more answers come
	ended   chan struct{} // closed when the reader has returned
}

// call is a request that waits for its answer.
type call struct {
	command Command
	offset  uint64
	data    []byte // where a read goes
	got     uint64 // of a read, bytes described by chunks
	extents []Extent
	err     error
	done    chan struct{}
}

// Dial connects to a server.
func Dial(ctx context.Context, network, address string, o ClientOptions) (*Client, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return NewClient(ctx, c, o)
}

// NewClient negotiates over a connection, which then belongs to the client.
func NewClient(ctx context.Context, conn net.Conn, o ClientOptions) (*Client, error) {
	n, err := meet(ctx, conn, o.TLS)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	c := &Client{payloadMax: payloadDefault, blockMin: 1, waiting: map[uint64]*call{}, ended: make(chan struct{})}
	if err := n.agree(c, o); err != nil {
		return nil, errors.Join(err, n.conn.Close())
	}
	if err := n.finish(); err != nil {
		return nil, errors.Join(err, n.conn.Close())
	}
	c.conn, c.in = n.conn, bufio.NewReaderSize(n.conn, readBytes)
	go c.read()
	return c, nil
}

// List returns the exports of a server, over a connection that is closed afterwards.
func List(ctx context.Context, conn net.Conn, config *tls.Config) ([]Listing, error) {
	n, err := meet(ctx, conn, config)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	out, err := n.list()
	if err == nil {
		err = n.send(OptAbort, nil)
	}
	return out, errors.Join(err, n.conn.Close())
}

// Size is the export's length in bytes, as the server gave it.
func (c *Client) Size() int64 { return int64(c.size) }

// Flags say what the export can do.
func (c *Client) Flags() ExportFlags { return c.flags }

// HasStatus reports whether BlockStatus works.
func (c *Client) HasStatus() bool { return c.status }

// ReadAt reads len(p) bytes at off.
func (c *Client) ReadAt(p []byte, off int64) (int, error) {
	n := 0
	for n < len(p) {
		part := p[n:min(len(p), n+int(c.payloadMax))]
		if _, err := c.do(CmdRead, 0, uint64(off)+uint64(n), uint32(len(part)), part); err != nil {
			return n, err
		}
		n += len(part)
	}
	return n, nil
}

// WriteAt writes p at off.
func (c *Client) WriteAt(p []byte, off int64) (int, error) { return c.Write(p, off, 0) }

// Write is WriteAt with flags.
func (c *Client) Write(p []byte, off int64, flags CommandFlags) (int, error) {
	n := 0
	for n < len(p) {
		part := p[n:min(len(p), n+int(c.payloadMax))]
		if _, err := c.do(CmdWrite, flags, uint64(off)+uint64(n), uint32(len(part)), part); err != nil {
			return n, err
		}
		n += len(part)
	}
	return n, nil
}

// Flush makes all writes that have returned durable.
func (c *Client) Flush() error {
	_, err := c.do(CmdFlush, 0, 0, 0, nil)
	return err
}

// Trim says that a range is no longer needed.
func (c *Client) Trim(off int64, length uint32, flags CommandFlags) error {
	_, err := c.do(CmdTrim, flags, uint64(off), length, nil)
	return err
}

// WriteZeroes makes a range read as zeros.
func (c *Client) WriteZeroes(off int64, length uint32, flags CommandFlags) error {
	_, err := c.do(CmdWriteZeroes, flags, uint64(off), length, nil)
	return err
}

// Cache says that a range will be read soon.
func (c *Client) Cache(off int64, length uint32) error {
	_, err := c.do(CmdCache, 0, uint64(off), length, nil)
	return err
}

// BlockStatus returns the extents from off on: at least one; they may end before off+length, or beyond.
func (c *Client) BlockStatus(off int64, length uint32, flags CommandFlags) ([]Extent, error) {
	return c.do(CmdBlockStatus, flags, uint64(off), length, nil)
}

// Close says goodbye and closes the connection. Requests under way end with ErrDisconnected.
func (c *Client) Close() error {
	c.writing.Lock()
	_ = c.conn.SetWriteDeadline(time.Now().Add(time.Second)) // politeness has a limit
	_, err := c.conn.Write(requestHead(CmdDisc, 0, 0, 0, 0))
	c.writing.Unlock()
	if errors.Is(err, net.ErrClosed) {
		return nil // closed before
	}
	if err = c.conn.Close(); errors.Is(err, net.ErrClosed) {
		err = nil // the server was quicker, and then the reader
	}
	<-c.ended
	return err
}

func requestHead(command Command, flags CommandFlags, cookie, offset uint64, length uint32) []byte {
	h := make([]byte, 0, requestBytes)
	h = binary.BigEndian.AppendUint32(h, magicRequest)
	h = binary.BigEndian.AppendUint16(h, uint16(flags))
	h = binary.BigEndian.AppendUint16(h, uint16(command))
	h = binary.BigEndian.AppendUint64(h, cookie)
	h = binary.BigEndian.AppendUint64(h, offset)
	return binary.BigEndian.AppendUint32(h, length)
}

// do sends a request and waits for its answer.
func (c *Client) do(command Command, flags CommandFlags, offset uint64, length uint32, data []byte) ([]Extent, error) {
	k := &call{command: command, offset: offset, data: data, done: make(chan struct{})}
	c.mu.Lock()
	if c.failed != nil {
		c.mu.Unlock()
		return nil, c.failed
	}
	c.cookie++
	cookie := c.cookie
	c.waiting[cookie] = k
	c.mu.Unlock()
	buffers := net.Buffers{requestHead(command, flags, cookie, offset, length)}
	if command == CmdWrite {
		buffers = append(buffers, data)
	}
	c.writing.Lock()
	_, err := buffers.WriteTo(c.conn)
	c.writing.Unlock()
	if err != nil {
		_ = c.conn.Close() // the reader comes back and fails all that wait, this one too
	}
	<-k.done
	if k.err != nil {
		return nil, fmt.Errorf("nbd: %v of %d bytes at %d: %w", command, length, offset, k.err)
	}
	return k.extents, nil
}

// read takes answers until the connection ends.
func (c *Client) read() {
	defer close(c.ended)
	var err error
	for err == nil {
		err = c.answer()
	}
	_ = c.conn.Close() // so that writers notice too
	if !errors.Is(err, ErrProtocol) {
		err = fmt.Errorf("%w: %w", ErrDisconnected, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failed = err
	for cookie, k := range c.waiting {
		delete(c.waiting, cookie)
		k.err = err
		close(k.done)
	}
}

// answer takes one reply or chunk.
func (c *Client) answer() error {
	var h [chunkHeadBytes]byte
	if _, err := io.ReadFull(c.in, h[:simpleReplyBytes]); err != nil {
		return err
	}
	cookie := binary.BigEndian.Uint64(h[8:])
	c.mu.Lock()
	k := c.waiting[cookie]
	c.mu.Unlock()
	if k == nil {
		return violation("answer to a request that is not under way")
	}
	switch magic := binary.BigEndian.Uint32(h[:]); magic {
	case magicSimple:
		return c.simple(cookie, k, Error(binary.BigEndian.Uint32(h[4:])))
	case magicStructured:
		if _, err := io.ReadFull(c.in, h[simpleReplyBytes:]); err != nil {
			return err
		}
		flags, kind, length := binary.BigEndian.Uint16(h[4:]), binary.BigEndian.Uint16(h[6:]), binary.BigEndian.Uint32(h[16:])
		if err := c.chunk(k, kind, length); err != nil {
			return err
		}
		if flags&chunkDone != 0 {
			if k.command == CmdRead && k.err == nil && k.got != uint64(len(k.data)) {
				return violation("a read was answered with %d bytes of %d", k.got, len(k.data))
			}
			c.finish(cookie, k)
		}
		return nil
	default:
		return violation("reply magic %#x", magic)
	}
}

func (c *Client) finish(cookie uint64, k *call) {
	c.mu.Lock()
	delete(c.waiting, cookie)
	c.mu.Unlock()
	close(k.done)
}

func (c *Client) simple(cookie uint64, k *call, e Error) error {
	switch {
	case e != 0:
		k.err = e
	case k.command == CmdRead && c.structured, k.command == CmdBlockStatus:
		return violation("simple reply to %v", k.command)
	case k.command == CmdRead:
		if _, err := io.ReadFull(c.in, k.data); err != nil {
			return err
		}
	}
	c.finish(cookie, k)
	return nil
}

// chunk takes the payload of one chunk.
func (c *Client) chunk(k *call, kind uint16, length uint32) error {
	if !c.structured {
		return violation("structured reply that was not agreed on")
	}
	switch {
	case kind == chunkNone && length == 0:
		return nil
	case kind == chunkData && k.command == CmdRead && length > chunkOffsetBytes:
		return c.chunkData(k, length-chunkOffsetBytes)
	case kind == chunkHole && k.command == CmdRead && length == chunkHoleBytes:
		return c.chunkHole(k)
	case kind == chunkBlockStatus && k.command == CmdBlockStatus && length >= 12 && length%8 == 4 && length <= statusBytesMax:
		return c.chunkStatus(k, length)
	case kind&chunkIsError != 0 && length >= chunkErrorBytes && length <= chunkErrorBytes+stringMax+chunkOffsetBytes:
		return c.chunkError(k, length)
	}
	return violation("chunk of type %d with %d bytes in answer to %v", kind, length, k.command)
}

// statusBytesMax bounds the answer to a block status request that we accept.
const statusBytesMax = 4 + 8*(1<<20)

func (c *Client) payload(n uint32) ([]byte, error) {
	p := make([]byte, n)
	_, err := io.ReadFull(c.in, p)
	return p, err
}

// within returns the part of the read's buffer that a chunk describes.
func (k *call) within(offset, length uint64) ([]byte, error) {
	if offset < k.offset || offset-k.offset > uint64(len(k.data)) || length > uint64(len(k.data))-(offset-k.offset) {
		return nil, violation("chunk of %d bytes at %d outside the request", length, offset)
	}
	k.got += length
	return k.data[offset-k.offset:][:length], nil
}

func (c *Client) chunkData(k *call, length uint32) error {
	head, err := c.payload(chunkOffsetBytes)
	if err != nil {
		return err
	}
	p, err := k.within(binary.BigEndian.Uint64(head), uint64(length))
	if err != nil {
		return err
	}
	_, err = io.ReadFull(c.in, p)
	return err
}

func (c *Client) chunkHole(k *call) error {
	head, err := c.payload(chunkHoleBytes)
	if err != nil {
		return err
	}
	p, err := k.within(binary.BigEndian.Uint64(head), uint64(binary.BigEndian.Uint32(head[8:])))
	clear(p)
	return err
}

func (c *Client) chunkStatus(k *call, length uint32) error {
	p, err := c.payload(length)
	if err != nil {
		return err
	}
	if id := binary.BigEndian.Uint32(p); id != c.context {
		return violation("metadata context %d was not agreed on", id)
	}
	for p = p[4:]; len(p) > 0; p = p[8:] {
		e := Extent{Length: uint64(binary.BigEndian.Uint32(p)), Flags: StatusFlags(binary.BigEndian.Uint32(p[4:]))}
		if e.Length == 0 {
			return violation("extent of no length")
		}
		k.extents = append(k.extents, e)
	}
	return nil
}

func (c *Client) chunkError(k *call, length uint32) error {
	p, err := c.payload(length)
	if err != nil {
		return err
	}
	e, n := Error(binary.BigEndian.Uint32(p)), int(binary.BigEndian.Uint16(p[4:]))
	if e == 0 || n > len(p)-chunkErrorBytes {
		return violation("error chunk that does not add up")
	}
	k.err = e
	if n > 0 {
		k.err = fmt.Errorf("server says %q: %w", p[chunkErrorBytes:chunkErrorBytes+n], e)
	}
	return nil
}
