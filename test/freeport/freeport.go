// Package freeport finds ports on loopback for tests whose programs must be told where to listen. A port that the kernel chose and that was closed again may be given to
// any connection of any process before the program listens on it; these are of a range that the kernel gives to nobody, and none is found twice.
//
// Two processes that look at the same moment may find the same port; each begins at a random place, so hardly ever do.
package freeport

import (
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"testing"
)

const (
	first = 20000
	ports = 12000 // Linux gives away those from 32768 on
)

var (
	mu   sync.Mutex
	next = rand.IntN(ports) // guarded by mu
)

// Find returns a port of 127.0.0.1 on which nobody listens, over TCP and UDP.
func Find(t testing.TB) int {
	t.Helper()
	mu.Lock()
	defer mu.Unlock()
	for range ports {
		port := first + next
		next = (next + 1) % ports
		if free(port) {
			return port
		}
	}
	t.Fatalf("all ports from %d to %d are in use", first, first+ports-1)
	return 0
}

// Address is Find with the host before it.
func Address(t testing.TB) string {
	t.Helper()
	return address(Find(t))
}

func address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

func free(port int) bool {
	l, err := net.Listen("tcp4", address(port))
	if err != nil {
		return false
	}
	l.Close()
	c, err := net.ListenPacket("udp4", address(port))
	if err != nil {
		return false
	}
	c.Close()
	return true
}
