package placement

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// reasonsShownMax bounds how many hosts an error text speaks of: it ends up in a server's fault, which people read. Explain shows all.
const reasonsShownMax = 3

// Explain returns the verdicts as a table for people: one line per host that fits, one per reason for the others.
func Explain(verdicts []cloud.Verdict) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "HOST\tVERDICT\tSCORE\tWHY")
	for _, v := range verdicts {
		if v.Fits {
			fmt.Fprintf(w, "%s\tfits\t%.3f\t\n", v.Host, v.Score)
			continue
		}
		for i, reason := range v.Reasons {
			host, verdict, score := string(v.Host), "refused", "-"
			if i > 0 {
				host, verdict, score = "", "", ""
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", host, verdict, score, reason)
		}
	}
	w.Flush() // a strings.Builder does not fail
	lines := strings.Split(b.String(), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return strings.Join(lines, "\n")
}

// NoValidHost returns the error for verdicts of which none fits: cloud.KindNoValidHost, in Nova's words, followed by the first hosts' reasons.
func NoValidHost(verdicts []cloud.Verdict) error {
	var b strings.Builder
	b.WriteString("No valid host was found.")
	if len(verdicts) == 0 {
		b.WriteString(" There are no hosts.")
	}
	for i, v := range verdicts {
		if i == reasonsShownMax {
			fmt.Fprintf(&b, " %d more hosts were refused.", len(verdicts)-i)
			break
		}
		fmt.Fprintf(&b, " %s: %s.", v.Host, strings.Join(v.Reasons, "; "))
	}
	return cloud.Errorf(cloud.KindNoValidHost, "%s", b.String())
}
