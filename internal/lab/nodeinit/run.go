package nodeinit

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/godwit-cloud/godwit/internal/lab/pingtrace"
)

// firstInheritedFD is the first descriptor after stdio.
const firstInheritedFD = 3

// Run turns the calling process into process 1 of the node described by the file at specPath. It then returns only on failure: a node
// ends by being killed. With Spec.Ping set it traces until its standard input ends.
func Run(specPath string) error {
	spec, err := ReadSpec(specPath)
	if err != nil {
		return err
	}
	if spec.Ping != nil {
		return pingtrace.Serve(*spec.Ping, os.Stdin, os.Stdout)
	}
	if os.Getpid() != 1 {
		return errors.New("lab init: must be process 1 of a new pid namespace")
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("lab", spec.Lab, "node", spec.Node)
	listeners := inherited(spec)
	// The control socket, the log files and the running binary are opened before the private mounts, which may hide their paths.
	control, err := net.Listen("unix", spec.Control)
	if err != nil {
		return fmt.Errorf("node %s: control socket: %w", spec.Node, err)
	}
	sup, err := newSupervisor(spec, listeners, log)
	if err != nil {
		return err
	}
	if err := enter(spec); err != nil {
		return fmt.Errorf("node %s: %w", spec.Node, err)
	}
	children := make(chan os.Signal, 1) // one pending SIGCHLD is enough: reaping takes all that have died
	signal.Notify(children, unix.SIGCHLD)
	signal.Ignore(unix.SIGHUP, unix.SIGPIPE)
	if err := sup.watch(); err != nil {
		return fmt.Errorf("node %s: %w", spec.Node, err)
	}
	go serveControl(control, sup.requests, log)
	log.Info("node is up")
	return sup.loop(children)
}

// inherited takes over the descriptors the maker passed: the tether, then the listeners.
func inherited(spec Spec) []*os.File {
	next := uintptr(firstInheritedFD)
	if spec.Tethered {
		go powerOffWithMaker(os.NewFile(next, "tether"))
		next++
	}
	var files []*os.File
	for _, name := range spec.Listeners {
		unix.CloseOnExec(int(next))
		files = append(files, os.NewFile(next, name))
		next++
	}
	return files
}

// powerOffWithMaker ends the node when the other end of the tether closes. Nothing is ever written to it.
func powerOffWithMaker(tether *os.File) {
	unix.CloseOnExec(int(tether.Fd()))
	io.Copy(io.Discard, tether)
	os.Exit(0) // the end of process 1 is the end of the whole pid namespace
}
