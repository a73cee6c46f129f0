// Command build writes the test guest's disk image.
//
//	go run ./test/guest/build -o guest.qcow2
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"

	"github.com/godwit-cloud/godwit/test/guest"
)

func main() {
	out := flag.String("o", "", "where to write the image; without it the path in the cache is printed")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *out); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out string) error {
	if out != "" {
		return guest.Copy(ctx, out)
	}
	path, err := guest.Image(ctx)
	if err == nil {
		fmt.Println(path)
	}
	return err
}
