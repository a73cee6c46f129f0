package main

import (
	"context"
	"flag"
	"log"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// A section is one measured question.
type section struct {
	key   string
	title string
	run   func(ctx context.Context, b *bench) (markdown string, err error)
}

var sections = []section{
	{"nbd", "NBD servers side by side", measureNBD},
	{"copy", "Image copy", measureCopy},
	{"echo", "Echo servers: uring against Go's net, Java NIO and Netty", measureEcho},
	{"migrate", "Live block migration against raw virsh, blackout and downtime", measureMigrations},
	{"migrate-volume", "Live migration of a volume-backed guest against raw virsh", measureVolumeMigrations},
	{"migrate-shared", "Live migration on shared storage, against raw virsh and against block migration", measureSharedMigrations},
	{"boot", "Boot call to ACTIVE", measureBoots},
	{"recovery", "Power cut of a host to its guest running elsewhere", measureRecovery},
	{"day", "A recorded day in the lab", measureDay},
	{"list", "GET /servers/detail with 1,000 servers", measureList},
	{"rss", "Idle resident memory", measureRSS},
}

// spanDefault is long enough for thousands of requests one at a time, and short enough for many rounds.
const spanDefault = 300 * time.Millisecond

// bench is what sections share.
type bench struct {
	binary string
	out    string // the document; empty for standard output
	rounds int
	stage  *stage // the lab that is up, brought up by the first section that needs it
	built  string // directory of our programs, made when first needed

	// of the NBD section
	span               time.Duration
	files              string
	mode, loads, peers string // what to leave out while working on it; all if empty

	day dayOptions
}

func main() {
	log.SetFlags(log.Ltime)
	b := &bench{}
	flag.StringVar(&b.binary, "godwit", "bin/godwit", "the godwit program")
	flag.StringVar(&b.out, "o", "", "Markdown file to rewrite, plots go to benchmarks/ beside it; standard output and no plots if empty")
	flag.IntVar(&b.rounds, "rounds", 10, "interleaved rounds of each comparison")
	only := flag.String("only", "", "comma-separated sections: "+strings.Join(sectionKeys(), ", ")+"; all if empty")
	flag.DurationVar(&b.span, "span", spanDefault, "nbd, echo: how long each turn of a client lasts")
	flag.StringVar(&b.files, "files", filesAuto, "nbd: where the file is: xfs (in a loop file), host (the temporary directory's file system) or auto (xfs for the page cache, host for O_DIRECT)")
	flag.StringVar(&b.mode, "mode", "", "nbd: only this mode: \"page cache\" or \"O_DIRECT\"")
	flag.StringVar(&b.loads, "loads", "", "nbd: only loads whose name contains this, such as \"random read, depth 64\"")
	flag.StringVar(&b.peers, "peers", "", "nbd: only these contenders, by key, such as godwit,nbdkit")
	flag.StringVar(&b.day.traces, "day-traces", "", "day: folder with a day's traces in PlanetLab's format; a made-up day with the same statistics if empty")
	flag.DurationVar(&b.day.length, "day-length", 24*time.Hour, "day: how much of the day is lived through")
	flag.Float64Var(&b.day.speed, "day-speed", 60, "day: how many times as fast as it was")
	memory := flag.Int("prime", 0, "use so many bytes of memory once and end: what copy starts between turns")
	flag.Parse()
	if *memory > 0 {
		if err := prime(*memory); err != nil {
			log.Fatal(err)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := b.report(ctx, strings.Split(*only, ","))
	b.close()
	if err != nil {
		log.Fatal(err)
	}
}
