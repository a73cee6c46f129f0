package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"
)

// notes are what people wrote about a section's figures: where the time goes, what was tried. They are appended to it.
//
//go:embed notes/*.md
var notes embed.FS

// document is docs/benchmarks.md: an introduction and a part for each section, found by its title.
type document struct {
	parts map[string]string // by title, without the heading
}

const heading = "\n## "

// readDocument takes apart what an earlier run wrote; no file is an empty document.
func readDocument(path string) (*document, error) {
	d := &document{parts: map[string]string{}}
	if path == "" {
		return d, nil
	}
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return d, nil
	}
	if err != nil {
		return nil, err
	}
	for i, part := range strings.Split(string(raw), heading) {
		title, text, _ := strings.Cut(part, "\n")
		if i > 0 {
			d.parts[title] = strings.Trim(text, "\n")
		}
	}
	return d, nil
}

// text puts the document together, sections in their order. What no section wrote is dropped.
func (d *document) text(ctx context.Context) string {
	var out strings.Builder
	fmt.Fprintf(&out, "# Benchmarks\n\n%s\n", preface(ctx))
	for _, s := range sections {
		if part, there := d.parts[s.title]; there {
			fmt.Fprintf(&out, "%s%s\n\n%s\n", heading, s.title, part)
		}
	}
	return out.String()
}

// report runs sections and rewrites their parts of the document, one after the other, so that what was measured is kept when a later one
// fails. It returns what failed.
func (b *bench) report(ctx context.Context, only []string) error {
	for _, key := range only {
		if key != "" && !slices.ContainsFunc(sections, func(s section) bool { return s.key == key }) {
			return fmt.Errorf("no section is called %q; there are: %s", key, strings.Join(sectionKeys(), ", "))
		}
	}
	doc, err := readDocument(b.out)
	if err != nil {
		return err
	}
	var failed []error
	for _, s := range sections {
		if only[0] != "" && !slices.Contains(only, s.key) {
			continue
		}
		if ctx.Err() != nil {
			break
		}
		log.Printf("measuring: %s", s.title)
		load, begun := loadAverage(), time.Now()
		text, err := s.run(ctx, b)
		if err != nil {
			log.Printf("failed: %s: %v", s.title, err)
			failed = append(failed, fmt.Errorf("%s: %w", s.title, err))
			continue
		}
		log.Printf("measured in %v: %s", time.Since(begun).Round(time.Second), s.title)
		doc.parts[s.title] = strings.Trim(fmt.Sprintf("`%s`, %s; load average before %s, after %s.\n\n%s\n%s",
			b.commandLine(s.key), begun.UTC().Format("2006-01-02 15:04"), load, loadAverage(), text, note(s.key)), "\n")
		if b.out == "" {
			fmt.Printf("## %s\n\n%s\n\n", s.title, doc.parts[s.title])
		} else if err := os.WriteFile(b.out, []byte(doc.text(ctx)), 0o644); err != nil {
			return err
		}
	}
	return errors.Join(append(failed, ctx.Err())...)
}

// commandLine is what makes a section again.
func (b *bench) commandLine(key string) string {
	command := fmt.Sprintf("go run ./test/bench -only %s -rounds %d", key, b.rounds)
	if b.span != spanDefault && (key == "nbd" || key == "echo") {
		command += fmt.Sprintf(" -span %v", b.span)
	}
	if key == "day" {
		command += fmt.Sprintf(" -day-length %v -day-speed %g", b.day.length, b.day.speed)
		if b.day.traces != "" {
			command += " -day-traces DAY"
		}
	}
	for _, chosen := range []struct{ flag, value string }{{"mode", b.mode}, {"loads", b.loads}, {"peers", b.peers}} {
		if chosen.value != "" && key == "nbd" {
			command += fmt.Sprintf(" -%s %q", chosen.flag, chosen.value)
		}
	}
	return command
}

func sectionKeys() []string {
	var out []string
	for _, s := range sections {
		out = append(out, s.key)
	}
	return out
}

// note is what was written about a section, if anything.
func note(key string) string {
	text, err := notes.ReadFile("notes/" + key + ".md")
	if err != nil {
		return ""
	}
	return string(text)
}

func preface(ctx context.Context) string {
	version := func(command string) string {
		out, _ := exec.CommandContext(ctx, "sh", "-c", command+" 2>&1 | head -n 1").Output()
		return strings.TrimSpace(string(out))
	}
	versions := []string{
		"Linux " + version("uname -r"), version("qemu-system-x86_64 --version"), version("libvirtd --version"), runtime.Version(),
		version("nbdkit --version"), version("fio --version"), version("nbdcopy --version"),
	}
	return fmt.Sprintf(`Written by %s; every section says when and by which command it was measured. The machine of the last one: %d cores, %s.
Guests are emulated (TCG) where the machine cannot run KVM guests, which slows both sides of each comparison; ratios are what to read.
Contenders take turns (A B B A ...); figures are median (minimum to maximum, number of runs), ratios are taken pair by pair, of turns in the same round.`,
		"`make bench`", runtime.NumCPU(), strings.Join(versions, ", "))
}
