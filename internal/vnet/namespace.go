package vnet

import (
	"fmt"
	"os"
	"runtime"

	"github.com/vishvananda/netns"
)

// namespace is a network namespace to work in: the process's own when none is given.
type namespace struct {
	fd    netns.NsHandle
	given bool
}

// do runs f with the calling thread in the namespace. Sockets, /proc/sys/net and child processes made by f belong to it. f must not
// start goroutines that need it.
func (n namespace) do(f func() error) error {
	if !n.given {
		return f()
	}
	result := make(chan error, 1)
	go func() { // owned by this call, which waits
		runtime.LockOSThread()
		home, err := netns.Get()
		if err != nil {
			result <- fmt.Errorf("network namespace: %w", err)
			return // the thread stays locked and ends with the goroutine: nobody inherits a doubtful one
		}
		defer home.Close()
		if err := netns.Set(n.fd); err != nil {
			result <- fmt.Errorf("network namespace: %w", err)
			return
		}
		err = f()
		if netns.Set(home) == nil {
			runtime.UnlockOSThread()
		}
		result <- err
	}()
	return <-result
}

// newNamespace makes a network namespace without a name: it lives as long as the handle or something in it is open.
func newNamespace() (netns.NsHandle, error) {
	type made struct {
		ns  netns.NsHandle
		err error
	}
	result := make(chan made, 1)
	go func() { // owned by this call, which waits
		runtime.LockOSThread()
		home, err := netns.Get()
		if err != nil {
			result <- made{err: err}
			return
		}
		defer home.Close()
		ns, err := netns.New()
		if netns.Set(home) == nil {
			runtime.UnlockOSThread()
		}
		result <- made{ns, err}
	}()
	m := <-result
	if m.err != nil {
		return netns.None(), fmt.Errorf("make network namespace: %w", m.err)
	}
	return m.ns, nil
}

// setSysctl writes a parameter under /proc/sys/net of the namespace the calling thread is in.
func setSysctl(name, value string) error {
	return os.WriteFile("/proc/sys/net/"+name, []byte(value), 0)
}
