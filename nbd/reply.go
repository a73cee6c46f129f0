package nbd

import (
	"encoding/binary"
	"math"
	"sync/atomic"
)

// reply queues the answer to a request. The request's buffer goes with it, or back.
func (c *Conn) reply(r *Request, err error) {
	switch {
	case err != nil && c.structured:
		c.replyError(r, err)
	case err != nil:
		c.replySimple(r, code(err))
	case r.Command == CmdRead && len(r.Data) > 0:
		c.replyRead(r)
	case r.Command == CmdRead && c.structured:
		c.write(chunkHead(r, chunkDone, chunkNone, 0))
	case r.Command == CmdBlockStatus:
		c.replyStatus(r)
	default:
		c.replySimple(r, 0)
	}
	c.letGo(r)
}

// write queues a copy of p. A wire that is closing drops it, which Closed will tell.
func (c *Conn) write(p []byte) { _, _ = c.wire.Write(p) }

// replySimple answers without data.
func (c *Conn) replySimple(r *Request, e Error) {
	var h [simpleReplyBytes]byte
	putSimple(h[:], r, e)
	c.write(h[:])
}

func putSimple(h []byte, r *Request, e Error) {
	binary.BigEndian.PutUint32(h[0:], magicSimple)
	binary.BigEndian.PutUint32(h[4:], uint32(e))
	binary.BigEndian.PutUint64(h[8:], r.cookie)
}

// chunkHead returns the head of a chunk with room for the fixed fields after it.
func chunkHead(r *Request, flags, kind uint16, length int) []byte {
	h := make([]byte, chunkHeadBytes, chunkHeadBytes+chunkHoleBytes)
	putChunk(h, r, flags, kind, length)
	return h
}

func putChunk(h []byte, r *Request, flags, kind uint16, length int) {
	binary.BigEndian.PutUint32(h[0:], magicStructured)
	binary.BigEndian.PutUint16(h[4:], flags)
	binary.BigEndian.PutUint16(h[6:], kind)
	binary.BigEndian.PutUint64(h[8:], r.cookie)
	binary.BigEndian.PutUint32(h[16:], uint32(length))
}

// replyError answers with a number for the client's program and a text for its user.
func (c *Conn) replyError(r *Request, err error) {
	text := clip(err.Error())
	h := chunkHead(r, chunkDone, chunkError, chunkErrorBytes+len(text))
	h = binary.BigEndian.AppendUint32(h, uint32(code(err)))
	h = binary.BigEndian.AppendUint16(h, uint16(len(text)))
	c.write(append(h, text...))
}

// replyRead sends what was read.
func (c *Conn) replyRead(r *Request) {
	if zeros := r.zeros(); zeros {
		if c.structured && r.Flags&CmdFlagDF == 0 {
			c.replySparse(r)
			return
		}
		r.clearZeros() // the device may have left them out
	}
	const headRoom = chunkHeadBytes + chunkOffsetBytes
	b, n := r.Buffer, simpleReplyBytes
	if c.structured {
		n = headRoom
	}
	head := b.Whole[HeadRoom-n : HeadRoom]
	if c.structured {
		putChunk(head, r, chunkDone, chunkData, chunkOffsetBytes+len(r.Data))
		binary.BigEndian.PutUint64(head[chunkHeadBytes:], r.Offset)
	} else {
		putSimple(head, r, 0)
	}
	r.Buffer = nil
	c.wire.Send(b.Whole[HeadRoom-n:HeadRoom+len(r.Data)], b)
}

// zeros reports whether the device told of parts that read as zeros, and of all the rest. What does not add up is not believed.
func (r *Request) zeros() bool {
	total, zeros := uint64(0), false
	for _, e := range r.Extents {
		total += e.Length
		zeros = zeros || e.Flags&StatusZero != 0
	}
	return zeros && total == uint64(r.Length)
}

func (r *Request) clearZeros() {
	at := uint64(0)
	for _, e := range r.Extents {
		if e.Flags&StatusZero != 0 {
			clear(r.Data[at : at+e.Length])
		}
		at += e.Length
	}
}

// countdown releases a buffer when as many parts of it as were sent have been released.
type countdown struct {
	buffer *Buffer
	parts  atomic.Int32
}

// Release takes one part back.
func (d *countdown) Release() {
	if d.parts.Add(-1) == 0 {
		d.buffer.Release()
	}
}

// replySparse sends the parts that have data, and says of the others that they are zero.
func (c *Conn) replySparse(r *Request) {
	parts := merge(r.Extents, StatusZero)
	release := &countdown{buffer: r.Buffer}
	for _, e := range parts {
		if e.Flags&StatusZero == 0 {
			release.parts.Add(1)
		}
	}
	if release.parts.Load() > 0 {
		r.Buffer = nil // else reply gives it back
	}
	at := uint64(0)
	for i, e := range parts {
		flags := uint16(0)
		if i == len(parts)-1 {
			flags = chunkDone
		}
		if e.Flags&StatusZero != 0 {
			h := chunkHead(r, flags, chunkHole, chunkHoleBytes)
			h = binary.BigEndian.AppendUint64(h, r.Offset+at)
			c.write(binary.BigEndian.AppendUint32(h, uint32(e.Length)))
		} else {
			h := chunkHead(r, flags, chunkData, chunkOffsetBytes+int(e.Length))
			c.write(binary.BigEndian.AppendUint64(h, r.Offset+at))
			c.wire.Send(r.Data[at:at+e.Length], release)
		}
		at += e.Length
	}
}

// merge joins neighbours that do not differ in the flags that matter, in place.
func merge(extents []Extent, matter StatusFlags) []Extent {
	out := extents[:0]
	for _, e := range extents {
		e.Flags &= matter
		if n := len(out); n > 0 && out[n-1].Flags == e.Flags {
			out[n-1].Length += e.Length
		} else if e.Length > 0 {
			out = append(out, e)
		}
	}
	return out
}

// replyStatus sends the extents of a block status request. A device that found none knows nothing, which the protocol lets us say by an
// extent without flags.
func (c *Conn) replyStatus(r *Request) {
	extents := merge(r.Extents, StatusHole|StatusZero)
	if len(extents) == 0 {
		extents = []Extent{{Length: uint64(r.Length)}}
	}
	extents = extents[:min(len(extents), r.ExtentsMax)]
	payload := make([]byte, 0, 4+8*len(extents))
	payload = binary.BigEndian.AppendUint32(payload, allocationID)
	at := uint64(0)
	for _, e := range extents {
		if at >= uint64(r.Length) {
			break
		}
		n := e.Length
		if r.Flags&CmdFlagReqOne != 0 {
			n = min(n, uint64(r.Length))
		}
		n = min(n, math.MaxUint32/blockMinMax*blockMinMax) // the field has 32 bits; keep it a multiple of any block size
		payload = binary.BigEndian.AppendUint32(payload, uint32(n))
		payload = binary.BigEndian.AppendUint32(payload, uint32(e.Flags))
		at += n
		if n < e.Length {
			break // cut: the client asks again from there
		}
	}
	c.write(append(chunkHead(r, chunkDone, chunkBlockStatus, len(payload)), payload...))
}
