package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// output is the -o flag: how results are printed.
type output struct{ format string }

func (o *output) check() error {
	if o.format != "table" && o.format != "json" {
		return fmt.Errorf("-o %s: want table or json", o.format)
	}
	return nil
}

func (o *output) json() bool { return o.format == "json" }

// A table is what people see: a header and rows.
type table struct {
	header []string
	rows   [][]string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// print writes value as JSON or t as a table. Empty cells are shown as "-", so that columns can be cut.
func (o *output) print(w io.Writer, value any, t table) error {
	if o.json() {
		return printJSON(w, value)
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range append([][]string{t.header}, t.rows...) {
		for i, cell := range row {
			if cell == "" {
				row[i] = "-"
			}
		}
		if _, err := fmt.Fprintln(tw, strings.Join(row, "\t")); err != nil {
			return err
		}
	}
	return tw.Flush()
}

func printJSON(w io.Writer, value any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(value)
}
