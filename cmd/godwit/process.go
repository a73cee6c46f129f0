package main

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/config"
)

func newLogger(level, format string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, cloud.Errorf(cloud.KindInvalid, "log_level %q: %w", level, err)
	}
	o := &slog.HandlerOptions{Level: l}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, o)), nil
	}
	return slog.New(slog.NewTextHandler(os.Stderr, o)), nil
}

// quieter is for the store: etcd tells at info what godwit's readers care for only when they debug it.
func quieter(log *slog.Logger) *slog.Logger {
	if log.Enabled(context.Background(), slog.LevelDebug) {
		return log
	}
	return slog.New(atLeast{log.Handler(), slog.LevelWarn})
}

// atLeast drops records below a level.
type atLeast struct {
	slog.Handler
	level slog.Level
}

// Enabled implements slog.Handler.
func (h atLeast) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level }

// WithAttrs implements slog.Handler.
func (h atLeast) WithAttrs(a []slog.Attr) slog.Handler {
	return atLeast{h.Handler.WithAttrs(a), h.level}
}

// WithGroup implements slog.Handler.
func (h atLeast) WithGroup(name string) slog.Handler {
	return atLeast{h.Handler.WithGroup(name), h.level}
}

// gcPercent trades processor for memory: both daemons idle most of the time with a live heap of some 10 MB, which Go would otherwise let double.
const gcPercent = 50

// limitMemory keeps the heap small, and within a soft limit if one is set, unless the environment says otherwise.
func limitMemory(bytes int64) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if bytes > 0 && os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(bytes)
	}
}

// firstPassedFD is where systemd's sockets begin.
const firstPassedFD = 3

// listenAPI returns the socket named "api" that systemd passes, or listens by itself.
func listenAPI(c config.Server) (net.Listener, error) {
	passed, err := passedSocket("api")
	if passed != nil || err != nil {
		return passed, err
	}
	l, err := net.Listen("tcp", c.APIListen)
	if err != nil {
		return nil, cloud.E(cloud.KindInvalid, "listen for the API (server.api_listen)", "", err)
	}
	return l, nil
}

// passedSocket implements sd_listen_fds_with_names for one name; nil when none was passed.
func passedSocket(name string) (net.Listener, error) {
	if pid := os.Getenv("LISTEN_PID"); pid != strconv.Itoa(os.Getpid()) {
		return nil, nil
	}
	n, err := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if err != nil {
		return nil, nil
	}
	names := strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	for i := range min(n, len(names)) {
		if names[i] != name {
			continue
		}
		f := os.NewFile(uintptr(firstPassedFD+i), name)
		defer f.Close() // FileListener duplicates it
		l, err := net.FileListener(f)
		if err != nil {
			return nil, fmt.Errorf("socket %q passed by the service manager: %w", name, err)
		}
		return l, nil
	}
	return nil, nil
}

// notify tells the service manager, if there is one, how the process is.
func notify(state string) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	conn, err := net.Dial("unixgram", path)
	if err != nil {
		return // nobody listens; the service manager will find out by its own means
	}
	defer conn.Close()
	_, _ = conn.Write([]byte(state))
}

// servePprof serves Go's profiler until ctx ends.
func servePprof(ctx context.Context, address string) error {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	server := &http.Server{Addr: address, Handler: mux, ReadHeaderTimeout: headerMax}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("profiler: %w", err)
	}
	return nil
}

// keyPart returns the blocks of a PEM file that are no certificates.
func keyPart(data []byte) []byte {
	var out bytes.Buffer
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			_ = pem.Encode(&out, block) // a buffer does not fail
		}
	}
	return out.Bytes()
}
