package openstack

import (
	"fmt"
	"strings"
)

// Stance is how godwit meets what a microversion brought.
type Stance string

// The stances. There is no fourth: a microversion is never half there.
const (
	// Honoured means the change is in force from this microversion on and, where the change removes or renames something, not before.
	Honoured Stance = "honoured"
	// Refused means the change concerns a feature godwit does not have; a request for it gets the answer in Change.How.
	Refused Stance = "refused"
	// Shared means the change has an honoured part and a part that concerns a feature godwit does not have; How names both.
	Shared Stance = "honoured, and refused in part"
)

// Change is what one microversion brought.
type Change struct {
	Minor  int    // of MAJOR.Minor
	What   string // what the service introduced
	Stance Stance
	How    string // how it is met: where it shows, or the answer that refuses it
}

// ChangeHonoured, ChangeRefused and ChangeShared make a row of a table of changes.
func ChangeHonoured(minor int, what, how string) Change { return Change{minor, what, Honoured, how} }

// ChangeRefused is described at ChangeHonoured.
func ChangeRefused(minor int, what, how string) Change { return Change{minor, what, Refused, how} }

// ChangeShared is described at ChangeHonoured.
func ChangeShared(minor int, what, how string) Change { return Change{minor, what, Shared, how} }

// ChangeDocument returns the document of a dialect's microversions. title is its heading; source names the package with the table, from which the
// document is made by its test.
func ChangeDocument(d *Dialect, title, source string, changes []Change) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n\n", title)
	fmt.Fprintf(&b, "Made from the table `Changes` in `%[1]s`; do not edit. `go test ./%[1]s -run TestMicroversionDocument -update` writes it anew.\n\n", source)
	fmt.Fprintf(&b, "godwit offers %s to %s. Each microversion is honoured or refused, never half: what it brought is in force from it on and unknown before it, or a request for it gets the answer named here.\n\n",
		d.Versions.Min, d.Versions.Max)
	b.WriteString("| version | brought | stance | how |\n|---|---|---|---|\n")
	cell := strings.NewReplacer("|", `\|`)
	for _, c := range changes {
		fmt.Fprintf(&b, "| %d.%d | %s | %s | %s |\n", d.Versions.Max.Major, c.Minor, cell.Replace(c.What), c.Stance, cell.Replace(c.How))
	}
	return b.String()
}
