package uring

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/nettest"
)

func newStack(t testing.TB, o StackOptions) *Stack {
	t.Helper()
	s, err := NewStack(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// pair is a connected pair, both ends on the stack.
func pair(s *Stack) (a, b net.Conn, stop func(), err error) {
	l, err := s.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, nil, err
	}
	type result struct {
		c   net.Conn
		err error
	}
	accepted := make(chan result, 1)
	go func() {
		c, err := l.Accept()
		accepted <- result{c, err}
	}()
	a, err = s.Dial(context.Background(), "tcp", l.Addr().String())
	if err != nil {
		return nil, nil, nil, err
	}
	r := <-accepted
	return a, r.c, func() { a.Close(); r.c.Close(); l.Close() }, r.err
}

func TestConnSatisfiesTheContractOfNetConn(t *testing.T) {
	s := newStack(t, StackOptions{})
	nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) { return pair(s) })
}

func TestConnWithTooFewBuffersStillDeliversEverything(t *testing.T) {
	s := newStack(t, StackOptions{Buffers: 2, BufferBytes: 64})
	const pairs, size = 8, 64 << 10
	var wg sync.WaitGroup
	for range pairs {
		a, b, stop, err := pair(s)
		if err != nil {
			t.Fatal(err)
		}
		want := make([]byte, size)
		rand.Read(want)
		wg.Go(func() {
			if _, err := a.Write(want); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			defer stop()
			got := make([]byte, size)
			if _, err := io.ReadFull(b, got); err != nil || !bytes.Equal(got, want) {
				t.Errorf("received wrong bytes: %v", err)
			}
		})
	}
	wg.Wait()
}

func TestUnixSocketsToo(t *testing.T) {
	s := newStack(t, StackOptions{})
	path := filepath.Join(t.TempDir(), "s")
	l, err := s.Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		io.Copy(c, c)
		c.Close()
	}()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "hello")
	got := make([]byte, 5)
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "hello" {
		t.Errorf("%q %v", got, err)
	}
}

func TestHTTPOverTheRing(t *testing.T) {
	s := newStack(t, StackOptions{})
	l, err := s.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	body := bytes.Repeat([]byte("godwit "), 100_000)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Write(body)
	})}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	var wg sync.WaitGroup
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	for range 16 {
		wg.Go(func() {
			for range 4 {
				resp, err := client.Post("http://"+l.Addr().String(), "text/plain", bytes.NewReader(body))
				if err != nil {
					t.Error(err)
					return
				}
				got, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || !bytes.Equal(got, body) {
					t.Errorf("got %d bytes, %v", len(got), err)
				}
			}
		})
	}
	wg.Wait()
	if err := server.Close(); err != nil {
		t.Error(err)
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		t.Error(err)
	}
}

func TestReadDeadlineThenDataStillArrives(t *testing.T) {
	s := newStack(t, StackOptions{})
	a, b, stop, err := pair(s)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	b.SetReadDeadline(time.Now().Add(-time.Second))
	if _, err := b.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	b.SetReadDeadline(time.Time{})
	if _, err := a.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Read(make([]byte, 1)); err != nil {
		t.Error(err)
	}
}
