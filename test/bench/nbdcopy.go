package main

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// nbdcopy as a client of the servers, with its own settings (four connections of 64 requests of 256 KiB at most), pinned as fio is.
const (
	copyOut = "nbdcopy-from" // SERVER -> null:, everything
	copyIn  = "nbdcopy-to"   // FILE -> SERVER, with a flush at the end
	// copyInBytes is how much is copied to a server: enough that what it costs to begin does not show, little enough for a turn.
	copyInBytes = 256 << 20
)

// runNBDCopy runs the client on its core. The result counts mebibytes as requests; there is no latency.
func runNBDCopy(ctx context.Context, t fioTarget, source string, l load) (fioResult, error) {
	nbdcopy, err := program("nbdcopy", "libnbd-bin")
	if err != nil {
		return fioResult{}, err
	}
	command, mebibytes := []string{nbdcopy, t.uri(), "null:"}, float64(nbdFileBytes/mebibyte)
	if l.rw == copyIn {
		command, mebibytes = []string{nbdcopy, "--flush", source, t.uri()}, float64(copyInBytes/mebibyte)
	}
	cmd := pinned(ctx, clientCore, command...)
	begun := time.Now()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fioResult{}, fmt.Errorf("%s: %w: %s", strings.Join(command, " "), err, out)
	}
	return fioResult{perSecond: mebibytes / time.Since(begun).Seconds(), requests: mebibytes}, nil
}
