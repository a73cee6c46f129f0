package nbd

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// haggling is the client's side of the negotiation.
type haggling struct {
	conn net.Conn
	stop func() bool
	ctx  context.Context
}

// meet exchanges greetings and sets up TLS.
func meet(ctx context.Context, conn net.Conn, config *tls.Config) (*haggling, error) {
	n := &haggling{conn: conn, ctx: ctx}
	n.stop = context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	p := make([]byte, greetingBytes)
	if _, err := io.ReadFull(conn, p); err != nil {
		return nil, n.explain("greeting", err)
	}
	if binary.BigEndian.Uint64(p) != magicGreeting || binary.BigEndian.Uint64(p[8:]) != magicOption {
		return nil, violation("the server does not speak newstyle NBD")
	}
	flags := uint32(binary.BigEndian.Uint16(p[16:])) & (handshakeFixedNewstyle | handshakeNoZeroes)
	if flags&handshakeFixedNewstyle == 0 {
		return nil, violation("the server does not speak fixed newstyle NBD")
	}
	if flags&handshakeNoZeroes == 0 {
		return nil, violation("the server is older than 2013")
	}
	if _, err := conn.Write(binary.BigEndian.AppendUint32(nil, flags)); err != nil {
		return nil, n.explain("greeting", err)
	}
	if config == nil {
		return n, nil
	}
	if err := n.ask(OptStartTLS, nil, nil); err != nil {
		return nil, err
	}
	secured := tls.Client(conn, config)
	if err := secured.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("nbd: TLS: %w", err)
	}
	n.conn = secured
	return n, nil
}

// explain prefers the context's error to the deadline it caused.
func (n *haggling) explain(what string, err error) error {
	if ctxErr := n.ctx.Err(); ctxErr != nil {
		err = ctxErr
	}
	return fmt.Errorf("nbd: %s: %w", what, err)
}

// finish lets go of the context.
func (n *haggling) finish() error {
	if !n.stop() {
		return n.explain("negotiate", n.ctx.Err())
	}
	return nil
}

func (n *haggling) send(o Option, data []byte) error {
	p := binary.BigEndian.AppendUint64(nil, magicOption)
	p = binary.BigEndian.AppendUint32(p, uint32(o))
	p = binary.BigEndian.AppendUint32(p, uint32(len(data)))
	if _, err := n.conn.Write(append(p, data...)); err != nil {
		return n.explain("negotiate", err)
	}
	return nil
}

// optionError is a server's refusal of an option.
type optionError struct {
	option Option
	reply  optionReply
	text   string
}

// Error returns the refusal's text.
func (e *optionError) Error() string {
	return fmt.Sprintf("nbd: server refuses option %d with %#x %s", e.option, uint32(e.reply), e.text)
}

// Unwrap makes refusals that say so errors.Is(err, NotPermitted).
func (e *optionError) Unwrap() error {
	if e.reply == repErrPolicy || e.reply == repErrTLSRequired {
		return NotPermitted
	}
	return Invalid
}

// ask sends an option and takes the replies until the last; each gets those before it. A refusal is an optionError.
func (n *haggling) ask(o Option, data []byte, each func(r optionReply, p []byte) error) error {
	if err := n.send(o, data); err != nil {
		return err
	}
	for range repliesMax {
		r, p, err := n.reply(o)
		switch {
		case err != nil:
			return err
		case r == repAck:
			return nil
		case r&repError != 0:
			return &optionError{o, r, string(p)}
		case each == nil:
			return violation("unexpected reply %d to option %d", r, o)
		}
		if err := each(r, p); err != nil {
			return err
		}
	}
	return violation("more than %d replies to an option", repliesMax)
}

// repliesMax bounds the replies to one option: the exports of a server.
const repliesMax = 100_000

func (n *haggling) reply(o Option) (optionReply, []byte, error) {
	h := make([]byte, optionReplyHeadBytes)
	if _, err := io.ReadFull(n.conn, h); err != nil {
		return 0, nil, n.explain("negotiate", err)
	}
	length := binary.BigEndian.Uint32(h[16:])
	if binary.BigEndian.Uint64(h) != magicOptionRep || Option(binary.BigEndian.Uint32(h[8:])) != o || length > optionBytesMax {
		return 0, nil, violation("reply to option %d", o)
	}
	p := make([]byte, length)
	if _, err := io.ReadFull(n.conn, p); err != nil {
		return 0, nil, n.explain("negotiate", err)
	}
	return optionReply(binary.BigEndian.Uint32(h[12:])), p, nil
}

func (n *haggling) list() (out []Listing, err error) {
	err = n.ask(OptList, nil, func(r optionReply, p []byte) error {
		if r != repServer || len(p) < 4 || uint64(binary.BigEndian.Uint32(p)) > uint64(len(p)-4) {
			return violation("entry of the list of exports")
		}
		k := 4 + int(binary.BigEndian.Uint32(p))
		out = append(out, Listing{Name: string(p[4:k]), Description: string(p[k:])})
		return nil
	})
	return out, err
}

// agree asks for all we can use and enters transmission.
func (n *haggling) agree(c *Client, o ClientOptions) error {
	if !o.Simple {
		if err := n.structured(c, o.Export); err != nil {
			return err
		}
	}
	data := binary.BigEndian.AppendUint32(nil, uint32(len(o.Export)))
	data = append(data, o.Export...)
	data = binary.BigEndian.AppendUint16(data, 1)
	data = binary.BigEndian.AppendUint16(data, infoBlockSize)
	err := n.ask(OptGo, data, c.takeInfo)
	if err == nil && c.flags&FlagHasFlags == 0 {
		return violation("the server did not describe the export")
	}
	return err
}

// structured asks for structured replies and block status; a server that has none is none the worse.
func (n *haggling) structured(c *Client, export string) error {
	var refusal *optionError
	if err := n.ask(OptStructuredReply, nil, nil); errors.As(err, &refusal) {
		return nil
	} else if err != nil {
		return err
	}
	c.structured = true
	data := binary.BigEndian.AppendUint32(nil, uint32(len(export)))
	data = append(data, export...)
	data = binary.BigEndian.AppendUint32(data, 1)
	data = binary.BigEndian.AppendUint32(data, uint32(len(ContextAllocation)))
	data = append(data, ContextAllocation...)
	err := n.ask(OptSetMetaContext, data, func(r optionReply, p []byte) error {
		if r != repMetaContext || len(p) < 4 || string(p[4:]) != ContextAllocation {
			return violation("metadata context that nobody asked for")
		}
		c.status, c.context = true, binary.BigEndian.Uint32(p)
		return nil
	})
	if errors.As(err, &refusal) {
		return nil // OptGo will say what is wrong, if anything is
	}
	return err
}

// takeInfo takes one piece of information about the export.
func (c *Client) takeInfo(r optionReply, p []byte) error {
	if r != repInfo || len(p) < 2 {
		return violation("reply %d in answer to a request for information", r)
	}
	kind, p := binary.BigEndian.Uint16(p), p[2:]
	switch {
	case kind == infoExport && len(p) == 10:
		c.size, c.flags = binary.BigEndian.Uint64(p), ExportFlags(binary.BigEndian.Uint16(p[8:]))
	case kind == infoBlockSize && len(p) == 12:
		c.blockMin, c.payloadMax = binary.BigEndian.Uint32(p), min(binary.BigEndian.Uint32(p[8:]), payloadDefault)
		if c.blockMin == 0 || c.payloadMax < c.blockMin {
			return violation("block sizes %d and %d", c.blockMin, c.payloadMax)
		}
		c.payloadMax -= c.payloadMax % c.blockMin
	}
	return nil
}
