package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/godwit-cloud/godwit/internal/lab/nodeinit"
)

// probePeriod is how often a daemon that is coming up is tried. Daemons have no "I answer now" event that reaches across namespaces.
const probePeriod = 50 * time.Millisecond

// eventually calls try until it succeeds or ctx ends; the error then names the last failure.
func eventually(ctx context.Context, try func() error) error {
	tick := time.NewTicker(probePeriod)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		case <-tick.C:
		}
	}
}

// awaitControl waits for the supervisor of a node that was just started.
func (l *Lab) awaitControl(ctx context.Context, node string) error {
	err := eventually(ctx, func() error {
		if _, alive := readPID(l.Name, node); !alive {
			return nil // no use waiting; the call below reports it
		}
		_, err := l.call(ctx, node, nodeinit.OpStatus, "")
		return err
	})
	if err == nil {
		_, err = l.call(ctx, node, nodeinit.OpStatus, "")
	}
	if err != nil {
		return fmt.Errorf("node %s does not come up: %w", node, err)
	}
	return nil
}

// waitReady returns when the node's daemon answers: libvirtd its socket, the server its API, a volume service its port.
func (l *Lab) waitReady(ctx context.Context, node string) error {
	if node == Controller {
		return l.WaitAPI(ctx)
	}
	if l.isStorage(node) {
		return l.WaitVolumes(ctx, node)
	}
	if l.isGluster(node) {
		return l.waitGlusterd(ctx, node)
	}
	return l.WaitLibvirt(ctx, node)
}

// WaitVolumes waits until the volume service of a storage node takes connections. By then it has joined the server.
func (l *Lab) WaitVolumes(ctx context.Context, node string) error {
	err := eventually(ctx, func() error {
		ns, err := openNetwork(l.Name, node)
		if err != nil {
			return err
		}
		defer ns.Close()
		conn, err := dialIn(ctx, ns, "tcp", l.NBDAddr(node).String())
		if err != nil {
			return err
		}
		return conn.Close()
	})
	if err != nil {
		return fmt.Errorf("node %s: volume service: %w", node, err)
	}
	return nil
}

// WaitLibvirt waits until the libvirtd of a compute node answers a client. In a lab with agents that also means that the node's agent has
// joined the server, because libvirtd starts when the agent has installed its certificates.
func (l *Lab) WaitLibvirt(ctx context.Context, node string) error {
	err := eventually(ctx, func() error {
		// Cheap, and fails until there is something to ask.
		var d net.Dialer
		conn, err := d.DialContext(ctx, "unix", l.LibvirtSocket(node))
		if err != nil {
			return err
		}
		conn.Close()
		// libvirtd opens its socket before it knows whether its drivers work; only an answer proves that.
		_, err = l.Output(ctx, node, "virsh", "--connect", "qemu:///system", "uri")
		return err
	})
	if err != nil {
		return fmt.Errorf("node %s: libvirtd: %w", node, err)
	}
	return nil
}

// WaitAPI waits until the server answers a request, with whatever status.
func (l *Lab) WaitAPI(ctx context.Context) error {
	const answerMax = 2 * time.Second // a request accepted by a dying server is never answered
	err := eventually(ctx, func() error {
		ctx, cancel := context.WithTimeout(ctx, answerMax)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, l.APIURL()+"/", nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		return resp.Body.Close()
	})
	if err != nil {
		return fmt.Errorf("node %s: api: %w", Controller, err)
	}
	return nil
}

// LogFiles are the logs of all nodes' supervisors and daemons: NODE/UNIT.log.
func (l *Lab) LogFiles() []string {
	files, _ := filepath.Glob(filepath.Join(runDir(l.Name), "*", "*.log")) // the pattern is well-formed
	return files
}

// Logs quotes the ends of the lab's logs, for a report on a lab that is about to be removed with all its files.
func (l *Lab) Logs() string {
	const tailBytes = 1500
	var b strings.Builder
	for _, file := range l.LogFiles() {
		f, err := os.Open(file)
		if err != nil {
			continue
		}
		if size, err := f.Seek(0, io.SeekEnd); err == nil {
			f.Seek(max(0, size-tailBytes), io.SeekStart)
		}
		tail, _ := io.ReadAll(io.LimitReader(f, tailBytes))
		f.Close()
		if len(tail) > 0 {
			rel, _ := filepath.Rel(runDir(l.Name), file)
			fmt.Fprintf(&b, "\n--- %s\n%s", rel, strings.TrimSpace(string(tail)))
		}
	}
	return b.String()
}
