package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"

	"github.com/godwit-cloud/godwit/uring"
)

// serve runs one echo server until its input ends. It prints its address and its process id.
func serve(kind string, single bool) error {
	var l net.Listener
	var closer io.Closer
	switch kind {
	case "net":
		plain, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		l, closer = plain, plain
		go accept(plain)
	case "conn":
		stack, err := uring.NewStack(uring.StackOptions{})
		if err != nil {
			return err
		}
		ring, err := stack.Listen(context.Background(), "tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		l, closer = ring, stack
		go accept(ring)
	case "loop":
		runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0), 2)) // the loop keeps one of them while it waits
		stack, err := uring.NewStack(uring.StackOptions{Ring: uring.Options{Entries: 1024, QuietWaits: true}})
		if err != nil {
			return err
		}
		plain, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		if _, err := stack.Serve(plain, echoes{}, uring.ServerOptions{SingleReceives: single}); err != nil {
			return err
		}
		l, closer = plain, stack
	default:
		return fmt.Errorf("no server is called %q", kind)
	}
	fmt.Printf("%s/%d\n", l.Addr(), os.Getpid())
	untilInputEnds()
	return closer.Close()
}

// bufferBytes is what the goroutine servers read with, and what the ring's receive buffers hold.
const bufferBytes = 16 << 10

func accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				fmt.Fprintln(os.Stderr, "accept:", err)
			}
			return
		}
		go func() {
			defer c.Close()
			p := make([]byte, bufferBytes)
			for {
				n, err := c.Read(p)
				if err != nil {
					return
				}
				if _, err := c.Write(p[:n]); err != nil {
					return
				}
			}
		}()
	}
}

// echoes is the service of the loop server.
type echoes struct{}

func (echoes) Accept(l *uring.Link) uring.Session { return echo{l} }

type echo struct{ link *uring.Link }

func (e echo) Received(p []byte) int {
	if len(p) >= holdMin {
		e.link.Send(p, e.link.Hold())
	} else {
		_, _ = e.link.Write(p) // never fails
	}
	return len(p)
}

// holdMin is from where on a copy costs more than the receive buffer it would free.
const holdMin = 2 << 10

func (e echo) Filled([]byte) {}
func (e echo) Ended()        { e.link.Close() }
func (e echo) Closed(error)  {}
