// Command labinit is the smallest program that can be process 1 of a lab node. Tests of other packages use it, so that a lab of bare
// libvirt hosts needs no godwit binary; in production `godwit lab init` does the same.
package main

import (
	"fmt"
	"os"

	"github.com/godwit-cloud/godwit/internal/lab/nodeinit"
)

func main() {
	if len(os.Args) != 4 || os.Args[1] != "lab" || os.Args[2] != "init" {
		fmt.Fprintln(os.Stderr, "usage: labinit lab init SPEC.json")
		os.Exit(2)
	}
	if err := nodeinit.Run(os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
