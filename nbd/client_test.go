package nbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// playback is a connection on which a server says what it once said, or what it never should. What it says after the negotiation is held back until
// the client has made its requests, or else nothing would be under way that it could answer.
type playback struct {
	in    *bytes.Reader
	asked chan struct{} // a request was written
	goOn  chan struct{} // closed when all were
}

func newPlayback(said []byte) *playback {
	return &playback{in: bytes.NewReader(said), asked: make(chan struct{}, len(asks)), goOn: make(chan struct{})}
}

func (p *playback) Read(b []byte) (int, error) {
	if len(b) == readBytes { // the reader of answers, not of the negotiation
		<-p.goOn
	}
	return p.in.Read(b)
}

func (p *playback) Write(b []byte) (int, error) {
	if len(b) == requestBytes && binary.BigEndian.Uint32(b) == magicRequest && binary.BigEndian.Uint16(b[6:]) != uint16(CmdDisc) {
		select {
		case p.asked <- struct{}{}:
		default: // a read in pieces: the server said that it takes no larger ones
		}
	}
	return len(b), nil
}

func (*playback) Close() error                     { return nil }
func (*playback) LocalAddr() net.Addr              { return nil }
func (*playback) RemoteAddr() net.Addr             { return nil }
func (*playback) SetDeadline(time.Time) error      { return nil }
func (*playback) SetReadDeadline(time.Time) error  { return nil }
func (*playback) SetWriteDeadline(time.Time) error { return nil }

// asks are the requests of the fuzzed client, with cookies from 1 on.
var asks = []func(c *Client) error{
	func(c *Client) error { _, err := c.ReadAt(make([]byte, 1000), 0); return err },
	func(c *Client) error { _, err := c.BlockStatus(0, 4096, 0); return err },
	func(c *Client) error { return c.Flush() },
}

// recorded is what a server of ours says to such a client. The device is done with the requests in the order of their arrival.
func recorded(f *testing.F, simple bool) []byte {
	w := newTape(f, &instant{t: f, size: 1 << 20}, &lent{}, Limits{})
	w.conn.structured, w.conn.status = !simple, !simple
	w.feed(requestHead(CmdRead, 0, 1, 0, 1000))
	w.feed(requestHead(CmdBlockStatus, 0, 2, 0, 4096))
	w.feed(requestHead(CmdFlush, 0, 3, 0, 0))
	n := negotiation(TLSOff)
	said := n.Greeting()
	k := (&talk{}).flags(3)
	if !simple {
		k.option(OptStructuredReply).option(OptSetMetaContext, "disk", uint32(1), ContextAllocation)
	}
	_, out, _ := n.Feed(k.option(OptGo, "disk", uint16(1), uint16(infoBlockSize)).Bytes(), nil)
	return append(append(said, out...), w.out...)
}

// A client survives whatever a server says: it comes back from every call, with an error or an answer.
func FuzzClient(f *testing.F) {
	f.Add(recorded(f, false), false)
	f.Add(recorded(f, true), true)
	f.Fuzz(func(t *testing.T, said []byte, simple bool) {
		p := newPlayback(said)
		c, err := NewClient(context.Background(), p, ClientOptions{Export: "disk", Simple: simple})
		if err != nil {
			return
		}
		var group sync.WaitGroup
		for _, ask := range asks { // one after another, for their cookies
			group.Go(func() { _ = ask(c) })
			<-p.asked
		}
		close(p.goOn)
		group.Wait()
		_ = c.Close()
	})
}

var _ io.ReaderAt = (*Client)(nil)
