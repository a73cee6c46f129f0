package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// cacheMode is how servers open the file.
type cacheMode string

const (
	cached cacheMode = "page cache"
	direct cacheMode = "O_DIRECT"
)

// serving is what a server is to serve, and where.
type serving struct {
	file, socket string
	source       string // a file to copy to the server
	mode         cacheMode
	nbdserver    string            // our program
	stores       map[string]string // by engine of ours: a store whose only volume is the file
}

// The volume that is served, and its attachment.
const (
	benchVolume     = "6d1c7f0e-3c1a-4a53-9a53-2f3d0d4f6e01"
	benchAttachment = "8a52b9c6-7d55-4c0e-8b53-5a2f4a6f6e02"
)

// contender is one setting of one server.
type contender struct {
	peer    string // whose server it is
	setting string // what differs from its default, "default" if nothing
	key     string // short name in plots and file names
	pkg     string // Debian package of the program
	// drawn says in which modes the plots show it: all of ours, each peer's best, the ceilings. The tables show everyone.
	drawn  map[cacheMode]bool
	export string // empty: the default export
	// command is the server in the foreground; nil if it cannot do the mode.
	command func(s serving) []string
	// ceiling marks what is no competitor: it bounds what the client can see.
	ceiling bool
}

func (c contender) String() string {
	if c.setting == "" {
		return c.peer
	}
	return c.peer + ", " + c.setting
}

const ours = "godwit"

// Our engines, as the program calls them.
const (
	ringEngine    = "io_uring"
	threadsEngine = "threads"
)

var (
	inBoth   = map[cacheMode]bool{cached: true, direct: true}
	inCached = map[cacheMode]bool{cached: true}
	inDirect = map[cacheMode]bool{direct: true}
	inNone   = map[cacheMode]bool{}
)

// contenders are measured in this order and the reverse. nbdkit's file plugin has no direct I/O.
var contenders = []contender{
	{peer: ours, setting: "io_uring", key: "godwit", export: benchVolume + "/" + benchAttachment, drawn: inBoth, command: godwitServer(ringEngine)},
	{peer: ours, setting: "threads", key: "godwit-threads", export: benchVolume + "/" + benchAttachment, drawn: inBoth, command: godwitServer(threadsEngine)},
	{peer: "nbdkit file", setting: "default", key: "nbdkit", pkg: "nbdkit", drawn: inNone, command: nbdkit()},
	{peer: "nbdkit file", setting: "-t 1", key: "nbdkit-t1", pkg: "nbdkit", drawn: inCached, command: nbdkit("-t", "1")},
	{peer: "qemu-nbd", setting: "default", key: "qemu-nbd", pkg: "qemu-utils", drawn: inNone, command: qemuNBD("threads")},
	{peer: "qemu-nbd", setting: "aio=io_uring", key: "qemu-nbd-uring", pkg: "qemu-utils", drawn: inBoth, command: qemuNBD("io_uring")},
	{peer: "qemu-nbd", setting: "aio=native", key: "qemu-nbd-native", pkg: "qemu-utils", drawn: inDirect, command: qemuNBD("native")},
	{peer: "qemu-storage-daemon", setting: "default", key: "qsd", pkg: "qemu-system-common", drawn: inNone, command: storageDaemon("threads")},
	{peer: "qemu-storage-daemon", setting: "aio=io_uring", key: "qsd-uring", pkg: "qemu-system-common", drawn: inBoth, command: storageDaemon("io_uring")},
	{peer: "qemu-storage-daemon", setting: "aio=native", key: "qsd-native", pkg: "qemu-system-common", drawn: inDirect, command: storageDaemon("native")},
	{peer: "ceiling: nbdkit null", key: "null", pkg: "nbdkit", drawn: inBoth, ceiling: true, command: nullServer},
}

// bareFile is fio's io_uring engine on the file itself.
var bareFile = contender{peer: "ceiling: fio io_uring on the file", key: "file", drawn: inBoth, ceiling: true}

func godwitServer(engine string) func(serving) []string {
	return func(s serving) []string {
		command := []string{s.nbdserver, "-engine", engine, "-dir", s.stores[engine], "-volume", benchVolume, "-attachment", benchAttachment, "-socket", s.socket}
		if s.mode == direct {
			command = append(command, "-direct")
		}
		return command
	}
}

func nbdkit(options ...string) func(serving) []string {
	return func(s serving) []string {
		if s.mode == direct {
			return nil
		}
		return append(append([]string{"nbdkit", "-f", "-U", s.socket}, options...), "file", s.file)
	}
}

// nullServer bounds the client.
func nullServer(s serving) []string {
	return []string{"nbdkit", "-f", "-U", s.socket, "null", fmt.Sprint(int64(nbdFileBytes))}
}

// qemuNBD stays for more than one client (-t), and for two at a time (-e); all else but aio is its default.
func qemuNBD(aio string) func(serving) []string {
	return func(s serving) []string {
		command := []string{"qemu-nbd", "-t", "-e", "8", "-f", "raw", "-k", s.socket}
		if s.mode == direct {
			command = append(command, "--cache=none")
		} else if aio == "native" {
			return nil // it exists for O_DIRECT only
		}
		if aio != "threads" {
			command = append(command, "--aio="+aio)
		}
		return append(command, s.file)
	}
}

// noIOThread is why the storage daemon has no thread of its own for the export.
const noIOThread = `qemu-storage-daemon serves from its main loop, not from an iothread: with one (--object iothread,id=io --export ...,iothread=io), version 7.2 aborts as
soon as a client disconnects ("blockdev-nbd.c:62: nbd_blockdev_client_closed: Assertion ` + "`qemu_in_main_thread() && nbd_server'" + ` failed"). On one core it would gain nothing.
`

// storageDaemon exports from its main loop: see noIOThread.
func storageDaemon(aio string) func(serving) []string {
	return func(s serving) []string {
		file := "driver=file,node-name=file,filename=" + s.file
		if s.mode == direct {
			file += ",cache.direct=on"
		} else if aio == "native" {
			return nil
		}
		if aio != "threads" {
			file += ",aio=" + aio
		}
		return []string{
			"qemu-storage-daemon", "--blockdev", file, "--blockdev", "driver=raw,node-name=disk,file=file",
			"--nbd-server", "addr.type=unix,max-connections=8,addr.path=" + s.socket,
			"--export", "type=nbd,id=export,node-name=disk,name=,writable=on",
		}
	}
}

// server is a contender that runs.
type server struct {
	contender
	*process
	socket     string
	connection time.Duration // of its processor's time that a client costs which connects and leaves
}

// target is the server for the client.
func (s server) target() fioTarget { return fioTarget{socket: s.socket, export: s.export} }

func (s server) String() string { return s.contender.String() }

// startServers starts everyone who can do the mode; on an error none is left.
func (b *bench) startServers(ctx context.Context, dir string, base serving) (_ []server, err error) {
	var out []server
	defer func() {
		if err != nil {
			err = errors.Join(err, stopServers(out))
		}
	}()
	for _, c := range contenders {
		s := base
		s.socket = filepath.Join(dir, c.key+".sock")
		command := c.command(s)
		if command == nil || b.peers != "" && !slices.Contains(strings.Split(b.peers, ","), c.key) {
			continue
		}
		if c.pkg != "" {
			if _, err := program(command[0], c.pkg); err != nil {
				return out, err
			}
		}
		p, err := launch(ctx, command...)
		if err != nil {
			return out, err
		}
		out = append(out, server{contender: c, process: p, socket: s.socket})
		if err := p.await(ctx, func() bool { return listens(s.socket) }); err != nil {
			return out, err
		}
	}
	return out, nil
}

func stopServers(servers []server) error {
	var errs []error
	for _, s := range servers {
		errs = append(errs, s.stop(), removeSocket(s.socket))
	}
	return errors.Join(errs...)
}

func removeSocket(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func listens(socket string) bool {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// commandOf is the server's command line without its paths, for the report.
func commandOf(c contender, mode cacheMode) string {
	s := serving{file: "FILE", socket: "SOCKET", mode: mode, nbdserver: "nbdserver", stores: map[string]string{ringEngine: "STORE", threadsEngine: "STORE"}}
	command := c.command(s)
	return strings.Join(command, " ")
}
