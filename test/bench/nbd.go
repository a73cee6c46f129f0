package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// nbdFileBytes is the size of the served file. It fits into the page cache of any machine that builds this project, and is larger than
// what a disk's own cache helps with.
const nbdFileBytes = 1 << 30

// aimed reports whether an aim speaks of the load. Those that none speaks of are measured in half of the rounds.
func (l load) aimed() bool { return l.random() && (l.depth == 1 || l.depth == deepQueue) }

func nbdLoads() []load {
	var out []load
	for _, rw := range []string{"randread", "randwrite"} {
		for _, depth := range []int{1, 16, deepQueue} {
			for _, jobs := range []int{1, 2} {
				out = append(out, load{rw, "4k", depth, jobs})
			}
		}
	}
	const sequentialDepth = 8
	for _, rw := range []string{"read", "write"} {
		out = append(out, load{rw, "256k", sequentialDepth, 1})
	}
	return append(out, load{rw: copyOut}, load{rw: copyIn})
}

// nbdRun is one turn of one contender.
type nbdRun struct {
	fioResult
	cpuMicros float64 // of the server, per request
	rss       float64 // MB, after the turn
}

// nbdCell is everything measured of one contender under one load.
type nbdCell struct {
	who  contender
	runs []nbdRun
}

func (c nbdCell) sample(of func(nbdRun) float64) sample {
	out := make(sample, len(c.runs))
	for i, r := range c.runs {
		out[i] = of(r)
	}
	return out
}

func (c nbdCell) speed() sample { return c.sample(func(r nbdRun) float64 { return r.perSecond }) }
func (c nbdCell) cpu() sample   { return c.sample(func(r nbdRun) float64 { return r.cpuMicros }) }
func (c nbdCell) p50() sample   { return c.sample(func(r nbdRun) float64 { return r.p50 }) }
func (c nbdCell) p99() sample   { return c.sample(func(r nbdRun) float64 { return r.p99 }) }
func (c nbdCell) rss() sample   { return c.sample(func(r nbdRun) float64 { return r.rss }) }

// bytesPerSecond is the speed in MiB/s.
func (c nbdCell) bytesPerSecond(l load) sample {
	return c.sample(func(r nbdRun) float64 { return r.perSecond * float64(l.blockBytes()) / mebibyte })
}

// nbdRow is one load in one mode.
type nbdRow struct {
	mode  cacheMode
	load  load
	cells []nbdCell
	file  nbdCell // ceiling: fio's io_uring engine on the bare file
}

// of finds a contender's cell.
func (r nbdRow) of(key string) (nbdCell, bool) {
	i := slices.IndexFunc(r.cells, func(c nbdCell) bool { return c.who.key == key })
	if i < 0 {
		return nbdCell{}, false
	}
	return r.cells[i], true
}

// bestPeer is the competitor with the best median; higher says which way is better.
func (r nbdRow) bestPeer(of func(nbdCell) sample, higher bool) nbdCell {
	var best nbdCell
	for _, c := range r.cells {
		if c.who.peer == ours || c.who.ceiling {
			continue
		}
		if best.runs == nil || of(c).median() > of(best).median() == higher {
			best = c
		}
	}
	return best
}

// measureNBD compares NBD servers.
func measureNBD(ctx context.Context, b *bench) (string, error) {
	var rows []nbdRow
	var places []string
	for _, mode := range []cacheMode{cached, direct} {
		if b.mode != "" && b.mode != string(mode) {
			continue
		}
		got, place, err := b.measureMode(ctx, mode)
		if err != nil {
			return "", fmt.Errorf("%s: %w", mode, err)
		}
		rows, places = append(rows, got...), append(places, fmt.Sprintf("%s: %s", mode, place))
	}
	if err := b.plotNBD(rows); err != nil {
		return "", err
	}
	return reportNBD(strings.Join(places, "; "), b, rows), nil
}

// Where the file is.
const (
	filesAuto = "auto" // xfs through the page cache, host with O_DIRECT
	filesXFS  = "xfs"  // XFS in a loop file: what volumes are best kept on. The loop device works in a kernel thread that needs a core of its own
	filesHost = "host" // the file system of the temporary directory
)

// measureMode makes a file, serves it by everyone and measures.
func (b *bench) measureMode(ctx context.Context, mode cacheMode) (_ []nbdRow, place string, err error) {
	disk, err := newScratch(ctx, b.files == filesXFS || b.files == filesAuto && mode == cached, 4*nbdFileBytes)
	if err != nil {
		return nil, "", err
	}
	defer func() { err = errors.Join(err, disk.remove(context.WithoutCancel(ctx))) }()
	what, err := b.prepareVolume(ctx, disk.dir)
	if err != nil {
		return nil, "", err
	}
	what.mode = mode
	rows, err := b.measureServers(ctx, disk.base, what)
	return rows, disk.what, err
}

// prepareVolume makes a store for each of our engines, with the same volume: its data file is one file, by a hard link. Two processes cannot
// serve one store.
func (b *bench) prepareVolume(ctx context.Context, dir string) (serving, error) {
	var s serving
	var err error
	if s.nbdserver, err = b.build(ctx, "./test/bench/nbdserver"); err != nil {
		return s, err
	}
	creator, err := b.build(ctx, "./test/bench/imagecopy")
	if err != nil {
		return s, err
	}
	image := filepath.Join(dir, "image")
	if err := fillRandom(image, nbdFileBytes, func(int64) bool { return true }); err != nil {
		return s, err
	}
	first, second := filepath.Join(dir, ringEngine), filepath.Join(dir, threadsEngine)
	if _, err := run(ctx, creator, "-image", image, "-dir", first, "-volume", benchVolume); err != nil {
		return s, err
	}
	if err := os.Remove(image); err != nil {
		return s, err
	}
	s.source = filepath.Join(dir, "source")
	if err := fillRandom(s.source, copyInBytes, func(int64) bool { return true }); err != nil {
		return s, err
	}
	if _, err := run(ctx, "cp", "--archive", "--link", first, second); err != nil {
		return s, err
	}
	if err := os.Remove(filepath.Join(second, "lock")); err != nil { // a hard link to the other's lock
		return s, err
	}
	s.stores = map[string]string{ringEngine: first, threadsEngine: second}
	s.file = filepath.Join(first, "volumes", benchVolume, "data")
	return s, nil
}

// measureServers has all servers of a mode up at once; those that wait for their turn use no processor time.
func (b *bench) measureServers(ctx context.Context, dir string, what serving) (rows []nbdRow, err error) {
	servers, err := b.startServers(ctx, dir, what)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stopServers(servers)) }()
	if what.mode == cached {
		if err := warm(what.file); err != nil {
			return nil, err
		}
	}
	if err := warm(what.source); err != nil {
		return nil, err
	}
	if err := b.weighConnections(ctx, dir, servers); err != nil {
		return nil, err
	}
	for _, l := range nbdLoads() {
		if b.loads != "" && !strings.Contains(l.String(), b.loads) {
			continue
		}
		row, err := b.measureLoad(ctx, dir, what, servers, l)
		if err != nil {
			return nil, err
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// weighConnections measures what a server spends on a client that connects and asks for next to nothing: the least of a few times, since all that
// comes on top is somebody else's doing.
func (b *bench) weighConnections(ctx context.Context, dir string, servers []server) error {
	const times = 3
	for i := range servers {
		s := &servers[i]
		for range times {
			before, err := s.cpu()
			if err != nil {
				return err
			}
			if _, err := runFio(ctx, dir, s.target(), load{"randread", "4k", 1, 1}, fioLimit{bytesMax: nbdFileBytes, requests: 1}); err != nil {
				return fmt.Errorf("%v: %w (server said: %s)", s, err, s.said.String())
			}
			after, err := s.cpu()
			if err != nil {
				return err
			}
			if spent := after - before; s.connection == 0 || spent < s.connection {
				s.connection = spent
			}
		}
	}
	return nil
}

// measureLoad runs the rounds of one load: each contender and the bare file once in a round, the order reversed every other time.
func (b *bench) measureLoad(ctx context.Context, dir string, what serving, servers []server, l load) (nbdRow, error) {
	row := nbdRow{mode: what.mode, load: l, file: nbdCell{who: bareFile}}
	var turns []func() error
	for _, s := range servers {
		if l.rw == copyIn && s.ceiling {
			continue // what takes everything and keeps nothing is no ceiling for what is flushed to a disk
		}
		at := len(row.cells)
		row.cells = append(row.cells, nbdCell{who: s.contender})
		turns = append(turns, func() error {
			r, err := b.turn(ctx, dir, s, what.source, l)
			row.cells[at].runs = append(row.cells[at].runs, r)
			return err
		})
	}
	if !l.copies() {
		turns = append(turns, func() error {
			r, err := runFio(ctx, dir, fioTarget{file: what.file, direct: what.mode == direct}, l, fioLimit{bytesMax: nbdFileBytes, span: b.span})
			row.file.runs = append(row.file.runs, nbdRun{fioResult: r})
			return err
		})
	}
	if err := interleave(b.roundsOf(l), turns); err != nil {
		return row, fmt.Errorf("%v: %w", l, err)
	}
	us, best := row.cells[0], row.bestPeer(nbdCell.cpu, false)
	log.Printf("  %s, %v: %s %.0f/s %.2f us; least CPU of the peers: %v %.0f/s %.2f us (load average %s)", what.mode, l, us.who, us.speed().median(),
		us.cpu().median(), best.who, best.speed().median(), best.cpu().median(), loadAverage())
	return row, nil
}

// roundsOf is how often a load is measured.
func (b *bench) roundsOf(l load) int {
	if l.aimed() {
		return b.rounds
	}
	return (b.rounds + 1) / 2
}

// turn lets the client loose on a server and reads what the server used. Requests of a copy are mebibytes; its connections are part of it.
func (b *bench) turn(ctx context.Context, dir string, s server, source string, l load) (nbdRun, error) {
	before, err := s.cpu()
	if err != nil {
		return nbdRun{}, err
	}
	var r fioResult
	setUp := time.Duration(0)
	if l.copies() {
		r, err = runNBDCopy(ctx, s.target(), source, l)
	} else {
		setUp = time.Duration(l.jobs) * s.connection
		r, err = runFio(ctx, dir, s.target(), l, fioLimit{bytesMax: nbdFileBytes, span: b.span})
	}
	if err != nil {
		return nbdRun{}, fmt.Errorf("%v: %w (server said: %s)", s, err, s.said.String())
	}
	after, err := s.cpu()
	if err != nil {
		return nbdRun{}, err
	}
	rss, err := s.rss()
	return nbdRun{fioResult: r, cpuMicros: float64(max(0, after-before-setUp).Nanoseconds()) / 1e3 / r.requests, rss: rss}, err
}

// interleave lets everyone have a turn in each round: A B B A A B ...
func interleave(rounds int, turns []func() error) error {
	for round := range rounds {
		order := slices.Clone(turns)
		if round%2 == 1 {
			slices.Reverse(order)
		}
		for _, turn := range order {
			if err := turn(); err != nil {
				return err
			}
		}
	}
	return nil
}

// build compiles one of our programs for this run.
func (b *bench) build(ctx context.Context, pkg string) (string, error) {
	if b.built == "" {
		dir, err := os.MkdirTemp("", "godwit-bench-bin-")
		if err != nil {
			return "", err
		}
		b.built = dir
	}
	out := filepath.Join(b.built, filepath.Base(pkg))
	_, err := run(ctx, "go", "build", "-o", out, pkg)
	return out, err
}
