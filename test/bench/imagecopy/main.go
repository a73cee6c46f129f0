// Command imagecopy creates one volume from a raw image file, as the volume service does, for benchmarks.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/volume"
	"github.com/godwit-cloud/godwit/uring"
)

func main() {
	engine := flag.String("engine", "io_uring", "io_uring or threads")
	image := flag.String("image", "", "raw image file")
	id := flag.String("volume", "6d1c7f0e-3c1a-4a53-9a53-2f3d0d4f6e01", "id of the volume")
	dir := flag.String("dir", "", "directory of the store")
	flag.Parse()
	if err := create(context.Background(), *engine, *image, *dir, cloud.VolumeID(*id)); err != nil {
		log.Fatal(err)
	}
}

func create(ctx context.Context, engine, image, dir string, id cloud.VolumeID) (err error) {
	info, err := os.Stat(image)
	if err != nil {
		return err
	}
	o := volume.Options{Dir: dir, Name: "bench", Kind: "file"}
	switch engine {
	case "io_uring":
		loop, err := uring.NewLoop(uring.Options{})
		if err != nil {
			return err
		}
		defer loop.Close()
		o.Loop = loop
	case "threads":
	default:
		return fmt.Errorf("no engine is called %q", engine)
	}
	store, err := volume.Open(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close(ctx)) }()
	_, err = store.Create(ctx, volume.Call{Volume: id, Generation: 1},
		volume.Spec{Bytes: info.Size(), Source: volume.Source{Path: image}})
	return err
}
