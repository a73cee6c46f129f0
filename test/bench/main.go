// Command bench measures godwit beside its named peers, in one run on one machine, and writes docs/benchmarks.md.
//
// Contenders take turns (A B B A ...), so that a drift of the machine hits both alike; every figure is a median with its spread; what
// godwit loses is written down like what it wins. Each section says the command that made it.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"time"
)

// A section is one measured question.
type section struct {
	key   string
	title string
	run   func(ctx context.Context, b *bench) (markdown string, err error)
}

var sections = []section{
	{"migrate", "Live block migration against raw virsh, blackout and downtime", measureMigrations},
	{"boot", "Boot call to ACTIVE", measureBoots},
	{"list", "GET /servers/detail with 1,000 servers", measureList},
	{"rss", "Idle resident memory", measureRSS},
}

// bench is what sections share.
type bench struct {
	binary string
	rounds int
	stage  *stage // the lab, brought up by the first section that needs it
}

func main() {
	log.SetFlags(log.Ltime)
	binary := flag.String("godwit", "bin/godwit", "the godwit program")
	out := flag.String("o", "", "Markdown file to write; standard output if empty")
	rounds := flag.Int("rounds", 10, "interleaved pairs of each comparison")
	only := flag.String("only", "", "comma-separated sections: migrate, boot, list, rss; all if empty")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	b := &bench{binary: *binary, rounds: *rounds}
	err := b.report(ctx, *out, strings.Split(*only, ","))
	b.close()
	if err != nil {
		log.Fatal(err)
	}
}

func (b *bench) report(ctx context.Context, out string, only []string) error {
	var doc strings.Builder
	fmt.Fprintf(&doc, "# Benchmarks\n\n%s\n", preface(ctx, b.rounds))
	for _, s := range sections {
		if only[0] != "" && !slices.Contains(only, s.key) {
			continue
		}
		log.Printf("measuring: %s", s.title)
		text, err := s.run(ctx, b)
		if err != nil {
			return fmt.Errorf("%s: %w", s.title, err)
		}
		fmt.Fprintf(&doc, "\n## %s\n\n`go run ./test/bench -only %s -rounds %d`\n\n%s", s.title, s.key, b.rounds, text)
	}
	if out == "" {
		_, err := os.Stdout.WriteString(doc.String())
		return err
	}
	return os.WriteFile(out, []byte(doc.String()), 0o644)
}

func preface(ctx context.Context, rounds int) string {
	kernel, _ := exec.CommandContext(ctx, "uname", "-r").Output()
	qemu, _ := exec.CommandContext(ctx, "sh", "-c", "qemu-system-x86_64 --version | head -1").Output()
	libvirt, _ := exec.CommandContext(ctx, "libvirtd", "--version").Output()
	return fmt.Sprintf(`Written by %s on %s: %d cores, Linux %s, %s, %s, %s.
Guests are emulated (TCG) where the machine cannot run KVM guests, which slows both sides of each comparison; ratios are what to read.
Contenders take turns (A B B A ...), %d rounds; figures are median (minimum to maximum, number of runs).`,
		"`make bench`", time.Now().UTC().Format("2006-01-02"), runtime.NumCPU(), strings.TrimSpace(string(kernel)), strings.TrimSpace(string(qemu)),
		strings.TrimSpace(string(libvirt)), runtime.Version(), rounds)
}
