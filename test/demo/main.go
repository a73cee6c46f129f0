// Command demo is the walk-through an operator would type: three hosts and a volume service, an image, a guest on a local disk, one on a volume and, in a
// lab of its own, one on a GlusterFS of four nodes, and live migrations of all three with the stock OpenStack clients, to a named host and to one that placement picks.
// Every command is shown before it runs, progress while it works, and at the end a table of what was measured. The first lab stays up for a look around;
// `godwit lab down` removes it without a trace.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/lab"
	"github.com/godwit-cloud/godwit/test/guest"
	"github.com/godwit-cloud/godwit/test/labcloud"
)

const (
	serverName  = "vm-live-migration"
	networkName = "ncep-net"
	imageName   = "godwit-guest"
	flavorName  = "m1.guest"
)

func main() {
	godwit := flag.String("godwit", "bin/godwit", "the godwit program")
	name := flag.String("lab", lab.DefaultName, "name of the lab; one that exists is taken down first")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	d := &demo{godwit: *godwit, name: *name, lab: *name}
	if err := d.run(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "\ndemo: %v\nThe lab stays up for a look: %s lab status --name %s; %s lab down --name %s\n", err, d.godwit, d.lab, d.godwit, d.lab)
		os.Exit(1)
	}
}

type demo struct {
	godwit, name string
	lab          string // that is shown now
	cloud        *labcloud.Cloud
	peer         *lab.Peer
	shown        string // of the guest that is shown now
	server       *servers.Server
	talk         *guest.Client
	rows         []row
	logs         []string // what the guests' disk logs say at the end
}

// row is one measured migration.
type row struct {
	command  string
	from, to string
	record   cloud.Migration
	took     time.Duration // from the API call to ACTIVE on the target, as a client sees it
	blackout time.Duration
	lost     int
}

func (d *demo) run(ctx context.Context) error {
	for _, step := range []func(context.Context) error{d.bringUp, d.furnish, d.boot, d.walk, d.verify, d.bootFromVolume, d.walkVolume, d.verify, d.shareStorage} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return d.finish(ctx)
}

func heading(text string) { fmt.Printf("\n=== %s\n", text) }

// bringUp makes the lab by the command an operator would use.
func (d *demo) bringUp(ctx context.Context) error {
	heading("A lab of three compute hosts and a volume service: namespaces, each with real daemons")
	return d.up(ctx)
}

// up brings up the lab that is shown now, anew.
func (d *demo) up(ctx context.Context, options ...string) error {
	if _, err := lab.Load(d.lab); err == nil {
		if err := d.down(ctx); err != nil {
			return err
		}
	}
	if err := d.show(ctx, append([]string{d.godwit, "lab", "--name", d.lab, "up"}, options...)...); err != nil {
		return err
	}
	l, err := lab.Load(d.lab)
	if err != nil {
		return err
	}
	if d.cloud, err = labcloud.Attach(ctx, l); err != nil {
		return err
	}
	return d.cloud.WaitHosts(ctx, len(l.ComputeNodes()))
}

func (d *demo) down(ctx context.Context) error {
	return d.show(ctx, d.godwit, "lab", "--name", d.lab, "down")
}

// show runs a command of ours with its output on the terminal.
func (d *demo) show(ctx context.Context, argv ...string) error {
	fmt.Printf("$ %s\n", strings.Join(argv, " "))
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}

// client runs a stock client, shows the command and what it printed, reduced to the lines that keep names.
func (d *demo) client(ctx context.Context, argv []string, keep ...string) error {
	fmt.Printf("$ %s\n", strings.Join(argv, " "))
	out, err := d.cloud.Client(ctx, argv...)
	if err != nil {
		return err
	}
	for line := range strings.Lines(out) {
		if len(keep) == 0 || strings.HasPrefix(line, "+") || containsAny(line, keep) {
			fmt.Print("  ", line)
		}
	}
	return nil
}

func containsAny(line string, words []string) bool {
	for _, w := range words {
		if strings.Contains(line, "| "+w+" ") {
			return true
		}
	}
	return false
}

func words(s string) []string { return strings.Fields(s) }

func (d *demo) furnish(ctx context.Context) error {
	heading("An image, a flavor and a network, by the stock client")
	image, err := guest.Image(ctx)
	if err != nil {
		return err
	}
	for _, c := range []struct {
		line string
		keep []string
	}{
		{"openstack image create --disk-format qcow2 --container-format bare --file " + image + " " + imageName, []string{"name", "status", "size"}},
		{"openstack flavor create --ram 256 --disk 1 --vcpus 1 " + flavorName, []string{"name", "ram", "disk"}},
		{"openstack network create " + networkName, []string{"name", "status"}},
		{"openstack subnet create --network " + networkName + " --subnet-range 10.20.20.0/24 " + networkName, []string{"cidr", "allocation_pools"}},
	} {
		if err := d.client(ctx, words(c.line), c.keep...); err != nil {
			return err
		}
	}
	id, err := d.quiet(ctx, "openstack network show -f value -c id "+networkName)
	if err != nil {
		return err
	}
	nodes := d.cloud.Lab.ComputeNodes()
	d.peer, err = d.cloud.Peer(ctx, "pinger", id, nodes[len(nodes)-1])
	return err
}

func (d *demo) quiet(ctx context.Context, line string) (string, error) {
	out, err := d.cloud.Client(ctx, words(line)...)
	return strings.TrimSpace(out), err
}

func (d *demo) boot(ctx context.Context) error {
	heading("A guest that ticks, keeps a checksummed log on its disk and changes 8 MiB of memory a second")
	network, err := d.quiet(ctx, "openstack network show -f value -c id "+networkName)
	if err != nil {
		return err
	}
	return d.bootWith(ctx, serverName, "--nic net-id="+network)
}

// bootWith boots a guest by the stock client and waits until it answers.
func (d *demo) bootWith(ctx context.Context, name, options string) error {
	d.shown = name
	line := "nova boot --image " + imageName + " --flavor " + flavorName + " " + options +
		" --config-drive true --availability-zone nova:compute-1 --meta godwit.tick=100ms --meta godwit.log=20ms --meta godwit.dirty=8MiB --poll " + name
	if err := d.client(ctx, words(line), "name", "status", "flavor"); err != nil {
		return err
	}
	id, err := d.quiet(ctx, "openstack server show -f value -c id "+name)
	if err != nil {
		return err
	}
	if d.server, err = d.cloud.WaitStatus(ctx, id, "ACTIVE"); err != nil {
		return err
	}
	fmt.Print("waiting until the guest answers ... ")
	f := &labcloud.Fixture{Cloud: d.cloud, Peer: d.peer}
	if d.talk, err = f.Talk(ctx, d.server); err != nil {
		return err
	}
	s, err := d.talk.Status(ctx)
	fmt.Printf("up: boot id %s, address %s, metadata service seen: %v\n", s.BootID, s.IP, s.MetadataSeen)
	return err
}

func (d *demo) walk(ctx context.Context) error {
	heading("The walk-through")
	for _, line := range []string{"nova list", "openstack host list"} {
		if err := d.client(ctx, words(line)); err != nil {
			return err
		}
	}
	if err := d.where(ctx); err != nil {
		return err
	}
	return d.moves(ctx,
		"nova live-migration --block-migrate "+serverName+" compute-2",
		"nova live-migration --block-migrate "+serverName,
		"openstack --os-compute-api-version 2.30 server migrate --live-migration --block-migration --host HOST "+serverName,
		"openstack server migrate --live-migration --block-migration "+serverName,
	)
}

// moves runs migration commands one after another.
func (d *demo) moves(ctx context.Context, lines ...string) error {
	for _, line := range lines {
		if err := d.migrate(ctx, line); err != nil {
			return fmt.Errorf("%s: %w", line, err)
		}
		if err := d.where(ctx); err != nil {
			return err
		}
	}
	return nil
}

// where shows which host the guest is on, as the walk-through does.
func (d *demo) where(ctx context.Context) error {
	return d.client(ctx, words("nova show "+d.shown), "status", "updated", "OS-EXT-STS:task_state", "OS-EXT-SRV-ATTR:host")
}

// migrate runs one migration command and watches it, with a peer pinging the guest every millisecond.
func (d *demo) migrate(ctx context.Context, line string) error {
	s, err := d.cloud.Server(ctx, d.server.ID)
	if err != nil {
		return err
	}
	line = strings.Replace(line, "HOST", otherThan(s.Host), 1)
	known, err := d.cloud.Migrations(ctx, d.server.ID)
	if err != nil {
		return err
	}
	trace, err := d.peer.StartTrace(ctx, netip.MustParseAddr(labcloud.Address(d.server)), time.Millisecond)
	if err != nil {
		return err
	}
	if err := trace.AwaitReply(ctx); err != nil {
		return err
	}
	fmt.Println()
	looking, stop := context.WithCancel(ctx)
	defer stop()
	active := make(chan arrival, 1)
	go func() { active <- d.arrived(looking, s.Host) }()
	if err := d.client(ctx, words(line)); err != nil {
		return err
	}
	end, err := d.watch(ctx, len(known))
	if err != nil {
		return err
	}
	if end.Status != "completed" {
		return fmt.Errorf("ended %s: see %s why %s", end.Status, d.godwit, d.shown)
	}
	there := <-active
	if there.err != nil {
		return there.err
	}
	if _, err := d.talk.Status(ctx); err != nil { // the guest answers over the connection it had before
		return fmt.Errorf("the guest after its move: %w", err)
	}
	report, err := trace.Stop()
	if err != nil {
		return err
	}
	record, err := d.cloud.Record(ctx, end.UUID)
	if err != nil {
		return err
	}
	// The client's own start, a second of Python, is no part of the call: it began when the API took it.
	d.rows = append(d.rows, row{line, end.Source, end.Target, record, there.at.Sub(record.Created), report.Blackout, report.Lost})
	return nil
}

// An arrival is when a client that asks for the server sees it ACTIVE on another host.
type arrival struct {
	at  time.Time
	err error
}

func (d *demo) arrived(ctx context.Context, from string) arrival {
	err := labcloud.Until(ctx, "ACTIVE elsewhere than on "+from, func() (bool, error) {
		s, err := d.cloud.Server(ctx, d.server.ID)
		return err == nil && s.Status == "ACTIVE" && s.Host != from, err
	})
	return arrival{time.Now(), err}
}

func otherThan(host string) string {
	if host == "compute-1" {
		return "compute-2"
	}
	return "compute-1"
}

// watch prints the migration's progress until it has ended.
func (d *demo) watch(ctx context.Context, known int) (labcloud.Migration, error) {
	var last labcloud.Migration
	shown := ""
	err := labcloud.Until(ctx, "migration", func() (bool, error) {
		list, err := d.cloud.Migrations(ctx, d.server.ID)
		if err != nil || len(list) <= known {
			return false, err
		}
		last = labcloud.Newest(list)
		p, running, err := d.cloud.Progress(ctx, d.server.ID)
		if err != nil {
			return false, err
		}
		line := fmt.Sprintf("  %-10s %s -> %s", last.Status, last.Source, last.Target)
		if running {
			line += fmt.Sprintf("  memory left %s of %s, disks left %s of %s", mib(p.MemoryRemaining), mib(p.MemoryTotal), mib(p.DiskRemaining), mib(p.DiskTotal))
		}
		if line != shown {
			fmt.Println(line)
			shown = line
		}
		return last.Final(), nil
	})
	return last, err
}

func mib(bytes int64) string { return fmt.Sprintf("%d MiB", bytes>>20) }

// verify has the guest check every record that it ever wrote to its disk.
func (d *demo) verify(ctx context.Context) error {
	log, err := d.talk.Verify(ctx)
	if err != nil {
		return err
	}
	s, err := d.talk.Status(ctx)
	if err != nil {
		return err
	}
	d.logs = append(d.logs, fmt.Sprintf("%s never rebooted (boot id %s, up %v); its disk log of %d records is whole: %v.", d.shown, s.BootID,
		(time.Duration(s.UptimeMS)*time.Millisecond).Round(time.Second), log.Last, log.OK))
	if !log.OK {
		return fmt.Errorf("the disk log of %s is damaged", d.shown)
	}
	return d.talk.Close()
}

func (d *demo) finish(context.Context) error {
	heading("Measured")
	fmt.Printf("%-8s %-22s %-24s %10s %10s %10s %6s %12s\n", "kind", "asked with", "from -> to", "call to", "QEMU", "blackout", "pings", "bytes")
	fmt.Printf("%-8s %-22s %-24s %10s %10s %10s %6s %12s\n", "", "", "", "ACTIVE", "downtime", "(peer)", "lost", "moved")
	for _, r := range d.rows {
		t := r.record.Totals
		if t == nil {
			return errors.New("a completed migration has no totals")
		}
		fmt.Printf("%-8s %-22s %-24s %10s %10s %10s %6d %12s\n", r.record.Kind, short(r.command), r.from+" -> "+r.to, r.took.Round(time.Millisecond),
			t.Downtime.Round(time.Millisecond), r.blackout.Round(time.Millisecond), r.lost, mib(t.MemoryProcessed+t.DiskProcessed))
	}
	fmt.Println()
	for _, line := range d.logs {
		fmt.Println(line)
	}
	fmt.Printf(`
The lab stays up. Look around:
  source %s; openstack server list
  %s servers; %s hosts; %s migrations; %s why %s
Remove it without a trace:
  %s lab down --name %s
`, d.cloud.Lab.Path(lab.Controller, labcloud.OpenrcInside), d.godwit, d.godwit, d.godwit, d.godwit, serverName, d.godwit, d.name)
	return nil
}

// short names a command in a narrow column.
func short(command string) string {
	client := strings.Fields(command)[0]
	switch {
	case strings.Contains(command, "--host"), strings.HasSuffix(command, "compute-2"):
		return client + ", host named"
	default:
		return client + ", host picked"
	}
}
