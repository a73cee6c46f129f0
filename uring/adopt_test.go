package uring

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// descriptor gives away the socket of a connection of package net.
func descriptor(t testing.TB, c net.Conn) int {
	t.Helper()
	f, err := descriptorOf(c)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	defer c.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

// accepted returns both ends of a connection made by package net.
func accepted(t testing.TB) (ours, theirs net.Conn) {
	t.Helper()
	l := listen(t, "tcp")
	defer l.Close()
	theirs, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { theirs.Close() })
	if ours, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return ours, theirs
}

func TestAdoptedConnectionsAreServedLikeAcceptedOnes(t *testing.T) {
	server, err := newStack(t, StackOptions{}).ServeAdopted(service(echo), ServerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if server.Addr() != nil {
		t.Errorf("a server without a listener has the address %v", server.Addr())
	}
	for seed := range uint64(3) {
		ours, theirs := accepted(t)
		if err := server.Adopt(descriptor(t, ours), nil); err != nil {
			t.Fatal(err)
		}
		if err := echoes(theirs, 200_000, seed); err != nil {
			t.Error(err)
		}
	}
	if err := server.Close(); err != nil {
		t.Error(err)
	}
	ours, theirs := accepted(t)
	if err := server.Adopt(descriptor(t, ours), nil); err != nil {
		t.Errorf("adopting after Close: %v", err)
	}
	if n, err := theirs.Read(make([]byte, 1)); err == nil {
		t.Errorf("a closed server sent %d bytes", n)
	}
}

func TestAConnectionThatLeftTheLoopMayComeBackToAnotherSession(t *testing.T) {
	server, err := newStack(t, StackOptions{}).ServeAdopted(service(func(l *Link) Session {
		return &session{link: l, received: func(p []byte) int {
			l.Detach(func(fd int, unread []byte) {
				_ = l.server.Adopt(fd, service(func(back *Link) Session {
					back.Write(unread)
					return echo(back)
				}))
			})
			return 0
		}}
	}), ServerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := accepted(t)
	if err := server.Adopt(descriptor(t, ours), nil); err != nil {
		t.Fatal(err)
	}
	if err := echoes(theirs, 100_000, 1); err != nil {
		t.Error(err)
	}
}
