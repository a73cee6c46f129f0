// Command nbdserver serves one volume of a store over a unix socket: the data path of `godwit volumes`, without its control plane, for
// comparison with other NBD servers. The volume is a real one, with an attachment that holds its epoch, so that what is measured includes
// everything a guest's request passes through. It serves until SIGTERM.
package main

import (
	"context"
	"errors"
	"flag"
	"log"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime/pprof"
	"syscall"

	"github.com/godwit-cloud/godwit/internal/blockserve"
	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/volume"
)

func main() {
	var o options
	flag.StringVar(&o.dir, "dir", "", "the store's directory")
	flag.StringVar(&o.volume, "volume", "", "the volume")
	flag.StringVar(&o.attachment, "attachment", "", "the attachment to open; clients ask for the export VOLUME/ATTACHMENT")
	flag.StringVar(&o.socket, "socket", "", "unix socket to listen on")
	flag.StringVar(&o.engine, "engine", string(blockserve.Auto), "auto, io_uring or threads")
	flag.BoolVar(&o.direct, "direct", false, "bypass the page cache")
	flag.StringVar(&o.profile, "profile", "", "file for a profile of the processor time, written at the end; none if empty")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := o.serve(ctx); err != nil {
		log.Fatal(err)
	}
}

type options struct {
	dir, volume, attachment, socket, engine, profile string
	direct                                           bool
}

func (o options) serve(ctx context.Context) (err error) {
	quiet := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	direct := volume.DirectOff
	if o.direct {
		direct = volume.DirectOn
	}
	store, err := volume.Open(ctx, volume.Options{Dir: o.dir, Name: "bench", Kind: "file", Direct: direct, Log: quiet})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close(context.WithoutCancel(ctx))) }()
	// Opened anew by every start: what is open already stays as it is.
	state, err := store.Inspect(ctx, cloud.VolumeID(o.volume))
	if err != nil {
		return err
	}
	call := volume.Call{Volume: state.ID, Generation: state.Generation + 1}
	if _, err := store.OpenAttachment(ctx, call, volume.Request{Attachment: cloud.AttachmentID(o.attachment), Host: "bench"}); err != nil {
		return err
	}
	server, err := blockserve.New(blockserve.Stores(store), blockserve.Options{Engine: blockserve.Engine(o.engine), Log: quiet})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	listener, err := net.Listen("unix", o.socket)
	if err != nil {
		return err
	}
	if err := server.Serve(listener, nil); err != nil {
		return err
	}
	if o.profile != "" {
		f, err := os.Create(o.profile)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	<-ctx.Done()
	return nil
}
